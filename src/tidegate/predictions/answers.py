"""What clients of predictions are told: JSON in the shapes that Cog's clients know, errors included."""

from collections.abc import Mapping
from typing import Final

import msgspec

from tidegate.exchange import Client, Ending, ReplyHead
from tidegate.verdict import COMPLETED

JSON: Final = b"application/json"
EVENT_STREAM: Final = ReplyHead(200, ((b"content-type", b"text/event-stream"),))
ACCEPTED: Final = ((b"preference-applied", b"respond-async"),)


def plain_error(message: str) -> tuple[bytes, bytes]:
    """Give an error as Cog has it where there was none to be made, for `Fault.body`."""
    return JSON, msgspec.json.encode({"error": message})


def answer(client: Client, status: int, body: bytes, headers: tuple[tuple[bytes, bytes], ...] = ()) -> None:
    """Give a whole JSON answer."""
    length = b"%d" % len(body)
    client.start(ReplyHead(status, ((b"content-type", JSON), (b"content-length", length), *headers)))
    client.write(body)
    client.finish(Ending(COMPLETED))


def answer_members(client: Client, status: int, members: Mapping[str, object]) -> None:
    """Give a whole JSON answer of some members."""
    answer(client, status, msgspec.json.encode(members))
