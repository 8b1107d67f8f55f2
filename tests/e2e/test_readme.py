"""README.md, and docs/limits.md, do what they say: each command in them is run, each file in them is used."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from support.certificate_checks import was_killed
from support.killable_command import COMMAND, Command, Server
from support.long_wait_server import long_wait_server
from support.processes import computes
from support.waiting import until

from killable.api.client.client import Client
from killable.api.client.outcomes import Ending
from killable.supervisor.configuration.config import load
from killable.workers.authoring.limits import DEFAULT_LIMITS, value_of

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
GUIDE = (ROOT / "docs" / "limits.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README + GUIDE, re.MULTILINE | re.DOTALL)


def python(having: str) -> str:
    (found,) = (block for block in blocks("python") if having in block)
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


def test_every_command_works_in_the_order_in_which_it_stands(server: Server, tmp_path: Path) -> None:
    lines = commands()
    assert lines[0] == "killable serve my_jobs.py"  # the fixture's, at another port
    assert len(lines) >= 9
    command = Command(tmp_path, server.url)
    printed = {}
    for line in lines[1:]:
        program, *arguments = shlex.split(line)
        if program == "curl":
            started = re.findall(r'"job_id":"([^"]+)"', "".join(printed.values()))
            meant = {"localhost:7833": server.url.removeprefix("http://"), "/ID": "/" + (started or [""])[-1]}
            for shown, word in meant.items():
                arguments = [argument.replace(shown, word) for argument in arguments]
            if "DELETE" in line:
                until_it_runs(server, started[-1])
            done = subprocess.run(["curl", "--fail-with-body", *arguments], capture_output=True, text=True, timeout=60)
        else:
            assert program == "killable", line
            if "--type spin" in line:
                with Client(server.url) as client:
                    (record,) = client.jobs(type="spin", state="active")
                until_it_runs(server, record["job_id"])
            done = command.run(*arguments)
        assert done.returncode == 0, (line, done.stdout, done.stderr)
        printed[line] = done.stdout
    assert printed['killable submit split -i text="a job you start, you can stop"'] == "a job you start, you can stop\n"
    killed = printed["killable kill --type spin"]
    assert re.fullmatch(r"job-[0-9a-f]{8}  cancelled by user  dead after .*, 1 process\)\n", killed), killed
    assert "cancelled" in printed["killable ps --all"]
    (deleted,) = (json.loads(text) for line, text in printed.items() if "DELETE" in line)
    assert deleted["status"] == "cancelled" and "tree_empty" in deleted["certificate"]


def until_it_runs(server: Server, job_id: str) -> None:
    """A person is not as quick: on a busy machine the job waits for a worker still."""
    with Client(server.url) as client:
        until(lambda: client.job(job_id).record()["started_at"], "it runs")


def test_the_python_client_works_as_shown(server: Server, tmp_path: Path) -> None:
    program = python("with Client()").replace("timeout_s=0.5", "timeout_s=4")  # it may have to wait for a worker
    assert "timeout_s=4" in program
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={"KILLABLE_URL": server.url},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert (done.returncode, done.stdout) == (0, "one two three\ncancelled\ntimeout.run tree empty\n"), done.stderr


def test_the_executor_works_as_shown(tmp_path: Path) -> None:
    (tmp_path / "calls.py").write_text(python("# calls.py"))
    done = subprocess.run([sys.executable, "calls.py"], cwd=tmp_path, capture_output=True, text=True, timeout=240)
    ends = "cancelled cancelled\nrun_s of 0.2 s is over\nthe process crashed with SIGABRT\n"
    assert (done.stdout, done.stderr) == (f"1024 1 2\n{ends}a\nb\nc\n", "")


@pytest.mark.row("D14")
@pytest.mark.row("H5")
@pytest.mark.row("H11")
def test_the_examples_of_limits_end_as_it_says(tmp_path: Path) -> None:
    (tmp_path / "limits.py").write_text(python("def archive"))
    with long_wait_server(tmp_path, "limits.py", "--port", "0") as server, Client(server.url) as client:
        text = "word\n" * 200_000
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


def test_the_settings_are_accepted(tmp_path: Path) -> None:
    (tmp_path / "killable.toml").write_text(blocks("toml")[0])
    (tmp_path / "my_jobs.py").write_text(python("# my_jobs.py"))
    config = load(tmp_path / "killable.toml", {}, {}, None)
    assert (config.server.port, config.settings.limits["run_s"], config.settings.caps["run_s"]) == (7833, 600.0, 3600.0)
    assert [pool.name for pool in config.settings.pools] == ["text"]


def test_the_defaults_in_the_table_are_those_in_force() -> None:

    shown = dict(re.findall(r"^\| `(\w+)` \| ([\d.]+(?: \w+)?|none) \|", README, re.MULTILINE))
    units = {"GiB": 1 << 30, "MiB": 1 << 20, "": 1}
    for name, text in shown.items():
        number, _, unit = text.partition(" ")
        default = value_of(DEFAULT_LIMITS, name)
        assert (not default) if text == "none" else float(number) * units[unit] == default, name
    assert set(shown) == set(dict(DEFAULT_LIMITS))
    advised = dict(re.findall(r"\*\*`(\w+)`\*\* \(([\d.]+(?: \w+)?|none)\)", GUIDE))
    assert set(advised) == set(shown) - {"ack_s"} and all(shown[name] == text for name, text in advised.items())


def test_the_certificate_has_the_members_that_there_are() -> None:
    from killable.supervisor.models import PHASES, Certificate

    shown = json.loads(blocks("json")[0])
    assert set(shown) <= {field.name for field in fields(Certificate)}
    assert set(PHASES) - set(shown) == {"kill_sent"}


def test_every_link_leads_somewhere() -> None:
    for folder, text in ((ROOT, README), (ROOT / "docs", GUIDE)):
        for target in re.findall(r"\]\(([^)]+)\)", text):
            path, _, heading = target.partition("#")
            found = (folder / path).resolve() if path else ROOT / "README.md"
            assert found.exists(), target
            titles = [
                re.sub(r"[^\w ]", "", line.strip("# ")).lower()
                for line in re.findall(r"^#+ .*", found.read_text(), re.M)
            ]
            assert not heading or heading in {title.replace(" ", "-") for title in titles}, target


def test_the_command_is_installed_by_its_name() -> None:
    done = subprocess.run([Path(COMMAND[0]).parent / "killable", "--help"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and "serve" in done.stdout
