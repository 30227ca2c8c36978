"""What a prediction may take of what the gateway fetches, and how that is closed: what cannot be is logged, and keeps nothing else open."""

import asyncio
import time
from random import Random

from structlog.testing import capture_logs

from tidegate.assemble.outbound import Outbound, closed
from tidegate.hooks.settings import FileSettings, WebhookSettings
from tidegate.tasks import Tasks


def test_what_does_not_close_in_time_or_fails_is_logged_and_not_raised() -> None:
    ended: list[str] = []

    async def stuck() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("stuck")

    async def broken() -> None:
        ended.append("broken")
        raise OSError

    async def fine() -> None:
        ended.append("fine")

    async def work() -> None:
        for each in (stuck, broken, fine):
            await closed(each(), 0.05)

    with capture_logs() as lines:
        asyncio.run(work())
    assert ended == ["stuck", "broken", "fine"]
    assert [(line["event"], line["at"]) for line in lines] == [("bug", "outbound")] * 2


def test_files_of_a_prediction_have_their_time_and_as_much_again_for_the_line() -> None:
    for timeout_s, most_s in ((7.0, 7.0), (0.0, None)):
        settings = FileSettings(max_bytes=5, timeout_s=timeout_s)
        outbound = Outbound(settings, WebhookSettings(), tasks=Tasks(), clock=time.monotonic, chance=Random(1))
        allowance = outbound.allowance()
        assert (allowance.left_bytes, allowance.left_s, allowance.line_s) == (5, most_s, most_s)
        assert (outbound.owed, outbound.held()) == (0, 0)


class _Broken:
    async def close(self) -> None:
        raise TimeoutError


class _Fine:
    closed = False

    async def close(self) -> None:
        self.closed = True


def test_files_are_closed_though_webhooks_cannot_be() -> None:
    outbound = Outbound(FileSettings(), WebhookSettings(), tasks=Tasks(), clock=time.monotonic, chance=Random(1))
    outbound._webhooks, outbound._files = _Broken(), (files := _Fine())
    with capture_logs() as lines:
        asyncio.run(outbound.close())
    assert files.closed
    assert [line["event"] for line in lines] == ["bug"]
