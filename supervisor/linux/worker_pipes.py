"""The channels to a worker: sockets for orders and calls, pipes for what it reports, memory for stacks and tokens.

A second pipe for stderr is optional: with one pipe for both the order of what is printed is kept, with two it is known
which is which.

Runs in: supervisor. Behind `ports`.
"""

from __future__ import annotations

import os
import socket

from killable.workers.named_tuples import NamedTuple
from killable.workers.protocol import token_ring


class WorkerPipes(NamedTuple):
    """The supervisor's ends, and the worker's.

    Once the worker's are sent, they are closed here, but for those that both sides keep: the memory, and the worker's
    end of the line, from which calls are taken back.
    """

    ours: tuple[int, int, int, int, int, int, int]
    """Orders, frames, output, stderr (-1: it goes to the output pipe), notifications, stack, tokens."""
    line: tuple[int, int]
    theirs: tuple[int, ...]

    @property
    def only_theirs(self) -> tuple[int, ...]:
        """Return the worker's ends that are closed here."""
        return self.theirs[:-3]


def open_pipes(*, separate_stderr: bool) -> WorkerPipes:
    """Open the sockets, the pipes and the memory. Raise OSError, leaving nothing open.

    `separate_stderr`: with a pipe of its own for stderr.
    """
    opened: list[int] = []
    try:
        theirs, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        ours.shutdown(socket.SHUT_RD)  # nothing is ever read here: a job that writes into it gets EPIPE
        opened.extend((theirs.detach(), ours.detach()))
        line_theirs, line_ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        line_ours.shutdown(socket.SHUT_RD)
        opened.extend((line_theirs.detach(), line_ours.detach()))
        for _ in range(3):
            opened.extend(os.pipe2(os.O_CLOEXEC))
        opened.append(os.memfd_create("killable-stack", os.MFD_CLOEXEC))
        opened.append(token_ring.create())
        if separate_stderr:
            opened.extend(os.pipe2(os.O_CLOEXEC))
        else:
            opened.append(os.dup(opened[7]))  # output_w
    except OSError:
        for descriptor in opened:
            os.close(descriptor)
        raise
    orders_r, orders_w, line_r, line_w, frames_r, frames_w, output_r, output_w, *others = opened
    notify_r, notify_w, stack, tokens, *stderr = others
    return WorkerPipes(
        ours=(orders_w, frames_r, output_r, stderr[0] if separate_stderr else -1, notify_r, stack, tokens),
        line=(line_w, line_r),
        theirs=(orders_r, frames_w, output_w, stderr[-1], notify_w, line_r, stack, tokens),
    )
