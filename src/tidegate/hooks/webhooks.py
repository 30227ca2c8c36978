"""Tells addresses that clients named how their predictions go: in order, one request at a time, no more often than agreed.

What a prediction owes its address is a set of flags, not a queue of bodies: a body is made when its turn has come. When
it is over there is one body left, which stays until it is sent, given up, or lost for want of room.

    idle --output, logs--> waiting (a timer) --due--> sending (a task) --owes nothing--> idle
    idle --start, or due--> sending;  any --completed--> sending, last;  sending --owes what is not due--> waiting
"""

import asyncio
import io
import secrets
from collections.abc import Callable, Mapping
from typing import Final

import aiohttp
from aiohttp.abc import AbstractResolver
from msgspec import Struct
from structlog.typing import FilteringBoundLogger
from yarl import URL

from tidegate.hooks.addresses import GuardError, PrivateError, checked
from tidegate.hooks.guard import Door, reason
from tidegate.hooks.owed import Owed
from tidegate.hooks.settings import WebhookSettings
from tidegate.hooks.signature import key_of, signature
from tidegate.hooks.turns import Turns
from tidegate.kernel.backoff import JITTER, read_retry_after
from tidegate.tasks import Tasks

SENDERS: Final = 32
"""Requests at a time, of each of two sorts: last ones do not stand in line behind those that others will follow."""
SENDERS_OF_A_HOST: Final = 4
"""Of those, so many to one host: each may take as long as `timeout` to say nothing."""
FIRST_WAIT_S: Final = 0.2
MAX_WAIT_S: Final = 102.4
MAX_RETRY_AFTER_S: Final = 300.0
AGAIN: Final = frozenset({408, 425, 429})
"""Statuses below 500 that ask to be tried again."""
MAX_ANSWER_BYTES: Final = 64 * 1024
"""What is read of an answer, so that its connection can be used again; of a longer one the rest is cut off."""
PASSED: Final = frozenset({"traceparent", "tracestate"})
MAX_PASSED_CHARACTERS: Final = 512
MAX_OWED: Final = 10_000
MAX_OWED_BYTES: Final = 128 * 1024 * 1024
"""What ended predictions may owe, apart from what is being sent: a host may be silent for as long as it likes."""

Count = Callable[[str], None]
"""Hears of each: sent, retried, failed, refused, lost."""


class _Answer(Struct, frozen=True):
    """What came of one request. Shape: `again` says that another may do better, `wait_s` when its sender would have it."""

    fine: bool
    again: bool
    why: str
    wait_s: float = 0.0


