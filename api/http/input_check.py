"""Checks a job's input against the JSON Schema of its type; each fault is a pointer and a short sentence.

Runs in: api.

jsonschema's own messages repeat the value that failed. These are built only from the keyword and the schema.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError
from referencing import Registry

from killable.api.http.problems import fault, invalid
from killable.api.http.unknown_fields import FAULTS_MAX
from killable.supervisor import event_loops
from killable.supervisor.models import JobType
from killable.workers.protocol.messages import dump_json

IN_LOOP_BYTES_MAX = 64 << 10
IN_LOOP_VALUES_MAX = 500
"""A larger input is checked in a thread: jsonschema is Python code and takes 5 µs or more per value, and the kill path
runs on this event loop.
"""

THREADS_MAX = 2
"""Checks in threads at the same time. They run Python code, so more would only take the interpreter from the loop."""

_BOUNDS = {
    "minimum": "must be at least {}",
    "maximum": "must be at most {}",
    "exclusiveMinimum": "must be more than {}",
    "exclusiveMaximum": "must be less than {}",
    "multipleOf": "must be a multiple of {}",
    "minLength": "must have at least {} characters",
    "maxLength": "must have at most {} characters",
    "minItems": "must have at least {} items",
    "maxItems": "must have at most {} items",
    "minProperties": "must have at least {} members",
    "maxProperties": "must have at most {} members",
    "pattern": "must match the pattern {}",
    "format": "must be a {}",
    "const": "must be {}",
}
_TYPES = {
    "string": "a string",
    "integer": "an integer",
    "number": "a number",
    "boolean": "true or false",
    "null": "null",
    "array": "a list",
    "object": "an object",
}


class InputCheck:
    """Checks inputs. Keeps one compiled validator per type until the type's schema changes."""

    def __init__(self) -> None:
        self._validators: dict[str, Draft202012Validator] = {}
        self._thread_slots = asyncio.Semaphore(THREADS_MAX)

    async def encode(self, job_type: JobType, members: Mapping[str, Any], prefix: tuple[str, ...]) -> bytes:
        """Return the input as JSON. Raise Refused `invalid` with its faults, whose pointers start with `prefix`."""
        try:
            payload = dump_json(members)
        except (ValueError, RecursionError) as error:
            why = "nested too deeply" if isinstance(error, RecursionError) else "has a number that is not finite"
            raise invalid([fault("body", prefix, why)]) from error
        validator = self._validator(job_type)
        try:
            if _is_small(payload):
                faults = find_faults(validator, members, prefix)
            else:
                async with self._thread_slots:
                    # The shutdown does not wait for the thread, which may compute for a long time.
                    check = partial(find_faults, validator, members, prefix)
                    faults = await event_loops.in_thread(asyncio.get_running_loop(), check, is_waited_for=False)
        except (RecursionError, OverflowError) as error:
            why = "nested too deeply" if isinstance(error, RecursionError) else "has a number that is too large"
            raise invalid([fault("body", prefix, why)]) from error
        if faults:
            raise invalid(faults[:FAULTS_MAX], more=len(faults) > FAULTS_MAX)
        return payload

    def _validator(self, job_type: JobType) -> Draft202012Validator:
        validator = self._validators.get(job_type.name)
        if validator is None or validator.schema != job_type.input_schema:
            # An empty registry: with the default one, jsonschema fetches the target of a $ref from the network.
            validator = Draft202012Validator(job_type.input_schema, registry=Registry())
            self._validators[job_type.name] = validator
        return validator


def _is_small(payload: bytes) -> bool:
    """Return whether the check is short enough for the loop. Commas and colons within strings count as values, too."""
    if len(payload) > IN_LOOP_BYTES_MAX:
        return False
    return payload.count(b",") + payload.count(b":") <= IN_LOOP_VALUES_MAX


def find_faults(
    validator: Draft202012Validator, instance: Mapping[str, Any], prefix: tuple[str, ...] = ()
) -> list[dict[str, str]]:
    """Return at most FAULTS_MAX + 1 faults, each pair of pointer and message once."""
    found: dict[tuple[str, str], dict[str, str]] = {}
    for error in validator.iter_errors(instance):
        for path, message in _explain(error):
            item = fault("body", (*prefix, *path), message)
            found[item["pointer"], message] = item
            if len(found) > FAULTS_MAX:
                return list(found.values())
    return list(found.values())


def _explain(error: ValidationError) -> Iterator[tuple[list[str | int], str]]:
    path = list(error.absolute_path)
    keyword = str(error.validator)
    wanted: Any = error.validator_value
    value: Any = error.instance
    if keyword == "required":
        for name in wanted:
            if name not in value:
                yield [*path, name], "is required"
    elif keyword == "additionalProperties":
        schema: Any = error.schema
        patterns = schema.get("patternProperties", ())
        for name in value:
            if name not in schema.get("properties", ()) and not any(re.search(pattern, name) for pattern in patterns):
                yield [*path, name], "is unknown"
    elif keyword in ("anyOf", "oneOf") and error.context:
        yield from _explain_forms(path, error.context)
    elif keyword == "type":
        yield path, "must be " + _either([wanted] if isinstance(wanted, str) else wanted)
    elif keyword == "enum":
        yield path, "must be one of " + _short(wanted)
    elif keyword in _BOUNDS:
        yield path, _BOUNDS[keyword].format(_short(wanted))
    else:
        yield path, f"does not satisfy {keyword!r} of the schema"


def _explain_forms(path: list[str | int], context: list[ValidationError]) -> Iterator[tuple[list[str | int], str]]:
    """Explain why no form of an anyOf fits: by the faults of the only form with the right type, else by the types."""
    forms: dict[int, list[ValidationError]] = {}
    types: dict[int, Any] = {}
    for error in context:
        form = int(error.schema_path[0])
        forms.setdefault(form, []).append(error)
        if error.validator == "type" and len(error.absolute_path) == len(path):
            types[form] = error.validator_value
    near = [errors for form, errors in forms.items() if form not in types]
    if len(near) == 1:
        for error in near[0]:
            yield from _explain(error)
    elif near or not all(isinstance(name, str) for name in types.values()):
        yield path, "matches none of the allowed types"
    else:
        yield path, "must be " + _either(list(types.values()))


def _either(types: list[str]) -> str:
    return " or ".join(dict.fromkeys(_TYPES.get(name, name) for name in types))


def _short(wanted: Any) -> str:
    text = wanted if isinstance(wanted, str) else dump_json(wanted).decode()
    return text if len(text) <= 200 else text[:199] + "…"
