"""`killable top` in a real terminal, over a real server: what stands on the screen, what keys do, how it ends."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from support.killable_command import Command, Serve, Server, client_of, start_detached
from support.screen import LiveScreen

from killable.api.cli.top.grid import Grid
from killable.api.cli.top.top_app import TopApp
from killable.api.client.async_client import AsyncClient

TOP = [sys.executable, "-m", "killable.api.cli"]


@pytest.fixture
def top(folder: Path, server: Server) -> Command:
    return Command(folder, server.url, program=TOP)


def test_a_job_is_found_inspected_and_cancelled(top: Command, command: Command) -> None:
    job = start_detached(command, "tick", tags={"team": "search"})[:12]
    with LiveScreen(top, "top") as screen:
        text = screen.until(job, "live", "running", "workers  ")
        assert max(map(len, text.splitlines())) <= 80
        screen.type("/nothing\r")
        screen.until("no active job fits the filter")
        screen.type("\x1b")
        screen.until(job)
        screen.type("\r")
        tag = "tag team=search"
        screen.until("It has not ended yet", "Asked", lambda text: tag in text.replace("\n        ", " "))
        screen.type("c")
        screen.until(f"Cancel {job}?", "SIGTERM, then its grace, then SIGKILL.")
        screen.type("\r")  # Enter is no
        screen.until(lambda text: "Cancel" not in text)
        screen.type("c")
        screen.until(f"Cancel {job}?")
        screen.type("y")
        screen.until(lambda text: "was cancelled by user" in text)
        screen.type("\x1b[F")  # End
        screen.until("tree_empty", "━", "Certificate")
        screen.type("\x1b")
        screen.until("no active jobs")
        screen.type("4")
        screen.until("ENDED AS", "cancelled")
        screen.type("q")
        assert screen.ended() == 0
        assert screen.modes == screen.before


def test_a_worker_is_killed_from_its_table(top: Command, command: Command) -> None:
    job = start_detached(command, "compute")
    with client_of(command.url) as client:
        name = client.job(job).record()["worker_id"]
    with LiveScreen(top, "top", columns=120) as screen:
        screen.until(job[:12])
        screen.type("2")
        screen.until(lambda text: "PID" in text and name in text)
        screen.type("g")
        screen.until(f"\n{name} ")
        rows = [line.split()[0] for line in screen.text.splitlines() if line.startswith("w-")]
        screen.type("j" * rows.index(name) + "K")
        screen.until(f"Kill worker {name}?", f"Its job {job[:12]} is cancelled.")
        screen.type("y")
        screen.until(f"{name} is gone")
        screen.type("\x03")  # Ctrl-C
        assert screen.ended() == 0 and screen.modes == screen.before


def test_a_tall_screen_has_workers_and_jobs(top: Command, command: Command) -> None:
    start_detached(command, "tick", tags={"team": "search"})
    with LiveScreen(top, "top", columns=200, lines=50) as screen:
        text = screen.until("THREADS", "TOKENS", "team=search", "WORKER  POOL", "JOB           TYPE")
        assert text.index("WORKER  POOL") < text.index("JOB           TYPE")
        screen.type("?")
        screen.until("jobs, workers, pools, ends by code")
        screen.type("x")
        screen.until(lambda text: "ends by code" not in text)
        screen.resize(80, 24)
        screen.until(lambda text: "THREADS" not in text and "TOKENS" in text)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_ends_it_and_the_terminal_is_as_it_was(top: Command, number: signal.Signals) -> None:
    with LiveScreen(top, "top") as screen:
        screen.until("live")
        screen.process.send_signal(number)
        assert screen.ended() == 130
        assert screen.modes == screen.before
        assert screen.raw.rindex(b"\x1b[?1049l") > screen.raw.rindex(b"\x1b[?1049h")
        assert b"Traceback" not in screen.raw


def test_a_terminal_that_is_closed_ends_it(top: Command) -> None:
    with LiveScreen(top, "top") as screen:
        screen.until("live")
        screen.hang_up()
        assert screen.ended() == 130


def test_without_colours_there_are_none(top: Command, command: Command) -> None:
    start_detached(command, "tick")
    with LiveScreen(top, "top") as coloured, LiveScreen(top, "top", NO_COLOR="1") as plain:
        coloured.until("running")
        plain.until("running")
        assert b"\x1b[34m" in coloured.raw or b";34m" in coloured.raw
        for code in range(31, 38):
            assert f"\x1b[{code}m".encode() not in plain.raw and f";{code}m".encode() not in plain.raw


@pytest.mark.own_server
def test_a_server_that_goes_away_is_waited_for(top: Command, server: Server, serve: Serve) -> None:
    port = server.url.rpartition(":")[2]
    job = start_detached(Command(top.folder, server.url), "tick")
    with LiveScreen(top, "top") as screen:
        screen.until(job[:12])
        server.stop()
        screen.until("trying again")
        serve("my_jobs.py", "--port", port)
        screen.until("the server was started anew")
        screen.until(lambda text: job[:12] not in text)


async def test_jobs_that_come_and_end_change_the_rows_and_the_cursor_stays(command: Command) -> None:
    """Textual's pilot: the same application without a terminal."""
    first = start_detached(command, "tick")
    async with AsyncClient(command.url) as client:
        app = TopApp(client, command.url)
        async with app.run_test(size=(80, 24)) as pilot:
            grid = app.query_one("#jobs", Grid)

            async def until_rows(fits: Callable[[list[str]], bool]) -> None:
                async with asyncio.timeout(30):
                    while not fits([str(row["job_id"]) for row in grid._rows]):
                        await pilot.pause(0.05)

            await until_rows(lambda rows: rows == [first])
            await pilot.press("j")
            second = start_detached(command, "tick")
            await until_rows(lambda rows: set(rows) == {first, second})
            assert grid.chosen is not None and grid.chosen["job_id"] == first
            await client.job(second).cancel()
            await until_rows(lambda rows: rows == [first])
            await pilot.press("s", "s", "S", "a", "p", "2", "tab", "tab", "1")
            assert app._order == "memory" and app._shows == "all" and app._is_paused
            await pilot.press("q")


