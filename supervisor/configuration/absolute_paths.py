"""The folder to which a path in the configuration is relative.

Runs in: supervisor, before it starts; `killable config` and `check`.

    written in the file                       the folder of that file
    in the environment, or given by a flag    the working directory
    `~`                                       the home of the user; `~name` that of another one
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from killable.supervisor.configuration.layers import Layer, Leaves

PATHS = {
    "server": ("uds", "api_keys_file", "audit_log", "operator_socket", "journal", "files_folder"),
    "webhooks": ("secrets_file",),
}
"""The settings that are paths, by section."""


def in_home(path: str) -> Path:
    """Return a path with the home that its `~` stands for; as it is where nobody knows that: it is found nowhere."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def has_no_home(path: str) -> bool:
    return path.startswith("~") and in_home(path) == Path(path)


def absolute_settings(table: Any, section: str, leaves: Leaves, file: Path | None) -> dict[str, Any]:
    """Return the paths of a section as they are meant, by their names, without those that are written nowhere."""
    found: dict[str, Any] = {}
    for name in PATHS[section]:
        written, value = leaves.get((section, name)), getattr(table, name)
        if value and written is not None:
            base = file.parent if file is not None and written.layer is Layer.FILE else Path()
            found[name] = os.path.abspath(base / in_home(value))
    return found


def absolute_path(path: str, folder: Path) -> str:
    """Return a path of the file as an absolute one: `~` is the user's home, another one is from the file's folder."""
    return os.path.normpath(folder / in_home(path))


def absolute_python(python: str, folder: Path) -> str:
    """Make a path absolute; return a name, which is looked up on PATH later, as it is.

    Links are not resolved: the python of a virtual environment is a symbolic link and must be called by its own name.
    """
    return os.path.normpath(folder / in_home(python)) if "/" in python else python
