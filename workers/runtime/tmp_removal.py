"""Remove a directory tree, including directories without write permission.

Runs in: supervisor | worker. For a job's temporary directory, when its processes are gone.
"""

from __future__ import annotations

import contextlib
import os

# `shutil` and `subprocess` are imported below: they come with the archive formats and selectors, and few workers have a
# directory to remove.

_DETACH, _NO_FOLLOW = 2, 8
"""MNT_DETACH and UMOUNT_NOFOLLOW of umount2(2)."""


def remove_tree(path: str | os.PathLike[str]) -> None:
    """Remove a tree; files that cannot be removed stay. Symbolic links are removed and never followed.

    What is mounted in it is unmounted, and nothing of that removed: it is somebody else's data. If something cannot be
    unmounted the whole tree stays.
    """
    if not _unmount_below(path):
        return
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


def _unmount_below(path: str | os.PathLike[str]) -> bool:
    """Unmount what is mounted at a folder or below it; return whether nothing is."""
    try:
        points = _mounted_below(path)
        if points:
            import ctypes

            unmount = ctypes.CDLL(None, use_errno=True).umount2
            for point in reversed(points):  # the latest first: it lies in or over another
                unmount(point, _DETACH | _NO_FOLLOW)
            points = _mounted_below(path)
    except OSError:
        return False  # no descriptor is left, for example: a folder too many is better than a file too few
    return not points


def _mounted_below(path: str | os.PathLike[str]) -> list[bytes]:
    """Return the mount points at a folder or below it, in the order in which they were mounted (mountinfo, proc(5))."""
    folder = os.fsencode(os.path.realpath(path))
    with open("/proc/self/mountinfo", "rb") as file:
        fields = [line.split(b" ", 5)[4] for line in file.read().splitlines()]
    points = [point.decode("unicode_escape").encode("latin-1") if b"\\" in point else point for point in fields]
    return [point for point in points if point == folder or point.startswith(folder + b"/")]
