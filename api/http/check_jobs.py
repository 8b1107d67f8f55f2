"""What the processes that check inputs run: read a body, and check an input against a schema.

Runs in: worker of the pool of a `CheckPool`. A body comes from a client, and may be anything.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from killable import job
from killable.api.http.faults import fault
from killable.api.http.input_faults import find_faults, validator_of
from killable.workers.protocol.messages import dump_json

ENVELOPE_BYTES_MAX = 64 << 10
"""The most bytes of a body without its input."""
_SPACE = " \t\n\r"


@job
def split(body: bytes) -> dict[str, Any]:
    """Return the `envelope`, which is the body with an empty input, where the input `begins` and `ends` in the bytes of
    the body, and the `digest` of the body; or why it is `malformed`, or its `faults`.
    """
    try:
        text = body.decode()
        document = json.loads(text)
    except UnicodeDecodeError as error:
        return {"malformed": f"The body is not UTF-8 (byte {error.start})"}
    except json.JSONDecodeError as error:
        return {"malformed": f"The body is not JSON: {error.msg} (character {error.pos})"}
    except RecursionError:
        return {"faults": [fault("body", [], "nested too deeply")]}
    begin, end = _place(text, "input") if isinstance(document, dict) and "input" in document else (0, 0)
    if end:
        value = document["input"]
        document["input"] = type(value)() if isinstance(value, (dict, list, str)) else value
    envelope = json.dumps(document)
    if len(envelope) > ENVELOPE_BYTES_MAX:
        why = f"takes {len(envelope)} bytes without its input; at most {ENVELOPE_BYTES_MAX} are allowed"
        return {"faults": [fault("body", [], why)]}
    begins = len(text[:begin].encode())
    return {
        "envelope": envelope,
        "begins": begins,
        "ends": begins + len(text[begin:end].encode()),
        "digest": hashlib.sha256(body).hexdigest(),
    }


@job
def check(schema: dict[str, Any], value: Any, prefix: list[str]) -> list[dict[str, str]]:
    """Return the faults of a value; their pointers start with `prefix`."""
    return faults_of(schema, value, prefix)


def faults_of(schema: dict[str, Any], value: Any, prefix: list[str]) -> list[dict[str, str]]:
    """Return the faults of a value, at most FAULTS_MAX + 1."""
    try:
        dump_json(value)
        return find_faults(validator_of(schema), value, tuple(prefix))
    except ValueError:
        return [fault("body", prefix, "has a number that is not finite")]
    except RecursionError:
        return [fault("body", prefix, "nested too deeply")]
    except OverflowError:
        return [fault("body", prefix, "has a number that is too large")]


def _place(text: str, name: str) -> tuple[int, int]:
    """Return where the value of the last member of this name begins and ends in the text of a JSON object."""
    read = json.JSONDecoder().raw_decode
    found = 0, 0
    at = _next(text, text.index("{") + 1)
    while text[at] == '"':
        key, at = read(text, at)
        begin = _next(text, _next(text, at) + 1)  # behind the colon
        _, end = read(text, begin)
        if key == name:
            found = begin, end
        at = _next(text, end)
        if text[at] == ",":
            at = _next(text, at + 1)
    return found


def _next(text: str, at: int) -> int:
    """Return the index of the first character from `at` on that is no white space (RFC 8259 section 2)."""
    while text[at] in _SPACE:
        at += 1
    return at
