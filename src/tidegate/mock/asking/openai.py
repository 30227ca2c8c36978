"""What the dialects of OpenAI share: how a mistake is worded."""

from tidegate.mock.ask import BadAsk
from tidegate.mock.asking.shapes import Mistake


def wording(mistake: Mistake) -> BadAsk:
    """Give a mistake in OpenAI's words."""
    path = mistake.path
    match mistake.kind:
        case "json":
            return BadAsk("We could not parse the JSON body of your request.")
        case "unknown":
            return bad(f"Unknown parameter: '{path}'.", path, "unknown_parameter")
        case "missing":
            return bad(f"Missing required parameter: '{path}'.", path, "missing_required_parameter")
        case _ if mistake.is_choice():
            return bad(f"Invalid value at '{path}': {mistake.words}", path, "invalid_value")
        case _:
            return bad(f"Invalid type for '{path}': {mistake.words}", path, "invalid_type")


def bad(words: str, param: str | None, code: str = "") -> BadAsk:
    """Give a refusal."""
    return BadAsk(words, param or None, code=code)
