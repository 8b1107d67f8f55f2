"""`InputFile`: the annotation of a parameter that takes an uploaded file.

Runs in: any (declaring).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeAlias

from killable.workers.authoring.file_type import UploadedFile

InputFile: TypeAlias = Annotated[Path, UploadedFile()]
"""See `UploadedFile`: `def convert(video: InputFile) -> ...`."""
