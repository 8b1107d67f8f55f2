"""README.md does what it says: each command in it is run, each file in it is used, each link leads somewhere."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.certificate_checks import was_killed
from support.killable_command import COMMAND, Command, Server
from support.long_wait_server import long_wait_server
from support.processes import computes
from support.waiting import until

from killable.api.client.client import Client
from killable.api.client.events import Ending
from killable.workers.authoring.limits_and_caps import DEFAULT_LIMITS, value_of

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
LIMITS = next(text for page in (ROOT / "docs").rglob("*.md") if "# limits.py" in (text := page.read_text()))
"""The page on how limits are chosen: its examples are run here, with what it says of their endings."""
WORDS_MAX = 900
"""Three minutes, read aloud."""


def blocks(language: str, text: str = README) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def python(having: str) -> str:
    (found,) = (block for block in blocks("python", README + LIMITS) if having in block)
    return found


def commands() -> list[str]:
    lines = [line for block in blocks("console") for line in block.splitlines()]
    return [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    (tmp_path / "my_jobs.py").write_text(python("# my_jobs.py"))
    started = Server(Command(tmp_path), "my_jobs.py", "--port", "0")
    yield started
    code, left, said = started.stop()
    assert (code, left) == (0, []), said


def test_it_is_read_aloud_in_three_minutes() -> None:
    assert len(README.split()) <= WORDS_MAX


def test_every_command_works_in_the_order_in_which_it_stands(server: Server, tmp_path: Path) -> None:
    lines = commands()
    assert lines[0] == "killable serve my_jobs.py"  # the fixture's, at another port
    assert len(lines) >= 7
    command = Command(tmp_path, server.url)
    printed: dict[str, str] = {}
    for line in lines[1:]:
        program, *arguments = shlex.split(line)
        if program == "curl":
            address = server.url.removeprefix("http://")
            arguments = [argument.replace("localhost:7833", address) for argument in arguments]
            done = subprocess.run(["curl", "--fail-with-body", *arguments], capture_output=True, text=True, timeout=60)
        else:
            assert program == "killable", line
            done = command.run(*(ended_job(server) if argument == "JOB" else argument for argument in arguments))
        assert done.returncode == 0, (line, done.stdout, done.stderr)
        printed[line] = done.stdout
    assert printed['killable submit split -i text="a job you start, you can stop"'].split() == [
        *("a", "job", "you", "start,", "you", "can", "stop")
    ]
    assert "completed" in printed["killable ps --all"]
    assert "(split) completed" in printed["killable explain JOB"]


def ended_job(server: Server) -> str:
    """Return the id of the latest job, once it has ended: a person is not as quick."""
    with Client(server.url) as client:
        job = client.job(next(client.jobs())["job_id"])
        until(lambda: job.record()["ended_at"], "it has ended")
        return job.id


def test_native_code_is_killed_as_shown(tmp_path: Path) -> None:
    (tmp_path / "kill.py").write_text(python("# kill.py"))
    done = subprocess.run([sys.executable, "kill.py"], cwd=tmp_path, capture_output=True, text=True, timeout=240)
    (shown,) = blocks("text")
    assert (without_time(done.stdout), done.stderr) == (without_time(shown), "")
    (dead_ms,) = re.findall(r"dead after (\d+) ms", done.stdout)
    assert int(dead_ms) >= 500  # ack_s


def without_time(text: str) -> str:
    return re.sub(r"\d+ ms", "N ms", text)


@pytest.mark.row("D14")
@pytest.mark.row("H5")
@pytest.mark.row("H11")
def test_the_examples_of_limits_end_as_it_says(tmp_path: Path) -> None:
    (tmp_path / "limits.py").write_text(python("def archive"))
    with long_wait_server(tmp_path, "limits.py", "--port", "0") as server, Client(server.url) as client:
        text = "word\n" * 150_000
        heard = client.submit("fingerprints", {"text": text}, limits={"grace_s": 60})
        next(iter(heard))
        certificate = ended(heard.cancel())
        assert {"acknowledged", "tree_empty"} <= set(certificate) and not was_killed(certificate)

        stuck = client.submit("derive", {"password": "x", "rounds": 10**9}, limits={"grace_s": 60})
        next(stuck.events())
        until(computes(stuck.record()["pid"]), "it is inside its native call")
        certificate = ended(stuck.cancel())
        assert "acknowledged" not in certificate and "in derive" in certificate["stack"]
        assert 500 <= certificate["kill_sent"] < 5000 and certificate["early_kill"]  # ack_s, and long before grace_s

        target = tmp_path / "archive.xz"
        writing = client.submit("archive", {"path": str(target), "megabytes": 10_000}, limits={"grace_s": 60})
        until(lambda: target.exists() and target.stat().st_size > 0, "the archive grows")
        certificate = ended(writing.cancel())
        assert {"acknowledged", "tree_empty"} <= set(certificate) and not was_killed(certificate)
        assert not target.exists()  # its clean-up ran


def ended(ending: Ending) -> dict[str, Any]:
    assert ending.state == "cancelled" and ending.certificate is not None
    return ending.certificate


def test_the_defaults_in_the_advice_are_those_in_force() -> None:
    advised = re.findall(r"\*\*`(\w+)`\*\* \(([\d.]+(?: \w+)?|none)\)", LIMITS)
    units = {"GiB": 1 << 30, "MiB": 1 << 20, "": 1}
    for name, text in advised:
        number, _, unit = text.partition(" ")
        default = value_of(DEFAULT_LIMITS, name)
        assert (not default) if text == "none" else float(number) * units[unit] == default, name


def test_every_link_leads_somewhere() -> None:
    for target in re.findall(r"\]\(([^)]+)\)", README):
        path, _, heading = target.partition("#")
        assert (ROOT / path).exists(), target
        if heading:
            titles = [line.lstrip("# ") for line in (ROOT / path).read_text().splitlines() if line.startswith("#")]
            assert heading in [title.lower().replace(" ", "-") for title in titles], target


def test_the_command_is_installed_by_its_name() -> None:
    done = subprocess.run([Path(COMMAND[0]).parent / "killable", "--help"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and "serve" in done.stdout
