"""What a person sees at a terminal: rows that fit, colours that can be turned off, progress that is no output."""

from __future__ import annotations

import pytest
from support.killable_command import Command, Server, start_detached
from support.pseudo_terminal import on_screen


def test_tables_fit_the_terminal(command: Command) -> None:
    start_detached(command, "tick", tags={"team": "search"})
    for columns, verb in ((60, "ps"), (80, "ps"), (120, "ps"), (60, "workers"), (60, "types")):
        screen = on_screen(command, verb, columns=columns)
        assert screen.exit_code == 0
        assert max(len(line) for line in screen.lines) <= columns, (verb, screen.lines)
        assert not any("\n " in line for line in screen.lines)
        rows = [line for line in screen.lines if line.startswith("job-")]
        assert verb != "ps" or (len(rows) == 1 and "running" in rows[0])


def test_colours_can_be_turned_off(command: Command) -> None:
    start_detached(command, "tick")
    coloured = on_screen(command, "ps").raw
    assert "\x1b[34m" in coloured  # running is blue
    for plain in (on_screen(command, "ps", NO_COLOR="1").raw, on_screen(command, "--no-color", "ps").raw):
        assert "\x1b[3" not in plain
    assert "\x1b" not in command.ok("ps")


def test_a_long_list_is_cut_on_a_screen_and_whole_in_a_pipe(command: Command) -> None:
    start_detached(command, "tick")
    for _ in range(2):
        command.ok("submit", "tick", "-d")
    shown = on_screen(command, "ps", "-n", "1").lines
    assert shown[0].startswith("3 jobs: ")
    assert sum(line.startswith("job-") for line in shown) == 1
    assert "… and 2 more (ps -n 0 shows all)" in shown
    assert len(command.ok("ps").splitlines()) == 2 + 3


@pytest.mark.row("B17")
def test_progress_is_drawn_on_stderr_and_never_into_the_output(command: Command) -> None:
    screen = on_screen(command, "submit", "counts", pipe_stdout=True)
    assert screen.exit_code == 0
    assert screen.piped == "after 10\nafter 20\n"
    assert "50%, 10 of 20 steps" in screen.raw and "━" in screen.raw
    assert "after 10" not in screen.raw
    assert screen.lines[1:-2] == [f"step {step}" for step in range(1, 21)]  # every bar was taken back
    assert screen.lines[-2].startswith("completed  2 tokens")


def test_progress_and_output_on_one_screen_do_not_mix(command: Command) -> None:
    screen = on_screen(command, "submit", "counts")
    assert "after 10" in screen.lines and "after 20" in screen.lines
    assert "50%, 10 of 20 steps" in screen.raw
    assert not any("━" in line for line in screen.lines)


def test_there_is_no_progress_in_a_pipe(command: Command) -> None:
    done = command.run("submit", "counts")
    assert done.stdout == "after 10\nafter 20\n"
    assert "━" not in done.stderr and "%" not in done.stderr


def test_while_it_is_queued_its_place_is_shown(server: Server, command: Command) -> None:
    (pool,) = server.announcement["pools"]
    busy = [start_detached(command, "tick") for _ in range(pool["workers_max"])]
    with command.start("stream", busy[0]):
        job = command.ok("submit", "tick", "-d").strip()
        screen = on_screen(command, "submit", "add", "-i", "a=1", "--queue-s", "4")
        assert screen.exit_code == 124
        assert "queued, 1 job ahead of it" in screen.raw
        assert not any("queued" in line and "queue_s" not in line and "--queue-s" not in line for line in screen.lines)
        command.ok("kill", job, *busy, "--now")


def test_a_verb_is_explained_within_80_columns(command: Command) -> None:
    for verb in ("ps", "kill", "submit", "shutdown"):
        screen = on_screen(command, verb, "--help")
        assert max(len(line) for line in screen.lines) <= 80
        assert any("Examples" in line for line in screen.lines)
