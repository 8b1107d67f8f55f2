"""Turn a job's input from Python values into JSON: dataclasses, enums, pydantic models, and bytes as the schema says.

Runs in: any machine (no supervisor, no Linux). Pure.

Bytes have no form of their own in JSON. What stands for them depends on the job: `{"base64": ...}` for a parameter
declared as `bytes`, text for pydantic's. So they remain in the tree until the schema of the job's type is known.
"""

from __future__ import annotations

import enum
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import PurePath
from typing import Any

from killable.api.client.file_source import is_file
from killable.workers.authoring.file_type import FILE_FORMAT
from killable.workers.authoring.input_types import BYTES, join
from killable.workers.errors import Refused
from killable.workers.protocol.plain_values import plain_value

Schema = Mapping[str, Any]

DEFINITIONS_DEPTH_MAX = 8
"""Definitions may refer to each other; deeper ones are not looked at."""


@dataclass(slots=True)
class PlainInput:
    """An input of JSON values, except for the bytes, paths and open files in it."""

    members: dict[str, Any]
    has_bytes: bool
    """Whether it has any of these, whose form the job's schema decides."""

    @classmethod
    def of(cls, input: Mapping[str, Any]) -> PlainInput:
        """Raise Refused `invalid`, with every fault, for values that have no JSON form."""
        reading = _Reading()
        try:
            members = reading.plain(input, "")
        except RecursionError:
            raise Refused("the input is nested too deeply, or refers to itself") from None
        _raise(reading.faults)
        return cls(members, reading.has_bytes)

    def to_json(self, schema: Schema, uploaded: Mapping[int, str] | None = None) -> dict[str, Any]:
        """Return the input as the job's schema spells bytes. Raise Refused `invalid`, with every fault.

        `uploaded`: the ids of `files`, by their place in it.
        """
        spelling = _Spelling(schema, None if uploaded is None else dict(uploaded))
        spelled: dict[str, Any] = spelling.spelled(self.members, [schema], "")
        _raise(spelling.faults)
        return spelled

    def files(self, schema: Schema) -> list[Any]:
        """Return what is to be uploaded: paths, open files and bytes where the job takes a file. Raise Refused."""
        spelling = _Spelling(schema, None)
        spelling.spelled(self.members, [schema], "")
        _raise(spelling.faults)
        return spelling.files


def schema_of(types: Iterable[Mapping[str, Any]], name: str) -> Schema | None:
    """Return the schema of a type's input, from the server's list of types; None for an unknown type."""
    for each in types:
        if name == each["name"] or name in each.get("operations", ()):
            found: Schema = each["input_schema"]
            return found
    return None


def is_bytes(form: Schema) -> bool:
    """Return whether values of this form are bytes: of a job's `bytes`, or of pydantic's."""
    return is_bytes_object(form) or bool(_string_form(form))


def is_bytes_object(form: Schema) -> bool:
    """Return whether this is the form of a job's `bytes`, `{"base64": ...}`."""
    return bool(form.get("properties") == BYTES.schema["properties"])


def is_file_form(form: Schema) -> bool:
    """Return whether this is the form of an uploaded file."""
    return bool(form.get("format") == FILE_FORMAT)


def forms_of(schema: Any, root: Schema, depth: int = 0) -> list[Schema]:
    """Return the alternatives of a schema, with references followed; an empty one allows anything."""
    if not isinstance(schema, Mapping):
        return [{}] if schema is True else []
    reference = str(schema.get("$ref", ""))
    if depth > DEFINITIONS_DEPTH_MAX:
        return [{}]
    if reference.startswith("#/$defs/"):
        return forms_of(root.get("$defs", {}).get(reference.removeprefix("#/$defs/"), {}), root, depth + 1)
    if "type" in schema:
        return [schema]
    parts = [form for word in ("anyOf", "oneOf", "allOf") for form in schema.get(word, ())]
    return [form for part in parts for form in forms_of(part, root, depth + 1)] if parts else [schema]


def _raise(faults: list[dict[str, str]]) -> None:
    if faults:
        first, more = faults[0], f", and {len(faults) - 1} more" if len(faults) > 1 else ""
        raise Refused(f"input {first['pointer']}: {first['message']}{more}", code="invalid", faults=faults)


def _fault(pointer: str, message: str) -> dict[str, str]:
    return {"in": "input", "pointer": pointer, "message": message}


