"""How those who asked for a prediction are answered: at its end, at once, or event by event."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from msgspec import json

from tidegate.exchange import Client, Ending, ReplyHead
from tidegate.kernel.backoff import retry_after
from tidegate.predictions.answers import ACCEPTED, EVENT_STREAM, answer, plain_error
from tidegate.predictions.prediction import Prediction
from tidegate.predictions.requests import Wish
from tidegate.verdict import BUG, CLIENT_GONE, CLIENT_SLOW, COMPLETED, QUEUE_FULL, RATE_LIMITED, Fault, Refused

MAX_WAIT_S: Final = 600.0
"""How long an answer is waited for that may come later, whatever the client says."""
CROWDED_RETRY_S: Final = 1.0
"""When to come again where too many follow: nobody knows when one of them leaves."""


class _Caller:
    """Who waits for a prediction's end with nothing else to do. Fits exchange.Flow.

    Shape: `answer` is called at that end, so that the answer waits neither for what is given back then nor for the loop.
    """

    __slots__ = ("_client", "_is_here", "_prediction")

    def __init__(self, prediction: Prediction, client: Client) -> None:
        self._prediction = prediction
        self._client = client
        self._is_here = True

    def pause(self) -> None:
        """There is nothing to hold back."""

    def resume(self) -> None:
        """Nothing was held back."""

    def gone(self) -> None:
        """Take notice that the client left."""
        if self._is_here:
            self._is_here = False
            self._prediction.depart()

    def answer(self) -> None:
        """Say what came of it, unless it was refused."""
        if self._is_here and self._prediction.fault is None:
            answer(self._client, 200, self._prediction.snapshot(full=False), self._prediction.headers)


async def answer_caller(prediction: Prediction, client: Client, exchange: Awaitable[None], max_queue: int) -> None:
    """Last as long as a prediction's exchange, and answer who waits for its end. Errors: Fault where it does not run."""
    caller = _Caller(prediction, client)
    prediction.at_end = caller.answer
    prediction.arrive()
    client.bind(caller)
    await exchange
    if prediction.fault is not None:
        raise _told(prediction.fault, max_queue)


async def answer_creator(
    prediction: Prediction, client: Client, wish: Wish, max_queue: int, chance: Callable[[], float]
) -> None:
    """Answer who made a prediction and does not wait for its end alone. Errors: Fault where it never was, or the client left."""
    try:
        async with client.present():
            await prediction.wait_decided()
    except Fault:
        if wish.mode == "events":
            _depart(prediction, client)
        raise
    if prediction.refused_early and prediction.fault is not None:
        raise _told(prediction.fault, max_queue)
    if wish.mode == "events":
        await follow(prediction, client, 0, chance, (*_applied(wish), *prediction.headers))
    elif await _over_within(prediction, client, wish.wait_s):
        answer(client, 200, prediction.snapshot(full=False), (*ACCEPTED, *prediction.headers))
    else:
        # Cog's clients know this word alone for one that was accepted.
        body = json.encode({"id": prediction.id, "status": "starting"})
        answer(client, 202, body, (*ACCEPTED, *prediction.headers))


async def answer_follower(
    prediction: Prediction, client: Client, wish: Wish, after: int | None, chance: Callable[[], float]
) -> Ending:
    """Answer who came to a prediction that is there. Errors: Fault where it never ran, or the client left."""
    if wish.detached:
        prediction.detach()
    if wish.mode == "events":
        return await follow(prediction, client, after, chance, _applied(wish))
    if not await _over_within(prediction, client, None if wish.mode == "sync" else wish.wait_s):
        answer(client, 202, prediction.snapshot(full=True), ACCEPTED)
    elif prediction.refused_early and prediction.fault is not None:
        raise prediction.fault
    else:
        answer(client, 200, prediction.snapshot(full=False), _applied(wish))
    return Ending(COMPLETED)


async def follow(
    prediction: Prediction,
    client: Client,
    after: int | None,
    chance: Callable[[], float],
    headers: tuple[tuple[bytes, bytes], ...] = (),
) -> Ending:
    """Answer with its events, until the last; gives how that ended. Errors: Refused when too many do so already."""
    if prediction.refused_early and prediction.fault is not None:
        raise prediction.fault
    client.start(ReplyHead(EVENT_STREAM.status, (*EVENT_STREAM.headers, *headers)))
    subscription = prediction.attach(client, after)
    if subscription is None:
        message = "too many follow this prediction"
        wait = retry_after(CROWDED_RETRY_S, chance())
        raise Refused(RATE_LIMITED, message, headers=(wait,), body=plain_error(message))
    try:
        await subscription.wait_over()
    finally:
        if not subscription.over:
            subscription.gone()
    if subscription.departed:
        return Ending(CLIENT_GONE)
    if subscription.broken:
        return Ending(BUG)
    return Ending(COMPLETED if subscription.place == prediction.history.newest else CLIENT_SLOW)


def _applied(wish: Wish) -> tuple[tuple[bytes, bytes], ...]:
    """Give the headers that say which wish was granted."""
    return ACCEPTED if wish.detached else ()


def _depart(prediction: Prediction, client: Client) -> None:
    """Let a client that is gone be counted as one that followed and left."""
    subscription = prediction.attach(client)
    if subscription is not None and not subscription.over:
        subscription.gone()


async def _over_within(prediction: Prediction, client: Client, seconds: float | None) -> bool:
    """Wait for its end as long as the client does, and no longer than that. Errors: Fault when the client left."""
    if prediction.over or seconds == 0.0:
        return seconds != 0.0  # who wants no wait is answered so, whatever it has come to
    try:
        async with client.present(), asyncio.timeout(None if seconds is None else min(seconds, MAX_WAIT_S)):
            await prediction.wait_over()
    except TimeoutError:
        return False
    return True


def _told(fault: Fault, max_queue: int) -> Fault:
    """Give a refusal as it is told. Shape: where nobody may wait, a full model is Cog's conflict."""
    if fault.verdict is QUEUE_FULL and max_queue == 0:
        return Refused(QUEUE_FULL, "at capacity: all slots of the model are in use", status=409)
    return fault
