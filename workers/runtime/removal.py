"""Remove a directory tree, including directories without write permission.

Runs in: supervisor | worker. For a job's temporary directory, when its processes are gone.
"""

from __future__ import annotations

import contextlib
import os

# `shutil` and `subprocess` are imported below: they come with the archive formats and selectors, and few workers have a
# directory to remove.


def remove_tree(path: str | os.PathLike[str]) -> None:
    """Remove a tree; files that cannot be removed stay. Symbolic links are removed and never followed."""
    try:
        _remove_tree(path)
    except RecursionError:  # up to Python 3.12 shutil recurses, and a job may nest a thousand directories
        import subprocess

        subprocess.run(["rm", "-rf", "--", path], stdin=subprocess.DEVNULL, capture_output=True, check=False)


def _remove_tree(path: str | os.PathLike[str]) -> None:
    import shutil

    shutil.rmtree(path, ignore_errors=True)
    if os.geteuid() == 0 or not os.path.lexists(path):
        return  # modes do not stop root, and root must not chmod where another user could place a symbolic link
    _open_folder(path)
    for folder, below, _ in os.walk(path):
        for name in below:  # before the walk enters them
            _open_folder(os.path.join(folder, name))
    shutil.rmtree(path, ignore_errors=True)


def _open_folder(path: str | os.PathLike[str]) -> None:
    if not os.path.islink(path):
        with contextlib.suppress(OSError):
            os.chmod(path, 0o700)
