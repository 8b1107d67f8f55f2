"""`killable ps`: as many columns as there is room for, and `--watch`, in a terminal and in a pipe."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.killable_command import Command, Process, Serve, Server, client_of, read_line, start_detached
from support.pseudo_terminal import on_screen
from support.screen import LiveScreen

PROGRAM = [sys.executable, "-m", "killable.api.cli"]


@contextmanager
def running(command: Command, *args: str) -> Iterator[Process]:
    """Start it; it does not outlive the body."""
    with command.start(*args) as process:
        try:
            yield process
        finally:
            process.kill()


def state_in(text: str, job: str) -> str:
    """Return the state in the row of a job; empty: it has none."""
    return next((line.split()[2] for line in text.splitlines() if line.startswith(job[:12])), "")


def line_behind_the_stop(process: Process) -> str:
    """Return the next line; if it tells that the job stops, which may be too short to be told, the one after it."""
    line = read_line(process)
    return read_line(process) if "stopping" in line else line


@pytest.fixture
def watching(folder: Path, server: Server) -> Command:
    return Command(folder, server.url, program=PROGRAM)


def test_a_wide_terminal_has_more_columns_and_failures_show_their_code(command: Command) -> None:
    running = start_detached(command, "tick", tags={"team": "search"})[:12]
    assert command.run("submit", "fails").returncode == 1
    wide = on_screen(command, "ps", "-a", columns=200).lines
    (head,) = [line for line in wide if line.startswith("JOB")]
    assert head.split() == [
        "JOB",
        "TYPE",
        "STATE",
        "ERROR",
        "AGE",
        "RAN",
        "TOKENS",
        "POOL",
        "WORKER",
        "PID",
        "CPU",
        "RSS",
        "TAGS",
    ]
    (failed,) = [line for line in wide if " fails " in line]
    assert " failed " in failed and " exception " in failed and " my_jobs " in failed
    (row,) = [line for line in wide if line.startswith(running)]
    assert row.split()[-1] == "team=search"
    for columns in (60, 80, 100):
        narrow = on_screen(command, "ps", "-a", columns=columns).lines
        assert max(map(len, narrow)) <= columns
        assert any("exception" in line for line in narrow if " fails " in line), narrow


def test_a_queued_job_has_no_process(command: Command, server: Server) -> None:
    (pool,) = server.announcement["pools"]
    for _ in range(pool["workers_max"]):
        start_detached(command, "tick")
    command.ok("submit", "tick", "-d")
    (queued,) = [job for job in command.json("ps")["jobs"] if job["state"] == "queued"]
    assert queued["worker"] is None and queued["pid"] is None


def test_in_a_pipe_each_change_is_a_line(watching: Command, command: Command) -> None:
    job = start_detached(command, "tick")
    with running(watching, "ps", "--watch") as text, running(watching, "ps", "--watch", "--json") as lines:
        assert read_line(text).split()[1:4] == [job[:12], "tick", "running"]
        first = json.loads(read_line(lines))
        assert first["job_id"] == job and first["worker"]["worker_id"] == first["worker_id"]
        with client_of(command.url) as client:
            client.job(job).cancel()
        assert "  cancelled  ran " in line_behind_the_stop(text)
        last = json.loads(line_behind_the_stop(lines))
        assert (last["job_id"], last["state"], last["worker"]) == (job, "cancelled", None)
        assert last.keys() == first.keys()
        for process in (text, lines):
            process.send_signal(signal.SIGINT)
            said = process.communicate(timeout=60)
            assert process.returncode == 130 and said == ("", "")


def test_it_ends_with_its_reader(watching: Command, command: Command) -> None:
    """Also if it has nothing more to print, and before it was connected wholly."""
    start_detached(command, "tick")
    reading, writing = os.pipe()
    os.close(reading)
    with running(watching, "ps", "--watch") as once, watching.start("ps", "--watch", stdout=writing) as never:
        os.close(writing)
        read_line(once)
        assert once.stdout is not None
        once.stdout.close()
        for process in (once, never):
            assert process.wait(60) == 0
            assert process.stderr is not None and process.stderr.read() == ""


def test_in_a_terminal_the_list_is_drawn_in_place_and_stays(watching: Command, command: Command) -> None:
    """It says how it ends, however narrow the terminal is."""
    job = start_detached(command, "tick")
    with LiveScreen(watching, "ps", "-w", "-a", columns=60, lines=30) as screen:
        screen.until(lambda text: state_in(text, job) == "running" and "(Ctrl-C ends)" in text)
        with client_of(command.url) as client:
            client.job(job).cancel()
        screen.until(lambda text: state_in(text, job) == "cancelled")
        assert screen.text.count(job[:12]) == 1
        screen.type("\x03")
        assert screen.ended() == 130
        assert state_in(screen.text, job) == "cancelled" and screen.modes == screen.before


@pytest.mark.own_server
def test_a_server_that_goes_away_is_waited_for(watching: Command, server: Server, serve: Serve) -> None:
    port = server.url.rpartition(":")[2]
    start_detached(Command(watching.folder, server.url), "tick")
    with running(watching, "ps", "--watch") as process:
        read_line(process)
        server.stop()
        assert process.stderr is not None
        assert process.stderr.readline() == "the server does not answer; trying again\n"
        serve("my_jobs.py", "--port", port)
        assert process.stderr.readline() == "watching again\n"
        process.send_signal(signal.SIGTERM)


def test_without_a_server_it_ends_at_once(tmp_path: Path) -> None:
    assert Command(tmp_path, "http://127.0.0.1:1").run("ps", "--watch").returncode == 69
