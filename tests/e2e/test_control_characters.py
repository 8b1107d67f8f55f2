"""A terminal obeys no character of a job, in what it streams, prints, returns or raises, nor of a client."""

from __future__ import annotations

import os
import pty
import subprocess

import pytest
from support.killable_command import COMMAND, Command, Server

ESCAPE = "\x1b]0;owned\x07\r\x9b31m\u202e"
SHOWN = "␛]0;owned␇␍\ufffd31m\ufffd"
JOBS = f"""
from killable import job

ESCAPE = {ESCAPE!r}

@job
def shouts(how: str):
    print("printed " + ESCAPE, flush=True)
    if how == "raises":
        raise ValueError("raised " + ESCAPE)
    if how == "returns":
        return "returned " + ESCAPE
    if how == "bytes":
        return b"returned " + ESCAPE.encode()
    return ["returned " + ESCAPE]

@job
def streams():
    yield "streamed " + ESCAPE
"""


def on_terminal(command: Command, *args: str) -> str:
    """Run a command on a terminal of its own, and return what the terminal gets."""
    ours, theirs = pty.openpty()
    env = {"COLUMNS": "300", "TERM": "dumb"}
    with command.start(*args, env=env, stdin=theirs, stdout=theirs, stderr=theirs):
        os.close(theirs)
        seen = b""
        try:
            while part := os.read(ours, 65536):
                seen += part
        except OSError:  # EIO: nobody has the other end any more
            pass
    os.close(ours)
    return seen.decode().replace("\r\n", "\n")


@pytest.mark.parametrize("how", ["raises", "returns", "bytes"])
def test_no_verb_gives_a_terminal_what_a_job_has_written_to_obey(how: str, command: Command, server: Server) -> None:
    del server
    job_id = command.json("submit", "shouts", "-i", f"how={how}", "--tag", f"who={ESCAPE}", "--detach")["job_id"]
    command.run("result", job_id, "--wait", "60")
    told = {
        verb: on_terminal(command, verb, *args)
        for verb, *args in (
            ("submit", "shouts", "-i", f"how={how}"),
            ("result", job_id),
            ("logs", job_id),
            ("explain", job_id),
            ("inspect", job_id),
            ("ps", "--all"),
            ("kill", job_id, "--reason", ESCAPE),
        )
    }
    told["stream"] = on_terminal(command, "submit", "streams")
    for verb, text in told.items():
        assert not set(text) & set(ESCAPE) - set("]0;owned31m"), (verb, text)
    said = "raised " if how == "raises" else "returned "
    assert f"{said}{SHOWN[:9]}" in told["result"], told["result"]  # of an error rich drops more by itself
    assert f"printed {SHOWN}" in told["logs"], told["logs"]
    assert f"streamed {SHOWN}" in told["stream"], told["stream"]


def test_a_pipe_gets_it_as_it_is(command: Command, server: Server) -> None:
    del server
    env = {**os.environ, "KILLABLE_URL": command.url}
    told = subprocess.run([*COMMAND, "submit", "streams"], cwd=command.folder, env=env, capture_output=True, timeout=60)
    assert told.stdout == f"streamed {ESCAPE}".encode()