async def test_a_key_that_may_only_look_ends_nothing(command: Command) -> None:
    job = start_detached(command, "tick")
    async with AsyncClient(command.url) as client:
        app = TopApp(client, command.url)
        async with app.run_test(size=(80, 24)) as pilot:
            async with asyncio.timeout(30):
                while not app.query_one("#jobs", Grid).chosen or not app.board.info:
                    await pilot.pause(0.05)
            assert "c cancel" in str(app.query_one("#keys").render())
            app.board.info = {**app.board.info, "caller": {"name": "eve", "role": "read"}}
            await pilot.press("p")  # draws
            assert "cancel" not in str(app.query_one("#keys").render())
            for key, where in (("enter", "#page-keys"), ("question_mark", "#help Static")):
                await pilot.press(key)
                await pilot.pause()
                shown = str(app.screen.query_one(where).render())
                assert "cancel" not in shown and len(shown) > 10, where
                await pilot.press("escape")
            await pilot.press("c")
            await pilot.pause()
            assert len(app.screen_stack) == 1
            assert "may only look" in str(app.query_one("#note").render())
        assert (await client.job(job).record())["state"] == "running"


def test_without_a_terminal_or_textual_a_line_says_what_to_do(command: Command) -> None:
    done = command.run("top")
    assert done.returncode == 2 and "`killable ps --watch`" in done.stderr
    program = [
        sys.executable,
        "-c",
        "import sys; sys.modules['textual'] = None; from killable.api.cli import main; main()",
    ]
    with LiveScreen(Command(command.folder, command.url, program=program), "top") as screen:
        assert screen.ended() == 2
        assert "pip install 'killable[top]'" in screen.text.replace("\n", "")


def test_no_server_is_said_on_the_screen_and_waited_for(folder: Path) -> None:
    with LiveScreen(Command(folder, "http://127.0.0.1:1", program=TOP), "top") as screen:
        screen.until("no answer for")
        screen.type("q")
        assert screen.ended() == 0
