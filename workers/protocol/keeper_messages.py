"""The messages between `killable run` and the keeper of its command: one named tuple per message.

Runs in: supervisor | keeper.

    supervisor → keeper    Pass, KillAll
    keeper → supervisor    Started; Paused; Ended; TreeGone; StartFailed in place of all or of what is left
"""

from __future__ import annotations

from typing import Any

from killable.workers.named_tuples import NamedTuple
from killable.workers.protocol.zygote_messages import ProcessEnding, decoded


class Pass(NamedTuple):
    """Send a signal to the command's process group, and let it run if it is stopped."""

    signal: int


class KillAll(NamedTuple):
    """Send SIGKILL to the command and to everything below it."""


class Started(NamedTuple):
    """The command is forked, and about to execute its program (execve(2)), which may take long or fail."""

    pid: int
    at: float
    """CLOCK_MONOTONIC seconds."""


class StartFailed(NamedTuple):
    """No process of it is left. `errno`: of fork(2), or, behind `Started`, of what the fork did, execve(2) at last."""

    errno: int
    of_program: bool
    """Whether the program could not be executed; else no process could be made or set up."""


class Paused(NamedTuple):
    """A signal has stopped the command."""

    signal: int


class Ended(NamedTuple):
    """The command has ended. What it has left is being killed."""


class TreeGone(NamedTuple):
    """The command has been reaped, and no process below the keeper is left."""

    ending: ProcessEnding
    swept: int
    """How many processes the command had left, which were killed."""


Message = Pass | KillAll | Started | StartFailed | Paused | Ended | TreeGone

_TYPES: dict[str, type[Any]] = {cls.__name__: cls for cls in Message.__args__}


def from_wire(members: dict[str, Any]) -> Message:
    """Decode a message. Raise KeyError or TypeError for one that is none."""
    return decoded(members, _TYPES)  # type: ignore[no-any-return]