class Webhooks:
    """Sends webhooks. Holds: a timer or a task for each hook that owes something; at most twice SENDERS requests.

    Holds: of ended predictions the bodies that are being sent, and `most` and `most_bytes` of others (see Owed).
    Shape: `wall` gives Unix time, `chance` a number below 1. Errors: ValueError when the secret is none.
    """

    def __init__(
        self,
        settings: WebhookSettings,
        *,
        agent: str,
        tasks: Tasks,
        clock: Callable[[], float],
        wall: Callable[[], float],
        log: FilteringBoundLogger,
        chance: Callable[[], float],
        count: Count = lambda _: None,
        resolver: AbstractResolver | None = None,
        most: int = MAX_OWED,
        most_bytes: int = MAX_OWED_BYTES,
    ) -> None:
        self.settings = settings
        self.tasks = tasks
        self.clock = clock
        self.wall = wall
        self.log = log
        self.chance = chance
        self.count = count
        self.key = key_of(settings.secret)
        self.door = Door(
            agent=agent,
            allow_private=settings.allow_private,
            connections=2 * SENDERS,
            decode=False,
            resolver=resolver,
        )
        self.early = Turns(SENDERS, SENDERS_OF_A_HOST)
        self.final = Turns(SENDERS, SENDERS_OF_A_HOST)
        self.sending_bytes = 0
        self._ended: dict[Hook, None] = {}
        self._waiting: Owed[Hook] = Owed(most, most_bytes)
        self._quiet = asyncio.Event()
        self.running: set[asyncio.Task[None]] = set()

    def hook(
        self,
        url: str,
        events: frozenset[str],
        headers: Mapping[str, str],
        snapshot: Callable[[], bytes],
        ids: Mapping[str, str],
    ) -> Callable[[str], None]:
        """Give what a prediction calls with `start`, `output`, `logs` and at last `completed`; it never waits or raises.

        Shape: `events` are those asked for; of `headers` the trace's are sent; `snapshot` gives the prediction as it is
        in JSON, and is called on the loop whenever a request is made; `ids` are on the lines of the log.
        A URL that is refused is logged, and nothing sent.
        """
        log = self.log.bind(**ids)
        try:
            target = checked(url, allow_private=self.settings.allow_private)
        except GuardError as error:
            log.warning("webhook_refused", reason=str(error))
            self.count("refused")
            return _unheard
        return Hook(self, target, events, _passed(headers), snapshot, log).notify

    @property
    def owed(self) -> int:
        """How many ended predictions owe a webhook."""
        return len(self._ended)

    def held(self) -> int:
        """Give the bytes that are being sent, and those that ended predictions owe."""
        return self.sending_bytes + self._waiting.bytes

    def owe(self, hook: "Hook") -> None:
        """Take note that an ended prediction owes something."""
        self._ended[hook] = None
        self._quiet.clear()

    def line_up(self, hook: "Hook", size: int, *, first: bool) -> None:
        """Hold what an ended prediction owes until it is sent; where there is no room, others lose what they owe."""
        if hook in self._waiting:
            return
        while (lost := self._waiting.excess()) is not None:
            lost.lose("too many are owed")
        self._waiting.add(hook, hook.place, size, first=first)

    def leave_line(self, hook: "Hook") -> None:
        """Hold it no more: it is being sent."""
        self._waiting.leave(hook)

    def settle(self, hook: "Hook") -> None:
        """Take note that a prediction owes nothing."""
        self._waiting.leave(hook)
        self._ended.pop(hook, None)
        if not self._ended:
            self._quiet.set()

    async def wait_delivered(self, timeout_s: float) -> bool:
        """Wait until no prediction that has ended owes a webhook; give whether that was within the time."""
        try:
            async with asyncio.timeout(timeout_s):
                while self._ended:
                    await self._quiet.wait()
        except TimeoutError:
            return False
        return True

    async def close(self) -> None:
        """Send nothing any more; what ended predictions still owe is counted, logged and lost."""
        self.door.closed = True
        lost = tuple(self._ended)
        for hook in lost:
            hook.lose("the server is shutting down")
        if lost:
            self.log.error("webhooks_lost", count=len(lost))
        for task in self.running:
            task.cancel()
        try:
            if self.running:
                await asyncio.wait(self.running)
        finally:
            await self.door.close()


