"""The files of a command in the folder of its job: those of its input, and those that it writes.

Runs in: worker.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from typing import Any

from killable.workers.authoring.input_types import plain
from killable.workers.protocol.codec import TooLarge

FILES_BYTES_MAX = 16 << 20
"""The most bytes of all files in a result."""


def write_inputs(folder: str, files: Mapping[str, bytes]) -> None:
    """Write the files of an input. Raise OSError."""
    for name, content in files.items():
        with open(os.path.join(folder, name), "xb") as file:
            file.write(content)


def read_outputs(folder: str, outputs: Mapping[str, str]) -> dict[str, Any]:
    """Return by placeholder the content of each file, as a result has bytes. Raise FileNotFoundError for one that is
    not there; TooLarge.
    """
    room = FILES_BYTES_MAX
    found = {}
    for name, file_name in outputs.items():
        content = _read(folder, name, file_name, room)
        room -= len(content)
        found[name] = plain(content)
    return found


def _read(folder: str, name: str, file_name: str, room: int) -> bytes:
    try:
        # No link, and no pipe that waits for a writer: what the command leaves is looked at, not followed.
        descriptor = os.open(os.path.join(folder, file_name), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        raise FileNotFoundError(f"the command has written no file {file_name} ({error.strerror})") from None
    about = os.fstat(descriptor)
    if not stat.S_ISREG(about.st_mode):
        os.close(descriptor)
        raise FileNotFoundError(f"the command has written no file {file_name}, but something else of that name")
    with open(descriptor, "rb") as file:
        if about.st_size > room:
            bound = f"{file_name} has {about.st_size:,} bytes; all files of a result may have {FILES_BYTES_MAX:,}"
            raise TooLarge(f"$.files.{name}", "bytes", bound)
        return file.read(room)
