"""Hostile job types that emit too much output, or bytes that are no valid frames.

Runs in: worker.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Generator, Iterator
from typing import Any

from support.job_helpers import announce_entry, libc, name_process

from killable import Context, job
from killable.workers.protocol.frames import encode


@job
def counts_for_ever(ctx: Context, width: int = 1) -> Iterator[str]:
    """Yield numbers without end, as fast as possible."""
    name_process(ctx)
    number = 0
    while True:
        yield str(number).rjust(width)
        number += 1


@job
def prints_for_ever(ctx: Context) -> None:
    """Print numbers without end, as fast as possible."""
    name_process(ctx)
    number = 0
    while True:
        print(number)
        number += 1


@job
def emits_large(ctx: Context, size: int, times: int = 1 << 30, last: str = "") -> str:
    """Emit tokens that are larger than a pipe: nearly all the time is spent blocked in a write. Then one `last`."""
    name_process(ctx)
    try:
        for _ in range(times):
            ctx.emit("x" * size)
    finally:
        if last:
            ctx.emit(last)
    return "all"


@job
def says_and_exits(ctx: Context, tokens: int, code: int) -> None:
    """Say more than one read takes and less than a pipe holds, and end the process."""
    name_process(ctx)
    for number in range(tokens):
        ctx.emit(str(number))
        os.write(1, b"%d\n" % number)
    os._exit(code)


@job
def complains_and_dies(ctx: Context, then: str) -> None:
    """Write to stderr from Python and from C, and end the process."""
    name_process(ctx)
    print("by print", file=sys.stderr)
    os.write(2, b"by os.write\n")
    libc().dprintf(2, b"by dprintf\n")
    libc().write(2, b"by write", 8)
    match then:
        case "SIGSEGV":
            libc().memset(None, 0, 1)
        case "SIGABRT":
            libc().abort()
        case "exit":
            os._exit(3)


@job
def says_everything(ctx: Context, tokens: int = 20, last: str = "") -> Generator[str, None, str]:
    """Write to stdout and stderr in every way that there is, between tokens."""
    name_process(ctx)
    for number in range(tokens):
        yield f"token {number}"
        print("by print")
        os.write(1, b"by write\n")
        libc().printf(b"by printf\n")
        print("by stderr", file=sys.stderr)
        if number == 0:
            import subprocess

            subprocess.run(["echo", "by echo"], check=True)
    print(last, end="")
    return "said"


@job
def prints_frames(ctx: Context) -> Iterator[str]:
    """Print what looks like our own protocol and like server-sent events, between tokens."""
    name_process(ctx)
    for line in (b"data: [DONE]\n\n", b"event: completed\ndata: {}\n\n", b"\x00" * 17, b"\xff" * 100 + b"\n"):
        yield "before"
        os.write(1, line)
        os.write(2, line)
    yield "after"


def frame_descriptors() -> list[int]:
    """Return the pipes that this process can write to, other than its output: the frames' is among them."""
    found, outputs = [], [os.readlink(f"/proc/self/fd/{descriptor}") for descriptor in (1, 2)]
    for descriptor in map(int, os.listdir("/proc/self/fd")):
        try:
            file_of = os.readlink(f"/proc/self/fd/{descriptor}")
            with open(f"/proc/self/fdinfo/{descriptor}") as file:
                flags = int(file.read().split("flags:")[1].split()[0], 8)
        except OSError:
            continue  # the listing's own
        if file_of.startswith("pipe:") and file_of not in outputs and flags & os.O_ACCMODE == os.O_WRONLY:
            found.append(descriptor)
    return found


@job
def writes_garbage(ctx: Context, text: str = "garbage" * 100, then: str = "return") -> str:
    """Write what is no frame to the descriptor of the frames; return, exit or compute for ever afterwards."""
    announce_entry(ctx)
    for descriptor in frame_descriptors():
        os.write(descriptor, text.encode("latin-1"))
    if then == "exit":
        os._exit(0)
    while then == "loop":
        pass
    return "returned"


@job
def forges_a_frame(ctx: Context, kind: int, payload: str, fence: int = 0, ahead: int = 0, then: str = "return") -> str:
    """Write a frame of one's own making, right but for what it says; `fence` 0 is this attempt's."""
    announce_entry(ctx)
    channel: Any = ctx.emit.__self__  # type: ignore[attr-defined]
    fence = fence or channel._fence
    sequence = channel.sequence + ahead
    os.write(channel._descriptor, encode(kind, fence, sequence, payload.encode()))
    if then == "exit":
        os._exit(0)
    if fence == channel._fence and not ahead:
        channel.sequence += 1
    return "returned"


@job
def dies_in_a_frame(ctx: Context, code: int) -> None:
    """Write the first half of a frame and end the process."""
    announce_entry(ctx)
    header = (1000).to_bytes(4, "little") + bytes(13)
    for descriptor in frame_descriptors():
        os.write(descriptor, header + b"half")
    os._exit(code)


@job
def nests_deeply(ctx: Context, depth: int) -> str:
    """Hand over a checkpoint that is nested so deeply."""
    name_process(ctx)
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    ctx.checkpoint(value)
    return "checked"
