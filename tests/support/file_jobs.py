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


@job
def write_after_saving(ctx: Context, size: int, then: str) -> None:
    """Save a file of so many bytes, which stays open, and give it each of the sizes that come from a pipe."""
    source = ctx.tmp / "source"
    with source.open("wb") as file:
        file.write(b"x" * size)
        file.flush()
        ctx.save_file(source, "open.bin")
        ctx.emit("saved\n")
        with open(then) as sizes:
            for line in sizes:
                file.truncate(int(line))
                file.seek(0)
                file.write(b"y" * int(line))
                file.flush()
                ctx.emit("written\n")


@job
def save_again_and_again(ctx: Context, times: int, last: str = "") -> None:
    """Save a file under one name, each time with another content; at last a pipe, or a folder."""
    for number in range(times):
        ctx.save_file(f"{number}".encode(), "same.txt")
    if last:
        staged = Path(ctx._staging) / f"{times + 1}"
        os.mkfifo(staged) if last == "pipe" else staged.mkdir()
        ctx._channel.send(Kind.FILE, SavedFile(times + 1, "same.txt").encode())
