"""The log of named memory: which shared memory and semaphores of /dev/shm a worker and its children have made.

Runs in: supervisor | guard | worker. The worker's processes append lines to a file in its temporary directory
(`workers/runtime/named_memory_hooks`); whoever finds them gone reads it (`workers/runtime/leftover_memory`). It holds
what a killed process can no longer tell. Lines of `multiprocessing.resource_tracker` are in it too: it takes the
tracker's place.

    SINCE:SECONDS        the log was begun; CLOCK_REALTIME
    OPEN:NAME            shared memory is about to be made
    MADE:INODE:NAME      it was made
    SEEN:NAME            it was attached
    GONE:NAME            it was unlinked, or could not be made
    HELD:TYPE:INODE:NAME left by a call that ran through: its program may still use it
    REGISTER:NAME:TYPE   the tracker's lines. A process with another interpreter, which `multiprocessing` has spawned,
    UNREGISTER:NAME:TYPE writes no others
"""

from __future__ import annotations

import json
from typing import BinaryIO

from killable.workers.named_tuples import NamedTuple

LOG_BYTES_MAX = 16 << 20
"""Some 80,000 segments that one job makes. Half a second to read."""
OBJECTS_MAX = 100_000
_LINE_BYTES_MAX = 1024
"""A name has 255 bytes at most (shm_overview(7))."""
LOG_NAME = "memory-names"
"""The log in the temporary directory of a worker."""
CONFINED = ".confined"
"""End of the name of the temporary directory of a worker whose sandbox keeps it from /dev/shm. Its log counts for
nothing: it could have what it may not touch removed by those who may.
"""
SHARED_MEMORY = "shared_memory"
SEMAPHORE = "semaphore"


class NamedObject(NamedTuple):
    """An object that was made and not unlinked."""

    name: str
    """As shm_open(3) and sem_open(3) take it, with a leading slash."""
    kind: str
    inode: int = 0
    """0: not known."""
    is_held: bool = False
    is_tracked: bool = False
    """The resource tracker was told of it. It was not, if it is to outlive its process (`track=False`, Python 3.13)."""

    @property
    def file_name(self) -> str:
        """Its file in /dev/shm (shm_overview(7), sem_overview(7))."""
        name = self.name.removeprefix("/")
        return f"sem.{name}" if self.kind == SEMAPHORE else name


def line_of(verb: str, *values: object) -> bytes:
    return (":".join((verb, *map(str, values))) + "\n").encode(errors="surrogateescape")


def held(found: NamedObject) -> bytes:
    return line_of("HELD", found.kind, found.inode, found.name)


class NamedMemory:
    """What a log says."""

    def __init__(self, log: BinaryIO) -> None:
        """Read a log. Lines that nobody understands are passed over, and of a log that is very long only the first part
        is read: a job may write whatever it likes. Raise OSError.
        """
        self.since = 0.0
        self._objects: dict[tuple[str, str], NamedObject] = {}
        self._foreign: set[str] = set()
        left = LOG_BYTES_MAX
        while (
            left > 0
            and len(self._objects) + len(self._foreign) < OBJECTS_MAX
            and (line := log.readline(_LINE_BYTES_MAX))
        ):
            left -= len(line)
            self._apply(line.rstrip(b"\n").decode(errors="surrogateescape"))

    @property
    def objects(self) -> list[NamedObject]:
        return list(self._objects.values())

    def _apply(self, line: str) -> None:
        verb, _, rest = line.partition(":")
        key = SHARED_MEMORY, rest
        match verb:
            case "SINCE":
                self.since = float(_number(rest))
            case "OPEN":
                self._objects[key] = NamedObject(rest, SHARED_MEMORY)
            case "MADE":
                inode, _, name = rest.partition(":")
                self._objects[SHARED_MEMORY, name] = NamedObject(name, SHARED_MEMORY, _number(inode))
                self._foreign.discard(name)
            case "SEEN" if key not in self._objects:
                self._foreign.add(rest)
            case "GONE":
                self._objects.pop(key, None)
                self._foreign.discard(rest)
            case "HELD":
                kind, inode, name = [*rest.split(":", 2), "", ""][:3]
                self._objects[kind, name] = NamedObject(name, kind, _number(inode), is_held=True)
            case _:
                self._apply_tracker_line(*_tracker_line(line))

    def _apply_tracker_line(self, verb: str, name: str, kind: str) -> None:
        if verb == "UNREGISTER":
            self._objects.pop((kind, name), None)
        elif verb == "REGISTER" and kind in (SEMAPHORE, SHARED_MEMORY) and name not in self._foreign:
            # Up to Python 3.12 the tracker is told of what is only attached, too (bpo-38119): `_foreign`.
            known = self._objects.get((kind, name), NamedObject(name, kind))
            self._objects[kind, name] = known._replace(is_tracked=True)


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 20 else 0


def _tracker_line(line: str) -> tuple[str, str, str]:
    """Return verb, name and type of a line of the resource tracker; newer Pythons write JSON."""
    if line.startswith("{"):
        import base64  # here: few workers need it

        try:
            members = json.loads(line)
            name = base64.urlsafe_b64decode(members["base64_name"]).decode(errors="surrogateescape")
            return str(members["cmd"]), name, str(members["rtype"])
        except (ValueError, TypeError, KeyError, RecursionError):
            return "", "", ""
    verb, _, rest = line.partition(":")
    name, _, kind = rest.rpartition(":")
    return verb, name, kind
