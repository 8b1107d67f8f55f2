"""The faults of a job's input by the JSON Schema of its type; each is a pointer and a short sentence.

Runs in: api, and in the processes that check inputs.

jsonschema's own messages repeat the value that failed. These are built only from the keyword and the schema. Patterns
run in pydantic-core's engine, which takes linear time. One that it does not know (a look-around, a reference to a
group) runs in Python's, which may take years: only in a process that can be killed (`is_bounded`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import Any

from jsonschema import Draft202012Validator, FormatChecker, validators
from jsonschema.exceptions import ValidationError
from pydantic_core import SchemaError, SchemaValidator, core_schema
from referencing import Registry

from killable.api.http.request_faults import FAULTS_MAX, fault
from killable.workers.protocol.messages import dump_json

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
    "const": "must be {}",
}
_OF_FORMATS = {
    "date-time": "must be a date and time like 2026-12-01T09:30:00Z",
    "date": "must be a date like 2026-12-01",
    "time": "must be a time like 09:30:00",
    "duration": "must be a duration like PT1H30M",
    "uuid": "must be a UUID",
    "decimal": "must be a decimal number",
    "path": "must be a path",
    "killable-file": "must be the id of an uploaded file",
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


def _formats() -> FormatChecker:
    """Return what checks texts of a format: by pydantic, which reads all that the conversions in a worker read."""
    checker = FormatChecker(formats=())
    for name, form in {
        "date-time": core_schema.datetime_schema(),
        "date": core_schema.date_schema(),
        "time": core_schema.time_schema(),
        "duration": core_schema.timedelta_schema(),
        "uuid": core_schema.uuid_schema(),
    }.items():
        checker.checks(name)(_reads(SchemaValidator(form)))
    return checker


def _reads(validator: SchemaValidator) -> Callable[[object], bool]:
    return lambda value: not isinstance(value, str) or validator.isinstance_python(value)


_FORMATS = _formats()


@lru_cache(maxsize=1024)
def _linear(pattern: str) -> Callable[[Any], bool] | None:
    """Return a function that looks for the pattern in a text, in linear time; None: this engine does not know it."""
    try:
        return SchemaValidator(core_schema.str_schema(pattern=pattern, regex_engine="rust-regex")).isinstance_python
    except SchemaError:
        return None


def _occurs(pattern: str, text: str) -> bool:
    linear = _linear(pattern)
    return bool(re.search(pattern, text)) if linear is None else linear(text)


def _pattern(_: Any, pattern: str, value: Any, __: Any) -> Iterator[ValidationError]:
    if isinstance(value, str) and not _occurs(pattern, value):
        yield ValidationError("pattern")


def _pattern_properties(validator: Any, patterns: Mapping[str, Any], value: Any, _: Any) -> Iterator[ValidationError]:
    if isinstance(value, Mapping):
        for pattern, schema in patterns.items():
            for name, part in value.items():
                if _occurs(pattern, name):
                    yield from validator.descend(part, schema, path=name, schema_path=pattern)


def _unknown(schema: Mapping[str, Any], value: Mapping[str, Any]) -> list[str]:
    known, patterns = schema.get("properties", ()), schema.get("patternProperties", ())
    return [name for name in value if name not in known and not any(_occurs(each, name) for each in patterns)]


def _additional(validator: Any, wanted: Any, value: Any, schema: Mapping[str, Any]) -> Iterator[ValidationError]:
    if not isinstance(value, Mapping) or wanted is True:
        return
    unknown = _unknown(schema, value)
    if wanted is False and unknown:
        yield ValidationError("additionalProperties")
    elif wanted is not False:
        for name in unknown:
            yield from validator.descend(value[name], wanted, path=name)


_Validator = validators.extend(  # type: ignore[no-untyped-call]
    Draft202012Validator,
    {"pattern": _pattern, "patternProperties": _pattern_properties, "additionalProperties": _additional},
)


def validator_of(schema: Mapping[str, Any]) -> Draft202012Validator:
    """Return the validator of a schema."""
    # An empty registry: with the default one, jsonschema fetches the target of a $ref from the network.
    found: Draft202012Validator = _Validator(schema, registry=Registry(), format_checker=_FORMATS)
    return found


def is_bounded(schema: Any) -> bool:
    """Return whether a check of a value takes a time that its size bounds: every pattern runs in linear time."""
    if isinstance(schema, list):
        return all(map(is_bounded, schema))
    if not isinstance(schema, Mapping):
        return True
    patterns = [schema["pattern"]] if isinstance(schema.get("pattern"), str) else []
    if isinstance(schema.get("patternProperties"), Mapping):
        patterns += schema["patternProperties"]
    return all(_linear(each) for each in patterns) and all(map(is_bounded, schema.values()))


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
    schema: Any = error.schema
    if isinstance(schema, Mapping) and isinstance(schema.get("errorMessage"), str):
        yield path, schema["errorMessage"]  # what the pattern of a command's text is for
    elif keyword == "required":
        for name in wanted:
            if name not in value:
                yield [*path, name], "is required"
    elif keyword == "additionalProperties":
        for name in _unknown(schema, value):
            yield [*path, name], "is unknown"
    elif keyword in ("anyOf", "oneOf") and error.context:
        yield from _explain_forms(path, error.context)
    elif keyword == "type":
        yield path, "must be " + _either([wanted] if isinstance(wanted, str) else wanted)
    elif keyword == "enum":
        yield path, "must be one of " + _short(wanted)
    elif keyword in ("format", "pattern") and (form := _format_of(error)) in _OF_FORMATS:
        yield path, _OF_FORMATS[form]
    elif keyword == "format":
        yield path, f"must be a {_short(wanted)}"
    elif keyword in _BOUNDS:
        yield path, _BOUNDS[keyword].format(_short(wanted))
    else:
        yield path, f"does not satisfy {keyword!r} of the schema"


def _format_of(error: ValidationError) -> str:
    schema: Any = error.schema
    return str(schema.get("format", "")) if isinstance(schema, Mapping) else ""


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