class Hook:
    """What one prediction owes its address. Holds: a timer or a task while there is something; one small body at most.

    Holds: when it is over, its last body in place of the prediction, which may be gone by then.
    """

    __slots__ = (
        "_asking", "_events", "_final", "_first", "_headers", "_hooks", "_ident", "_last", "_log", "_number", "_over", "_owes",
        "_sent_at", "_snapshot", "_task", "_timer", "_url", "host", "place",
    )  # fmt: skip

    def __init__(
        self,
        hooks: Webhooks,
        url: URL,
        events: frozenset[str],
        headers: dict[str, str],
        snapshot: Callable[[], bytes],
        log: FilteringBoundLogger,
    ) -> None:
        self._hooks = hooks
        self._log = log
        self._url = url
        self.host = url.host or ""
        self.place = f"{url.host}:{url.port}"  # two ports are two receivers
        self._events = events
        self._headers = headers
        self._snapshot: Callable[[], bytes] | None = snapshot
        self._final: bytes | None = None
        self._asking = False
        self._ident = f"msg_{secrets.token_hex(16)}"
        self._number = 0
        self._first: bytes | None = None
        self._owes = False
        self._last = False
        self._over = False
        self._sent_at = float("-inf")
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None

    def notify(self, event: str) -> None:
        """Take note of what happened. Never waits, never raises; what follows `completed` is not heard."""
        if self._over or self._hooks.door.closed:
            return
        if event == "completed":
            self._end()
        elif event not in self._events:
            return
        elif event == "start":
            # Its body is made now: it says the same as a last one if the prediction ends before it is sent.
            self._first = self._body()
        else:
            self._owes = True
        self._go_on()

    def lose(self, why: str) -> None:
        """Send nothing of what it owes, and say so."""
        self._last = self._owes = False
        self._first = None
        self._stop_timer()
        if self._task is not None:
            self._task.cancel()
        self._settle()
        self._hooks.count("lost")
        self._log.warning("webhook_lost", host=self.host, reason=why)

    def _end(self) -> None:
        self._over = True
        if "completed" in self._events:
            self._last, self._owes = True, False
        if self._last or self._owes:
            self._final = self._body()
        self._snapshot = None
        if self._due_at_once or self._owes or self._task is not None:
            self._hooks.owe(self)
            if not self._asking:
                self._line_up(first=False)

    def _settle(self) -> None:
        if self._over:
            self._hooks.settle(self)

    def _line_up(self, *, first: bool) -> None:
        if self._over:
            self._hooks.line_up(self, len(self._final or b""), first=first)

    @property
    def _due_at_once(self) -> bool:
        return self._last or self._first is not None

    def _go_on(self) -> None:
        """Send what is due, or have a timer for what is not."""
        if self._task is not None or self._hooks.door.closed:
            return
        if not (self._due_at_once or self._owes):
            self._settle()
            return
        self._line_up(first=True)
        wait_s = 0.0 if self._due_at_once else self._left_s()
        if wait_s > 0:
            if self._timer is None:
                self._timer = asyncio.get_running_loop().call_later(wait_s, self._due)
        else:
            self._stop_timer()
            self._task = self._hooks.tasks.spawn(self._send())
            self._hooks.running.add(self._task)
            self._task.add_done_callback(self._sent)

    def _left_s(self) -> float:
        return self._sent_at + self._hooks.settings.interval_s - self._hooks.clock()

    def _due(self) -> None:
        self._timer = None
        self._go_on()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _sent(self, task: asyncio.Task[None]) -> None:
        self._task = None
        self._hooks.running.discard(task)
        if task.cancelled():
            return
        if (error := task.exception()) is not None:
            self._log.error("bug", at="webhook", exc_info=(type(error), error, error.__traceback__))
        self._go_on()

    def _body(self) -> bytes | None:
        if self._snapshot is None:
            return self._final
        try:
            return self._snapshot()
        except Exception:  # noqa: BLE001 (the prediction's own fault must not reach whoever notifies)
            self._log.exception("bug", at="webhook")
            return None

    # --- sending ---------------------------------------------------------------------------------------------------

    async def _send(self) -> None:
        """Send the one webhook whose turn it is. Shape: the flag is gone when this ends, whatever came of it."""
        if self._first is not None:
            first, self._first = self._first, None
            await self._send_early(lambda: first, "start")
        elif self._owes:
            await self._send_early(self._current, "output")
        else:
            self._last = False
            await self._send_last()

    def _current(self) -> bytes | None:
        """Give the body of now. Shape: None when it is owed no more, since the last one says all that it would."""
        owed, self._owes = self._owes, False
        return self._body() if owed else None

    async def _send_early(self, body: Callable[[], bytes | None], about: str) -> None:
        async with self._hooks.early.turn(self.place):
            data = body()
            if data is None:
                return
            answer = await self._ask(data)
        if answer.fine:
            self._hooks.count("sent")
        else:
            self._give_up(answer, about, 1)

    async def _send_last(self) -> None:
        hooks = self._hooks
        tries = max(1, hooks.settings.max_attempts)
        for attempt in range(1, tries + 1):
            async with hooks.final.turn(self.place):
                data = self._body()
                if data is None:
                    return
                answer = await self._ask(data, again=attempt > 1)
            if answer.fine:
                hooks.count("sent")
                return
            if not answer.again or attempt == tries:
                break
            hooks.count("retried")
            self._line_up(first=True)
            wait_s = min(MAX_WAIT_S, FIRST_WAIT_S * 2 ** (attempt - 1)) * (1 + JITTER * hooks.chance())
            await asyncio.sleep(max(wait_s, answer.wait_s))
        self._give_up(answer, "completed", attempt)

    def _give_up(self, answer: _Answer, about: str, tries: int) -> None:
        self._hooks.count("failed")
        self._log.warning("webhook_failed", host=self.host, about=about, reason=answer.why, attempts=tries)

    async def _ask(self, body: bytes, *, again: bool = False) -> _Answer:
        """Make one request. Holds: a connection, for `timeout` at most."""
        hooks = self._hooks
        self._number += not again
        self._sent_at = hooks.clock()
        self._asking = True
        hooks.leave_line(self)
        hooks.sending_bytes += len(body)
        try:
            async with (
                asyncio.timeout(hooks.settings.timeout_s or None),
                hooks.door.session().post(
                    # A stream and not the bytes, of which the library would copy many at once.
                    self._url,
                    data=io.BytesIO(body),
                    headers=self._signed(body),
                    allow_redirects=False,
                ) as response,
            ):
                await _read_some(response)
                return _judged(response.status, response.headers.get("retry-after"), hooks.wall())
        except PrivateError as error:
            return _Answer(fine=False, again=False, why=f"{error} (predictions.webhooks.allow_private allows it)")
        except GuardError as error:
            return _Answer(fine=False, again=False, why=str(error))
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            return _Answer(fine=False, again=True, why=reason(error))
        finally:
            self._asking = False
            hooks.sending_bytes -= len(body)

    def _signed(self, body: bytes) -> dict[str, str]:
        hooks = self._hooks
        ident, stamp = f"{self._ident}_{self._number}", int(hooks.wall())
        headers = {
            **self._headers,
            "content-type": "application/json",
            "webhook-id": ident,
            "webhook-timestamp": str(stamp),
        }
        if hooks.key:
            headers["webhook-signature"] = signature(hooks.key, ident, stamp, body)
        if hooks.settings.token:
            headers["authorization"] = f"Bearer {hooks.settings.token}"
        return headers


def _unheard(_event: str) -> None:
    """Stand for a hook whose URL was refused."""


def _passed(headers: Mapping[str, str]) -> dict[str, str]:
    """Give the trace's headers, so far as they can be sent."""
    return {
        name.lower(): value
        for name, value in headers.items()
        if name.lower() in PASSED and value.isascii() and value.isprintable() and len(value) <= MAX_PASSED_CHARACTERS
    }


async def _read_some(response: aiohttp.ClientResponse) -> None:
    size = 0
    async for chunk in response.content.iter_any():
        size += len(chunk)
        if size > MAX_ANSWER_BYTES:
            response.close()
            return


def _judged(status: int, retry_after: str | None, now: float) -> _Answer:
    if 200 <= status < 300:
        return _Answer(fine=True, again=False, why="")
    asked_s = read_retry_after(retry_after.encode("utf-8", "replace"), now) if retry_after else None
    return _Answer(
        fine=False,
        again=status >= 500 or status in AGAIN,
        why=f"the answer has the status {status}",
        wait_s=min(asked_s or 0.0, MAX_RETRY_AFTER_S),
    )
