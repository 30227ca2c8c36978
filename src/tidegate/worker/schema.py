"""Whether inputs can be checked against the schema that a handler's type hints make. Loads the validator, which takes 3 MB."""

import jsonschema_rs
from jsonschema_rs import ValidationError


def trouble_with(schema: bytes) -> str:
    """Say why a schema cannot be used; empty where it can."""
    try:
        jsonschema_rs.validator_for(schema.decode())
    except ValidationError as error:
        return _sentence([str(part) for part in error.instance_path], error.instance)
    except (ValueError, TypeError, RecursionError) as error:
        return f"inputs cannot be checked against the handler's schema: {error}"
    return ""


def _sentence(path: list[str], found: object) -> str:
    name = path[1] if len(path) > 1 and path[0] == "properties" else ""
    if name and path[-1] == "pattern":
        return (
            f"the regex {found} of the input {name!r} cannot be used: inputs are checked with Rust's regular expressions, "
            r"which have no \Z (but \z), no (?P=name) and no conditions"
        )
    place = f"of the input {name!r}" if name else "of the inputs"
    return f"the schema {place} cannot be used: {found!r} at {'/'.join(path) or 'its root'} is no JSON Schema"
