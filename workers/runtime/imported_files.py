"""Which of the imported files are the user's own: what has to be loaded anew when it changes.

Runs in: zygote | a child of it that only looks (start method spawn).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from typing import Any

from killable.workers.protocol.zygote_messages import Imported, SourceFile

FILES_PER_MESSAGE = 200
"""At most: a path has 4,096 bytes at most (PATH_MAX), and mostly some dozens."""
_BYTES_PER_MESSAGE = 100_000
_INSTALLED = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")
_LIBRARIES = (
    os.path.dirname(os.path.realpath(os.__file__)) + os.sep,
    os.path.dirname(os.path.dirname(os.path.realpath(__file__))) + os.sep,
)
"""The standard library, and this package."""


def imported_files(error: BaseException | None = None) -> list[SourceFile]:
    """Return the files of modules that are imported, or that `error` came from, as they are now, sorted by path.

    Not those that were installed: they change with an installation, not in an editor.
    """
    modules = (getattr(module, "__file__", None) for module in tuple(sys.modules.values()))
    paths = {path for path in (*modules, *_files_of(error)) if isinstance(path, str) and os.path.isabs(path)}
    folders: dict[str, str] = {}
    return [file for path in sorted(paths) if _is_own(path, folders) and (file := _as_it_is(path)) is not None]


def messages(files: Iterable[SourceFile]) -> Iterator[Imported]:
    """Yield the messages that carry these files."""
    some: list[list[Any]] = []
    size = 0
    for file in files:
        some.append([*file])
        size += len(file.path) * 6  # what JSON may make of a character
        if len(some) == FILES_PER_MESSAGE or size > _BYTES_PER_MESSAGE:
            yield Imported(some)
            some, size = [], 0
    if some:
        yield Imported(some)


def _files_of(error: BaseException | None) -> Iterator[str]:
    """Yield the files of an error: of its stack, and the one that could not be parsed."""
    while error is not None:
        if isinstance(error, SyntaxError) and error.filename:
            yield error.filename
        frames = error.__traceback__
        while frames is not None:
            yield frames.tb_frame.f_code.co_filename
            frames = frames.tb_next
        error = error.__cause__ or error.__context__


def _is_own(path: str, folders: dict[str, str]) -> bool:
    """`folders`: real paths by path. Most files share few of them: 200 looked at one by one take 6 ms of each start."""
    folder, name = os.path.split(path)
    if folder not in folders:
        folders[folder] = os.path.realpath(folder)
    real = os.path.realpath(path) if os.path.islink(path) else f"{folders[folder]}{os.sep}{name}"
    return not real.startswith(_LIBRARIES) and not any(part in real for part in _INSTALLED)


def _as_it_is(path: str) -> SourceFile | None:
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return None  # of a module that has no file, whatever it says
    return SourceFile(path, found.st_mtime_ns, found.st_size)
