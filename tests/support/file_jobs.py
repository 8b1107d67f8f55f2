"""Jobs that read uploaded files and save files.

Runs in: worker.
"""

from __future__ import annotations

import hashlib
import os
import resource
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from killable import Context, InputFile, job
from killable.workers.protocol.messages import Kind, SavedFile


@job
def digest(file: InputFile) -> dict[str, Any]:
    return {"name": file.name, "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}


@dataclass
class Album:
    title: str
    pictures: list[InputFile]


@job
def names(album: Album, cover: InputFile | None = None, text: str = "") -> list[str]:
    return [each.name for each in [*album.pictures, *filter(None, [cover])]]


@job
def overwrite(file: InputFile) -> str:
    """Try to change what it was given."""
    tried = {}
    for name, act in {
        "write": lambda: file.write_text("mine"),
        "append": lambda: open(file, "a").close(),
        "truncate": lambda: os.truncate(file, 0),
        "unlink": file.unlink,
        "replace": lambda: os.replace(file, file.parent / "other"),
        "beside": lambda: (file.parent / "new").write_text("x"),
        "siblings": lambda: os.listdir(file.parent.parent),
    }.items():
        try:
            act()
            tried[name] = "done"
        except OSError as error:
            tried[name] = error.strerror
    return " ".join(sorted(name for name, how in tried.items() if how == "done"))


@job
def write_too_much(ctx: Context, path: str = "") -> None:
    """Save what the machine does not let it write: a full disk is told in the same way."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        ctx.save_file(path or bytes(1001), "large")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@job
def wait_with(ctx: Context, file: InputFile, gate: str) -> str:
    """Wait until someone opens the gate, then read the file."""
    ctx.emit("there\n")
    open(gate, "rb").close()
    return file.read_text()


@job
def save(ctx: Context, name: str, content: str = "content", size: int = 0, content_type: str = "") -> str:
    """Save a file from the job's own folder: so many bytes, or this content."""
    source = ctx.tmp / "source"
    source.write_bytes(b"x" * size if size else content.encode())
    ctx.save_file(source, name, content_type=content_type)
    return "moved" if not source.exists() else "copied"


@job
def save_two(ctx: Context, size: int) -> None:
    """Save a file of so many bytes, then one of twice as many."""
    for number in (1, 2):
        source = ctx.tmp / "source"
        source.write_bytes(b"x" * size * number)
        ctx.save_file(source, f"{number}")


@job
def save_outside(ctx: Context, path: str) -> None:
    ctx.save_file(path)


@job
def save_and_wait(ctx: Context, gate: str) -> None:
    ctx.save_file(b"early", "early.txt")
    ctx.emit("saved\n")
    open(gate, "rb").close()
    ctx.save_file(b"late", "late.txt")


@job
def save_many(ctx: Context, number: int) -> None:
    for each in range(number):
        ctx.save_file(b"", f"{each}")


@job(attempts_max=2, backoff_s=0)
def save_in_each_attempt(ctx: Context) -> None:
    ctx.save_file(b"", f"attempt-{ctx.attempt}")
    if ctx.attempt == 1:
        os.kill(os.getpid(), 9)


@job
def hostile(ctx: Context, what: str) -> None:
    """Report a file that is none, or has the name of another one."""
    assert ctx._staging, "the server keeps no files: what follows would happen in whatever folder this is"
    staging = Path(ctx._staging)
    staging.mkdir(exist_ok=True)
    staged = staging / "1"
    name = "innocent.txt"
    match what:
        case "symlink":
            (ctx.tmp / "other").write_text("x")
            staged.symlink_to(ctx.tmp / "other")
        case "pipe":
            os.mkfifo(staged)
        case "socket":
            with socket.socket(socket.AF_UNIX) as own:
                own.bind(str(staged))
        case "hard link":
            (ctx.tmp / "other").write_text("x")
            os.link(ctx.tmp / "other", staged)
        case "folder":
            staged.mkdir()
            (staged / "in it").write_text("x")
        case "nothing":
            pass
        case _:
            staged.write_text("x")
            name = what
    ctx._channel.send(Kind.FILE, SavedFile(1, name).encode())
