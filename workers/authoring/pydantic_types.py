"""Make input types of pydantic's annotations (`Annotated[int, Field(ge=1)]`, a model), where pydantic is installed.

Runs in: zygote, worker. Imports pydantic only for an annotation that needs it: it costs a worker start time and memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import is_dataclass
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints, is_typeddict

from killable.workers.authoring.file_type import UploadedFile
from killable.workers.authoring.input_types import Convert, InputFault, InputType, NoJsonForm, join
from killable.workers.protocol.messages import dump_json


def is_pydantics(annotation: Any) -> bool:
    """Return whether only pydantic understands an annotation: it has a model, or metadata but a range or a comment."""
    return any(
        # A str in Annotated is a comment. A class may also be metadata, and then is an ordinary one.
        hasattr(part, "__get_pydantic_core_schema__") or hasattr(part, "__pydantic_core_schema__")
        if isinstance(part, type)
        else not isinstance(part, (range, str, UploadedFile))
        for part in _parts(annotation, set())
    )


def pydantic_type(annotation: Any, parameter: str) -> InputType | None:
    """Return the type that pydantic makes of a parameter's annotation; None if pydantic is not installed.

    The schema may have `$defs`. Their names, and references to them, begin with the parameter's name and a dot, because
    the schema of the whole input will contain them. Raise NoJsonForm.
    """
    try:
        from pydantic import PydanticUserError, TypeAdapter
    except ImportError:
        return None
    if any(isinstance(part, range) for part in _parts(annotation, set())):
        raise NoJsonForm("a range cannot be combined with a type of pydantic; use Field(ge=..., le=...)")
    try:
        adapter: TypeAdapter[Any] = TypeAdapter(annotation)
        schema = adapter.json_schema(ref_template=f"#/$defs/{parameter}.{{model}}")
    except PydanticUserError as error:
        raise NoJsonForm(str(error)) from error
    if "$defs" in schema:
        schema["$defs"] = {f"{parameter}.{name}": definition for name, definition in schema["$defs"].items()}
    return InputType(
        schema, _convert_by(adapter), lambda value: adapter.dump_python(value, mode="json", warnings=False)
    )


def _convert_by(adapter: Any) -> Convert:
    from pydantic import ValidationError

    def convert(value: Any, pointer: str, faults: list[InputFault]) -> Any:
        try:
            # Through JSON: there `strict` accepts an Enum by its value and refuses "5" for 5, as the schema does.
            return adapter.validate_json(dump_json(value), strict=True)
        except ValidationError as error:
            for fault in error.errors(include_url=False, include_context=False, include_input=False):
                where = pointer
                for part in fault["loc"]:
                    where = join(where, part)
                faults.append(InputFault(where, fault["msg"]))
        except (TypeError, ValueError) as error:  # dump_json: not JSON
            faults.append(InputFault(pointer, str(error)))
        return None

    return convert


def _parts(annotation: Any, seen: set[type]) -> Iterator[Any]:
    """Yield the classes and the metadata in an annotation, including those in dataclasses and TypedDicts."""
    if get_origin(annotation) is Annotated:
        yield from annotation.__metadata__
        yield from _parts(annotation.__origin__, seen)
    elif isinstance(annotation, type) and not get_args(annotation):
        if annotation not in seen:
            seen.add(annotation)
            yield annotation
            if is_dataclass(annotation) or is_typeddict(annotation):
                for hint in get_type_hints(annotation, include_extras=True).values():
                    yield from _parts(hint, seen)
    elif get_origin(annotation) is not Literal:
        for part in get_args(annotation):
            yield from _parts(part, seen)
