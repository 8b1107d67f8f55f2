"""The files of a command in the folder of its job: names for those of its input, and those that it writes.

Runs in: worker.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from typing import Any

from killable.workers.authoring.context import Context


def link_inputs(folder: str, links: Mapping[str, str]) -> None:
    """Let files of the input have the names that the author has chosen. Raise OSError."""
    for name, path in links.items():
        os.symlink(path, os.path.join(folder, name))


def save_outputs(context: Context, outputs: Mapping[str, str]) -> dict[str, Any]:
    """Save each file as one of the job's, and return name and size by placeholder. Raise FileNotFoundError for one that
    is not there, OSError.
    """
    found = {}
    for name, file_name in outputs.items():
        path = os.path.join(context.tmp, file_name)
        try:
            about = os.lstat(path)
        except OSError:
            raise FileNotFoundError(f"the command has written no file {file_name}") from None
        if not stat.S_ISREG(about.st_mode):  # what a link leads to is not what the command has written
            raise FileNotFoundError(f"the command has written no file {file_name}, but something else of that name")
        found[name] = {"name": file_name, "size": about.st_size}
        context.save_file(path)
    return found
