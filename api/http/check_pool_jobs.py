"""What the processes that check inputs run: read a body, and check an input against a schema.

Runs in: worker of the pool of a `CheckPool`. A body comes from a client, and may be anything.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Set
from typing import Any

from killable.api.http.input_faults import find_faults, validator_of
from killable.api.http.request_faults import fault
from killable.api.http.unknown_fields import few
from killable.workers.authoring.job_functions import job
from killable.workers.protocol.messages import dump_json

ENVELOPE_BYTES_MAX = 64 << 10
"""The most bytes of a body without its input."""


@job
def split(body: bytes, members: list[str] | None) -> bytes:
    """Return a JSON object, a line end, and the input as JSON. The object has the `envelope`, which is the body with an
    empty input, as text, and the `digest` of the body; or why it is `malformed`, or its `faults`.

    In a body that names an operation, the input is all that is not in `members`. In a message of MCP (`members` is
    None) it is the arguments of the call.
    """
    head, input = _parts(body, None if members is None else frozenset(members))
    return dump_json(head) + b"\n" + input


def _parts(body: bytes, members: Set[str] | None) -> tuple[dict[str, Any], bytes]:
    try:
        document = json.loads(body.decode())
        envelope, input = _without_arguments(document) if members is None else _without_input(document, members)
        content = dump_json(input)
    except UnicodeDecodeError as error:
        return {"malformed": f"The body is not UTF-8 (byte {error.start})"}, b""
    except json.JSONDecodeError as error:
        return {"malformed": f"The body is not JSON: {error.msg} (character {error.pos})"}, b""
    except ValueError:
        return {"faults": [fault("body", [], "has a number that is not finite")]}, b""
    except RecursionError:
        return {"malformed": "The body is nested too deeply"}, b""
    text = json.dumps(envelope)
    if len(text) > ENVELOPE_BYTES_MAX:
        why = f"takes {len(text)} bytes without its input; at most {ENVELOPE_BYTES_MAX} are allowed"
        return {"faults": [fault("body", [], why)]}, b""
    return {"envelope": text, "digest": hashlib.sha256(body).hexdigest()}, content


def _without_input(document: Any, members: Set[str]) -> tuple[Any, Any]:
    """Return the document without its input, and the input."""
    if not isinstance(document, dict):
        return document, {}
    if "operation" in document:
        envelope = {name: value for name, value in document.items() if name in members}
        return envelope, {name: value for name, value in document.items() if name not in members}
    document, input = few(document, {*members, "type", "input"}), document.get("input")
    # One that is no object keeps its type, so that the fault is told as that of a small body.
    empty = {"input": type(input)()} if isinstance(input, (dict, list, str)) else {}
    return document | empty, input if isinstance(input, dict) else {}


def _without_arguments(message: Any) -> tuple[Any, Any]:
    """Return a message of MCP without the arguments of a call, and the arguments."""
    match message:
        case {"params": {"arguments": dict() as arguments, **params}, **members}:
            return {**members, "params": {**params, "arguments": {}}}, arguments
    return message, {}


@job
def check(schema: dict[str, Any], value: Any, prefix: list[str]) -> list[dict[str, str]]:
    """Return the faults of a value, at most FAULTS_MAX + 1; their pointers start with `prefix`."""
    try:
        dump_json(value)
        return find_faults(validator_of(schema), value, tuple(prefix))
    except ValueError:
        return [fault("body", prefix, "has a number that is not finite")]
    except RecursionError:
        return [fault("body", prefix, "nested too deeply")]
    except OverflowError:
        return [fault("body", prefix, "has a number that is too large")]
