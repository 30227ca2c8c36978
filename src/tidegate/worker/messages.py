"""What a worker's process and the gateway tell each other: msgpack, each message behind its length in four bytes.

Shape: `number` names one prediction on one worker, from 1; 0 is the worker itself. JSON that only passes through stays bytes.
"""

from typing import Final, Literal

from msgspec import Raw, Struct

from tidegate.kernel.telling import Mode, Source, Status

MAX_MESSAGE_BYTES: Final = 1024 * 1024 * 1024
"""What is larger is no message but a peer gone wrong."""

INPUT_ERROR: Final = "Input validation error: "
"""What the error of a prediction begins with whose input is at fault; what follows may quote it."""


class Info(Struct, frozen=True, kw_only=True):
    """What a handler is, as it was found by looking at it.

    Shape: `openapi` is the document for clients, `input_schema` a JSON Schema of `input`. `files` are the inputs that are
    files, or lists of them; `parameters` are all inputs. `streams` says that clients may have server-sent events, `array` that the output is a list;
    `takes` is `prompt` or `messages` where the handler can answer chats, else empty. `slots` run in one process at a time.
    """

    openapi: Raw
    input_schema: Raw
    files: tuple[str, ...] = ()
    parameters: tuple[str, ...] = ()
    streams: bool = False
    array: bool = False
    takes: Literal["", "prompt", "messages"] = ""
    slots: int = 1
    checks_health: bool = False


# --- to the worker -------------------------------------------------------------------------------------------------


class Begin(Struct, frozen=True, array_like=True, tag=1):
    """Load a handler (`file.py:Name` or `package.module:Name`) and set it up. Shape: `directory` is for temporary files."""

    handler: str
    directory: str


class Predict(Struct, frozen=True, array_like=True, tag=2):
    """Run it. Shape: `input` is a JSON object; `files` are the paths of inputs that are files, in order, by name."""

    number: int
    id: str
    input: bytes
    context: dict[str, str]
    files: dict[str, list[str]]


class Cancel(Struct, frozen=True, array_like=True, tag=3):
    """Stop a prediction: ask it first, then raise in it."""

    number: int


class Check(Struct, frozen=True, array_like=True, tag=4):
    """Ask the handler's own `healthcheck`. Shape: `number` counts the checks."""

    number: int


class Stop(Struct, frozen=True, array_like=True, tag=5):
    """Exit, now that nothing runs."""


ToWorker = Begin | Predict | Cancel | Check | Stop


# --- from the worker -----------------------------------------------------------------------------------------------


class Ready(Struct, frozen=True, array_like=True, tag=11):
    """The handler is set up. Shape: `info` is the JSON of an Info."""

    info: bytes


class SetupFailed(Struct, frozen=True, array_like=True, tag=12):
    """The handler cannot be loaded or set up; the process ends."""

    error: str
    traceback: str


class Item(Struct, frozen=True, array_like=True, tag=13):
    """One element of an output that is a list. Shape: JSON."""

    number: int
    chunk: bytes


class Log(Struct, frozen=True, array_like=True, tag=14):
    """What was printed. Shape: whole lines, such as a carriage return ends too; a part of one after a moment, and at the end."""

    number: int
    source: Source
    text: str


class Metric(Struct, frozen=True, array_like=True, tag=15):
    """A metric as it was recorded. Shape: `value` is JSON; null with `replace` deletes."""

    number: int
    name: str
    value: bytes
    mode: Mode


class Ended(Struct, frozen=True, array_like=True, tag=16):
    """A prediction is over and its place free.

    Shape: `value` is the JSON of an output that is no list; `array` says that the output is one, were it empty.
    """

    number: int
    status: Status
    value: bytes | None = None
    array: bool = False
    error: str = ""
    traceback: str = ""


class Checked(Struct, frozen=True, array_like=True, tag=17):
    """What `healthcheck` said. Shape: `error` is empty for a healthy model."""

    number: int
    error: str


FromWorker = Ready | SetupFailed | Item | Log | Metric | Ended | Checked
