"""Remove a directory and all that is in it, also what its owner may not write.

Runs in: supervisor | worker. For a job's temporary directory, when its processes are gone.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess


def remove_tree(path: str | os.PathLike[str]) -> None:
    """Remove it; what cannot be removed stays. Symbolic links are removed and never followed."""
    try:
        _remove_tree(path)
    except RecursionError:  # up to Python 3.12 the library goes down that way; a job made a thousand in each other
        subprocess.run(["rm", "-rf", "--", path], stdin=subprocess.DEVNULL, capture_output=True, check=False)


def _remove_tree(path: str | os.PathLike[str]) -> None:
    shutil.rmtree(path, ignore_errors=True)
    if os.geteuid() == 0 or not os.path.lexists(path):
        return  # modes do not hold root up, and it must not change any where somebody else could lay a link
    _open_folder(path)
    for folder, below, _ in os.walk(path):
        for name in below:  # before the walk goes down there
            _open_folder(os.path.join(folder, name))
    shutil.rmtree(path, ignore_errors=True)


def _open_folder(path: str | os.PathLike[str]) -> None:
    if not os.path.islink(path):
        with contextlib.suppress(OSError):
            os.chmod(path, 0o700)
