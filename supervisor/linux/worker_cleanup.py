"""What a worker has left when it is reaped: processes in its cgroup, memory, and its temporary directory.

Runs in: supervisor. Behind `ports`.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial

from killable.supervisor import event_loops
from killable.workers.runtime import leftover_memory
from killable.workers.runtime.tmp_removal import remove_tree

logger = logging.getLogger("killable.system")

LOOK_AGAIN_S = 0.001
LOOK_AGAIN_S_MAX = 0.25
"""Time between two looks at a cgroup that is still populated when its leader is reaped: a process has moved into it,
and ends in a moment or, unkillable, never. Each wait is twice as long as the one before.
"""
LOOK_BYTES = 8 << 10
"""Of the machine's list of System V segments, some 46 of them: 0.1 ms. A longer one is read in a thread: 4,096 segments
take 20 ms and more.
"""


class WorkerCleanup:
    """Of one worker that is reaped."""

    def __init__(self, folders: tuple[str, str], since: float, *, is_program: bool) -> None:
        """`since`: when the worker was started, CLOCK_REALTIME seconds. `is_program`: it runs the calls of an Executor,
        whose program may use what they have left. `folders`: its temporary directory, in the supervisor's, and its
        folder for files that the supervisor has yet to take (empty: it has none).
        """
        self._folder, self._staging = folders
        self._log = leftover_memory.log_of(self._folder)
        self._since = since
        self._is_program = is_program
        self._is_removed = False

    def when_gone(
        self,
        loop: asyncio.AbstractEventLoop,
        is_gone: Callable[[], bool],
        kill: Callable[[], None],
        gone: Callable[[], None],
        look_s: float = LOOK_AGAIN_S,
    ) -> None:
        """Call `gone` when no process of the worker is left; until then kill again and look again."""
        if is_gone():
            gone()
            return
        kill()
        later = min(2 * look_s, LOOK_AGAIN_S_MAX)
        loop.call_later(look_s, lambda: self.when_gone(loop, is_gone, kill, gone, later))

    def remove(self, loop: asyncio.AbstractEventLoop, creators: Sequence[int], removed: Callable[[int], None]) -> None:
        """Remove the memory that is left, and call `removed` with the number of objects; at once if there are none.

        `creators` are the pids of the worker's processes. Freeing memory takes a second for each 6 GiB: a thread does
        it, for other workers have to be killed meanwhile. So it does if the machine has many segments, whoever's.
        """
        try:
            segments = self._segments(creators, LOOK_BYTES)
        except OSError:
            segments = None  # no descriptor is left: the thread looks again
        if segments == [] and not os.path.exists(self._log):
            removed(0)
            return
        try:
            removing = event_loops.in_thread(loop, partial(self._remove, creators))
        except RuntimeError:  # no thread can be started
            removed(self._remove(creators))
            return
        removing.add_done_callback(lambda done: None if done.cancelled() else removed(done.result()))

    def _segments(self, creators: Sequence[int], bytes_max: int = sys.maxsize) -> list[int] | None:
        return leftover_memory.segments_of(creators, self._since, unattached_only=self._is_program, bytes_max=bytes_max)

    def _remove(self, creators: Sequence[int]) -> int:
        number = 0
        try:
            number = leftover_memory.remove_segments(self._segments(creators) or ())
            found = leftover_memory.remove_named(self._log, holding=self._is_program)
            leftover_memory.hold(os.path.dirname(self._folder), found.held)
            self._is_removed = True
            number += found.number
        except Exception as error:  # of any kind: a job has written the log, and its end waits for this
            logger.error("memory_not_removed", extra={"detail": f"{self._folder}: {error}"})
        return number

    def clear_folder(self) -> None:
        """Remove the temporary directory, and first what the log in it says is left, if that was not done yet."""
        if not self._is_removed:
            try:
                leftover_memory.remove_named(self._log)
            except OSError:
                return  # the log stays for the end of the supervisor
        remove_tree(self._folder)
        if self._staging:
            remove_tree(self._staging)
