"""The input type of an uploaded file: JSON has its id, the job function gets its path.

Runs in: zygote, worker. `input_file` has the annotation for authors; this module needs no `pathlib`.
"""

from __future__ import annotations

import re
from typing import Any

from killable.workers.authoring import context
from killable.workers.authoring.input_types import InputFault, InputType

FILE_FORMAT = "killable-file"
"""The `format` of its schema, by which clients know that they are to upload a file."""
FILE_ID = r"^file-[0-9a-f]{32}$"


def _path_of(file_id: str) -> Any:
    """Return the path of a file. Raise ValueError: the job was not given it."""
    from pathlib import Path

    if file_id not in context.given_files:
        raise ValueError("must be the id of an uploaded file that is still there")
    return Path(context.given_files[file_id])


def _convert(value: Any, pointer: str, faults: list[InputFault]) -> Any:
    if isinstance(value, str) and re.fullmatch(FILE_ID, value):
        try:
            return _path_of(value)
        except ValueError as error:
            faults.append(InputFault(pointer, str(error)))
            return None
    faults.append(InputFault(pointer, "must be the id of an uploaded file"))
    return None


def _no_default(value: Any) -> Any:
    if value is None:
        return None
    raise TypeError("no file is uploaded when a job is declared")


FILE = InputType({"type": "string", "format": FILE_FORMAT, "pattern": FILE_ID}, _convert, _no_default)


class UploadedFile:
    """Annotate a parameter that takes a file of any size, which clients upload: `def convert(video: InputFile)`.

    The function gets a `pathlib.Path` of a file that it may only read, under the name that it was uploaded with. It is
    there until the job has ended. Lists of it, `InputFile | None` and fields of dataclasses and models work, too.
    """

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> dict[str, Any]:
        """Let pydantic's models have fields of this type. A core schema is a dict: pydantic is not imported."""
        text = {"type": "str", "pattern": FILE_ID, "strict": True}
        return {"type": "function-after", "function": {"type": "no-info", "function": _path_of}, "schema": text}

    def __get_pydantic_json_schema__(self, schema: Any, handler: Any) -> dict[str, Any]:
        return dict(FILE.schema)

    def __repr__(self) -> str:
        return "UploadedFile()"