@dataclass(slots=True)
class _Reading:
    """One look at an input."""

    has_bytes: bool = False
    faults: list[dict[str, str]] = field(default_factory=list)

    def plain(self, value: Any, pointer: str) -> Any:
        """Return a copy of JSON values and bytes."""
        if isinstance(value, enum.Enum):
            return self.plain(value.value, pointer)
        if value is None or isinstance(value, (str, int)):
            return value
        if isinstance(value, float):
            if value - value != 0.0:
                self.faults.append(_fault(pointer, f"{value} is not JSON"))
            return value
        if isinstance(value, (bytes, bytearray, memoryview)):
            self.has_bytes = True
            return bytes(value)
        if is_file(value):
            self.has_bytes = True
            return value
        if isinstance(value, Mapping):
            return {self._key(key, pointer): self.plain(part, join(pointer, key)) for key, part in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.plain(item, f"{pointer}/{index}") for index, item in enumerate(value)]
        if hasattr(type(value), "__pydantic_validator__") and hasattr(value, "model_dump"):
            return self._dumped(value, pointer)
        if is_dataclass(value) and not isinstance(value, type):
            given = {each.name: getattr(value, each.name) for each in fields(value) if each.init}
            return {name: self.plain(part, join(pointer, name)) for name, part in given.items()}
        return self._other(value, pointer)

    def _other(self, value: Any, pointer: str) -> Any:
        """Return what stands for a date, a UUID, a set and the like."""
        try:
            return self.plain(plain_value(value), pointer)
        except TypeError:
            why = (
                f"{type(value).__qualname__} has no JSON form; these have one: str, int, float, bool, None, bytes,"
                " list, tuple, set, dict, dataclass, Enum, datetime, date, time, timedelta, Decimal, UUID, Path and"
                " pydantic models"
            )
        except ValueError as error:  # Decimal("NaN")
            why = str(error)
        self.faults.append(_fault(pointer, why))
        return None

    def _key(self, key: Any, pointer: str) -> Any:
        key = key.value if isinstance(key, enum.Enum) else key
        if not isinstance(key, (str, int, float, type(None))):
            self.faults.append(_fault(pointer, f"the key {key!r} is not a JSON key"))
            return ""
        return key

    def _dumped(self, model: Any, pointer: str) -> Any:
        """Return what pydantic itself writes for a model, so that the same model on the other side reads it."""
        try:
            return self.plain(model.model_dump(mode="json", by_alias=True), pointer)
        except UnicodeDecodeError:
            why = (
                "has bytes that are not UTF-8, which pydantic cannot write as text; with"
                " ConfigDict(ser_json_bytes='base64', val_json_bytes='base64') in the model it can"
            )
        except ValueError as error:
            why = f"pydantic cannot write it as JSON: {error}"
        self.faults.append(_fault(pointer, why))
        return None


@dataclass(slots=True)
class _Spelling:
    """One look at an input with the schema of its job."""

    root: Schema
    uploaded: dict[int, str] | None
    """The id of each file, by its place in `files`; None: they are not uploaded yet."""
    files: list[Any] = field(default_factory=list)
    faults: list[dict[str, str]] = field(default_factory=list)

    def spelled(self, value: Any, forms: list[Schema], pointer: str) -> Any:
        """Return a value with its bytes and files as one of these forms spells them."""
        if isinstance(value, bytes) or is_file(value):
            if any(map(is_file_form, forms)):
                return self._file(value)
            if isinstance(value, bytes):
                return _bytes_as(value, forms, pointer, self.faults)
            return self._path(value, pointer)
        if isinstance(value, list):
            return [
                self.spelled(item, _inner(forms, self.root, index), f"{pointer}/{index}")
                for index, item in enumerate(value)
            ]
        if isinstance(value, dict):
            return {
                key: self.spelled(part, _inner(forms, self.root, str(key)), join(pointer, key))
                for key, part in value.items()
            }
        return value

    def _file(self, value: Any) -> str:
        place = next((at for at, each in enumerate(self.files) if each is value), len(self.files))
        if place == len(self.files):
            self.files.append(value)
        return "" if self.uploaded is None else self.uploaded[place]

    def _path(self, value: Any, pointer: str) -> Any:
        if isinstance(value, PurePath):
            return str(value)
        why = "is an open file, and the job takes none here: declare the parameter as InputFile, or send its content"
        self.faults.append(_fault(pointer, why))
        return None


def _inner(forms: Iterable[Schema], root: Schema, place: str | int) -> list[Schema]:
    """Return the forms of a member or an item; none if there is no such one."""
    found: list[Schema] = []
    for form in forms:
        if isinstance(place, str) and "object" in _listed(form.get("type", "object")):
            members = form.get("properties", {})
            found += forms_of(members[place] if place in members else form.get("additionalProperties", True), root)
        elif isinstance(place, int) and "array" in _listed(form.get("type", "array")):
            first = form.get("prefixItems", ())
            found += forms_of(first[place] if place < len(first) else form.get("items", True), root)
    return found


def _bytes_as(content: bytes, forms: list[Schema], pointer: str, faults: list[dict[str, str]]) -> Any:
    text = {"base64": b64encode(content).decode()}
    if not forms or any(map(is_bytes_object, forms)):  # without a form the server says what is wrong
        return text
    for form in forms:
        match _string_form(form):
            case "base64":
                return text["base64"]
            case "base64url":
                return urlsafe_b64encode(content).decode()
            case "binary":
                try:
                    return content.decode()
                except UnicodeDecodeError as error:
                    why = (
                        f"is not UTF-8 (byte {error.start}), and pydantic's bytes travel as text; declare a"
                        " pydantic.Base64Bytes in the job, or a plain bytes parameter"
                    )
                    faults.append(_fault(pointer, why))
                    return None
    kinds = sorted({str(kind) for form in forms for kind in _listed(form.get("type", ()))})
    if "string" in kinds:
        why = "is bytes, and the job takes text here: send value.decode(), or declare the parameter as bytes in the job"
    elif all(forms):
        why = f"is bytes, and the job takes {' or '.join(kinds) or 'one of certain values'} here"
    else:
        why = "is bytes, and the job does not say what it takes here: declare the parameter as bytes in the job"
    faults.append(_fault(pointer, why))
    return None


def _listed(types: Any) -> Sequence[Any]:
    return (types,) if isinstance(types, str) else types


def _string_form(form: Schema) -> str:
    """Return how bytes are written as a JSON string of this schema; empty: it is no string of bytes."""
    if form.get("type") != "string":
        return ""
    word = str(form.get("contentEncoding") or form.get("format") or "")
    return word if word in ("base64", "base64url", "binary") else ""
