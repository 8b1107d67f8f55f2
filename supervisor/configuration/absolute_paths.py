"""The folder to which a path in the configuration is relative.

Runs in: supervisor, before it starts; `killable config` and `check`.

    written in the file                       the folder of that file
    in the environment, or given by a flag    the working directory
    `~`                                       the home of the user
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from killable.supervisor.configuration.layers import Layer, Leaves


def absolute_setting(table: Any, section: str, name: str, leaves: Leaves, file: Path | None) -> dict[str, Any]:
    """Return the path of a setting as it is meant, by its name; nothing if none is written anywhere."""
    written, value = leaves.get((section, name)), getattr(table, name)
    if not value or written is None:
        return {}
    base = file.parent if file is not None and written.layer is Layer.FILE else Path()
    return {name: os.path.abspath(base / Path(value).expanduser())}


def absolute_path(path: str, folder: Path) -> str:
    """Return a path of the file as an absolute one: `~` is the user's home, another one is from the file's folder."""
    return os.path.normpath(folder / Path(path).expanduser())


def absolute_python(python: str, folder: Path) -> str:
    """Make a path absolute; return a name, which is looked up on PATH later, as it is.

    Links are not resolved: the python of a virtual environment is a symbolic link and must be called by its own name.
    """
    return os.path.normpath(folder / Path(python).expanduser()) if "/" in python else python
