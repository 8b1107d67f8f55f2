"""The worker that was ordered before the supervisor: it is the pool's first, or it is let go.

Runs in: supervisor. Behind `ports`. Its fork may be reported before the pool wants it.
"""

from __future__ import annotations

import os

from killable.supervisor.linux.early_guard import FIRST_WORKER
from killable.supervisor.linux.zygote_orders import NewWorker


class EarlyWorker:
    """What a zygote host keeps of it."""

    def __init__(self, worker: NewWorker | None) -> None:
        self._worker = worker
        """None: there is none, or somebody has it."""
        self._fork: tuple[int, int] | None = None
        """Its pid and pidfd, if they came before the pool wanted it."""
        self._unwanted: NewWorker | None = None
        """It was let go, and its cgroup is still there."""

    def take(self, worker_id: str, *, is_connected: bool) -> NewWorker | None:
        """Hand the worker over, if it has this id and its zygote's socket is there; else it is not wanted."""
        worker = self._worker
        if worker is None:
            return None
        if worker.worker_id != worker_id or not is_connected:
            self.let_go()
            return None
        self._worker = None
        return worker

    def note_fork(self, pid: int, descriptors: list[int]) -> None:
        """Keep its pidfd until the pool wants it. Close the descriptors if nobody will."""
        if self._worker is not None and descriptors:
            self._fork = pid, descriptors[0]
            return
        self.let_go()  # no descriptor was left here for its pidfd
        for descriptor in descriptors:
            os.close(descriptor)

    def take_fork(self) -> tuple[int, int] | None:
        """Hand its pid and pidfd over, if they have come."""
        fork, self._fork = self._fork, None
        return fork

    def let_go(self) -> None:
        """Let a worker that nobody wants leave, or die with its zygote."""
        if self._worker is None:
            return
        self._worker.let_go()
        self._unwanted, self._worker = self._worker, None
        fork = self.take_fork()
        if fork is not None:
            os.close(fork[1])

    def on_end(self, worker_id: str) -> None:
        """Take note that a worker that the pool does not know was not forked, or has exited."""
        if worker_id == FIRST_WORKER:
            self.let_go()
            self.remove_cgroup()

    def remove_cgroup(self) -> None:
        """Remove the cgroup of a worker that was let go. It is gone, with its zygote at the latest."""
        if self._unwanted is not None:
            self._unwanted.remove_cgroup()
            self._unwanted = None

    def close_in_child(self) -> None:
        """Close the descriptors in a fork of this process."""
        if self._worker is not None:
            self._worker.close_in_child()
        if self._fork is not None:
            os.close(self._fork[1])
