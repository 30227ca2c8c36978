"""OpenAI's embeddings. Nothing is translated here: whole bodies pass, and are read for their usage."""

from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta, Raw, Struct

from tidegate.dialect.conversation import Conversation, Untranslatable, Written
from tidegate.dialect.openai_chat import OpenAIChat
from tidegate.dialect.requests import ABSENT, MAX_MODEL_CHARS, check_members, decoded, words_of
from tidegate.exchange import Ask
from tidegate.verdict import BAD_REQUEST, Refused

NAME: Final = "openai_embeddings"


class _Request(Struct, gc=False):
    model: Annotated[str, Meta(min_length=1, max_length=MAX_MODEL_CHARS)]
    input: Raw
    encoding_format: Literal["float", "base64"] | None = None
    user: Raw = ABSENT


_decode_request = msgspec.json.Decoder(_Request).decode
_decode_members = msgspec.json.Decoder(dict[str, Raw]).decode
_encode = msgspec.json.Encoder().encode

_RULES: Final = {
    "model": f"a string of 1 to {MAX_MODEL_CHARS} characters",
    "input": "a text, or an array of texts or tokens, and not empty",
    "encoding_format": "float, base64 or null",
}


class OpenAIEmbeddings(OpenAIChat):
    """The dialect of `/v1/embeddings`. Shape: errors and usage are those of the family; there are no streams."""

    __slots__ = ()

    name = NAME
    terminator = b""

    @staticmethod
    def read_request(body: bytes, /) -> Ask:
        """Read a client's request. Errors: Refused (bad_request) with the `param` that is wrong."""
        request = decoded(_decode_request, body, _wrong)
        given = bytes(request.input)
        if not given.startswith((b'"', b"[")) or len(given) == len('""'):
            raise _wrong("input")
        check_members(body)
        return Ask(
            model=request.model, stream=False, wants_usage=False, body=body, user=words_of(request.user), dialect=NAME
        )

    def write_request(self, ask: Ask, model: str, /) -> bytes:
        """Write the request for a provider's model. Shape: other members keep their bytes and their order."""
        if model == ask.model:
            return ask.body
        members = _decode_members(ask.body)
        members["model"] = Raw(_encode(model))
        return _encode(members)

    @staticmethod
    def read_conversation(body: bytes, /) -> Conversation:  # noqa: ARG004 (nothing in it could be said)
        """Refuse: nobody converses. Errors: Untranslatable."""
        raise Untranslatable("input", "embeddings cannot be asked of a provider that speaks another dialect")

    def write_conversation(self, conversation: Conversation, model: str, /) -> Written:  # noqa: ARG002 (as above)
        """Refuse: no embedding answers a conversation. Errors: Untranslatable."""
        raise Untranslatable(conversation.member("turns"), "a conversation cannot be said to a provider of embeddings")


def _wrong(param: str) -> Refused:
    return Refused(BAD_REQUEST, f"`{param}` must be {_RULES[param]}", param=param)
