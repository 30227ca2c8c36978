"""What a local provider needs of others: who counts, and who fetches files."""

from pathlib import Path
from typing import Protocol

from tidegate.kernel.allowance import Allowance


class Fetching(Protocol):
    """Fetches files from elsewhere."""

    def allowance(self) -> Allowance:
        """Give what the files of one prediction may take."""
        ...

    async def fetch(self, url: str, directory: Path, allowance: Allowance, /) -> tuple[Path | None, str]:
        """Fetch into a directory, and take what that takes. Shape: the file, or None and why not."""
        ...


class CallCounts(Protocol):
    """Counts calls and open streams. Shape: by the provider's configured name."""

    def provider_call_started(self, provider: str, /) -> None:
        """Count a call that begins."""
        ...

    def provider_call_ended(self, provider: str, /) -> None:
        """Count a call as over, whether it came to a stream or not."""
        ...

    def stream_opened(self, provider: str, /) -> None:
        """Count a stream that is open."""
        ...

    def stream_closed(self, provider: str, /) -> None:
        """Count a stream as over."""
        ...
