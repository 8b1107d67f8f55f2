"""Files of the user's code: whether they are as they were when they were imported.

Runs in: supervisor, in a thread. Behind `ports`.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable
from contextlib import suppress

from killable.workers.protocol.zygote_messages import SourceFile


def changed(files: Iterable[SourceFile]) -> list[str]:
    """Return the paths of those that have another size or time now, or are gone."""
    return [file.path for file in files if as_it_is(file.path) != file]


def forget_compiled(paths: Iterable[str]) -> None:
    """Remove what was compiled from these: an import takes it for current if size and second of the source are the
    same, and an edit may follow another one sooner.
    """
    for path in paths:
        folder, name = os.path.split(path)
        stem = glob.escape(os.path.join(folder, "__pycache__", name.removesuffix(".py")))
        for compiled in glob.glob(f"{stem}.*.pyc") if name.endswith(".py") else ():
            with suppress(OSError):
                os.unlink(compiled)


def as_it_is(path: str) -> SourceFile | None:
    """Return a file with its size and time now; None: it is gone."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return SourceFile(path, found.st_mtime_ns, found.st_size)
