"""A client of Responses: what it asks, and how it reads the answer."""

import json
from typing import Any

from matrix_chat import error_of
from matrix_heard import Call, Heard, Said, Tokens, Wrong, events, object_of

_LAST = {"response.completed", "response.incomplete", "response.failed"}
_WHOLE = {
    "response.output_text": "text",
    "response.refusal": "refusal",
    "response.reasoning_summary_text": "text",
    "response.function_call_arguments": "arguments",
}


def request(model: str, *, stream: bool, tools: list[Said], thinks: bool) -> Said:
    """Give the members of a request without its turns."""
    functions = [{"type": "function", "strict": False, **tool} for tool in tools]
    said: Said = {"model": model, "stream": stream, "store": False, "tools": functions}
    if thinks:
        said["reasoning"] = {"effort": "medium", "summary": "auto"}
        said["include"] = ["reasoning.encrypted_content"]
    return {name: value for name, value in said.items() if value != []}


def user(text: str, image: str = "") -> list[Any]:
    """Give a user's turn."""
    content: list[Said] = [{"type": "input_text", "text": text}]
    if image:
        content.append({"type": "input_image", "image_url": image, "detail": "auto"})
    return [{"role": "user", "content": content}]


def results(calls: list[tuple[str, str]]) -> list[Any]:
    """Give what the tools gave."""
    return [{"type": "function_call_output", "call_id": ident, "output": text} for ident, text in calls]


def with_turns(request: Said, turns: list[Any]) -> Said:
    """Give a whole request."""
    return request | {"input": turns}


def read_whole(body: bytes) -> Heard:
    """Read a whole answer."""
    said = json.loads(body)
    if "id" not in said:
        return Heard(error=error_of(said))
    return _heard(said)


def read_stream(body: bytes) -> Heard:
    """Read a stream."""
    reading = _Reading()
    for name, data in events(body):
        reading.take(name, json.loads(data))
    return reading.heard()


def _heard(response: Said) -> Heard:
    assert response["object"] == "response"
    assert response["status"] in {"completed", "incomplete"}
    assert response["error"] is None
    heard = Heard(turn=response["output"], ended=True, end=response["status"], tokens=_tokens(response["usage"]))
    if response["incomplete_details"]:
        heard.end += f": {response['incomplete_details']['reason']}"
    _add(heard, response["output"])
    assert len({item["id"] for item in response["output"]}) == len(response["output"])
    return heard


def _add(heard: Heard, items: list[Said]) -> None:
    for item in items:
        match item["type"]:
            case "reasoning":
                heard.thoughts += "".join(part["text"] for part in item["summary"])
            case "function_call":
                heard.calls.append(Call(item["call_id"], item["name"], object_of(item["arguments"])))
            case _:
                heard.text += "".join(part.get("text", "") for part in item["content"])
                heard.refusal += "".join(part.get("refusal", "") for part in item["content"])


def _tokens(usage: Said) -> Tokens:
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]
    return Tokens(
        usage["input_tokens"], usage["output_tokens"], usage["output_tokens_details"].get("reasoning_tokens", 0)
    )


class _Reading:
    """Follows the events of a response. Holds: `items` as they were added, and in their place as they are done."""

    def __init__(self) -> None:
        self.kinds: list[str] = []
        self.items: list[Said] = []
        self.done: set[int] = set()
        self.parts: dict[int, str] = {}
        self.said: dict[int, str] = {}
        self.spoken: dict[str, str] = {}
        self.response: Said | None = None

    def take(self, name: str, said: Said) -> None:
        assert name == said["type"]
        assert said["sequence_number"] == len(self.kinds)
        assert self.response is None
        self.kinds.append(name)
        if name in _LAST:
            self.response = said["response"]
        elif "response" in said:
            assert self.kinds in (["response.created"], ["response.created", "response.in_progress"])
            assert (said["response"]["status"], said["response"]["output"]) == ("in_progress", [])
        elif name.startswith("response.output_item."):
            self._item(name, said["output_index"], said["item"])
        else:
            assert said["item_id"] == self.items[said["output_index"]]["id"]
            assert said["output_index"] not in self.done
            self._inside(name, said["output_index"], said)

    def _item(self, name: str, index: int, item: Said) -> None:
        if name.endswith("added"):
            assert index == len(self.items)
            assert not any(item.get(member) for member in ("content", "summary", "arguments"))
            self.items.append(item)
            return
        was = self.items[index]
        assert index not in self.parts
        for member in ("id", "type", "call_id", "name"):
            assert was.get(member) == item.get(member)
        self.items[index] = item
        self.done.add(index)

    def _inside(self, name: str, index: int, said: Said) -> None:
        kind, _, what = name.rpartition(".")
        if kind.endswith("_part"):
            assert (index in self.parts) == (what == "done")
            if what == "added":
                self.parts[index] = self.said[index] = ""
            else:
                assert self.parts.pop(index) == (said["part"].get("text") or said["part"].get("refusal"))
            return
        assert (index in self.parts) == ("function_call" not in kind)
        if what == "delta":
            assert said["delta"]
            self.said[index] = self.said.get(index, "") + said["delta"]
            self.spoken[kind] = self.spoken.get(kind, "") + said["delta"]
        else:
            whole = said[_WHOLE[kind]]
            assert whole == (self.said.get(index) or "{}")
            if index in self.parts:
                self.parts[index] = whole

    def heard(self) -> Heard:
        """Give what was heard: all of it in the last event, unless the response has failed."""
        response = self.response
        assert response is not None
        if response["status"] == "failed":
            assert self.kinds[-1] == "response.failed"
            error = response["error"]
            return Heard(
                text=self.spoken.get("response.output_text", ""),
                error=Wrong("", error["message"], code=error["code"]),
            )
        assert self.kinds[-1] == f"response.{response['status']}"
        assert response["output"] == self.items
        assert self.done == {*range(len(self.items))}
        return _heard(response)
