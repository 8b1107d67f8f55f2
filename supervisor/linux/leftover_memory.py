"""What the processes of a worker have left in memory: found when they are gone, and removed in a thread.

Runs in: supervisor. Part of the seam.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from functools import partial

from killable.supervisor import event_loops
from killable.workers.protocol import named_memory
from killable.workers.runtime import memory_removal
from killable.workers.runtime.removal import remove_tree


class LeftoverMemory:
    """The leftovers of one worker. `folder` is its temporary directory, in the supervisor's."""

    def __init__(self, folder: str, since: float, *, is_program: bool) -> None:
        """`since`: when the worker was started, CLOCK_REALTIME seconds. `is_program`: it runs the calls of an Executor,
        whose program may use what they have left.
        """
        self._folder = folder
        self._log = os.path.join(folder, named_memory.LOG_NAME)
        self._since = since
        self._is_program = is_program
        self._is_removed = False

    def remove(self, loop: asyncio.AbstractEventLoop, creators: Sequence[int], removed: Callable[[int], None]) -> None:
        """Remove what is left, and call `removed` with the number of objects; at once if there are none.

        `creators` are the pids of the worker's processes. Freeing memory takes a second for each 6 GiB: a thread does
        it, for other workers have to be killed meanwhile.
        """
        segments = memory_removal.segments_of(creators, self._since, unattached_only=self._is_program)
        if not segments and not os.path.exists(self._log):
            removed(0)
            return
        try:
            removing = event_loops.in_thread(loop, partial(self._remove, segments))
        except RuntimeError:  # no thread can be started
            removed(self._remove(segments))
            return
        removing.add_done_callback(lambda done: None if done.cancelled() else removed(done.result()))

    def _remove(self, segments: Sequence[int]) -> int:
        self._is_removed = True
        found = memory_removal.remove_named(self._log, holding=self._is_program)
        memory_removal.hold(os.path.dirname(self._folder), found.held)
        return found.number + memory_removal.remove_segments(segments)

    def clear_folder(self) -> None:
        """Remove the temporary directory, and first what the log in it says is left, if that was not done yet."""
        if not self._is_removed:
            memory_removal.remove_named(self._log)
        remove_tree(self._folder)
