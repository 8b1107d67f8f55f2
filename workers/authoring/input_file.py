"""`InputFile`: the annotation of a parameter that takes an uploaded file.

Runs in: any (declaring).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeAlias

from killable.workers.authoring.file_type import UploadedFile

InputFile: TypeAlias = Annotated[Path, UploadedFile()]
"""A parameter that takes a file of any size, which clients upload: `def convert(video: InputFile) -> ...`.

The function gets the path of a file that it may only read, under the name that it was uploaded with. It is there until
the job has ended.
"""
