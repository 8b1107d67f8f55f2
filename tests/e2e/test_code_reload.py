"""New code for a server's jobs, as who develops or operates one asks for it: SIGHUP, `killable reload`, `--reload`."""

from __future__ import annotations

import json
import signal
import sys
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from support.forked_command import Constants
from support.killable_command import COMMAND, Command, Serve, Server, client_of, open_gate

from killable import Client

HEARS_HANG_UP = partial(signal.signal, signal.SIGHUP, signal.SIG_DFL)
ARGUMENTS = ("own_jobs.py", "--port", "0", "--log-format", "json")
JOBS = """
from killable import job

CODE = {code!r}


@job
def held(gate: str):
    \"\"\"Says which code it is, and again behind the gate.\"\"\"
    yield CODE
    open(gate, "rb").close()
    return CODE
"""
BROKEN = JOBS.format(code="new") + "x = (\n"


class Project:
    """A folder with a file of jobs, and a server of it."""

    def __init__(self, folder: Path, serve: Serve) -> None:
        self.folder = folder
        self.file = folder / "own_jobs.py"
        self.file.write_text(JOBS.format(code="old"))
        self._serve = serve
        self.server: Server

    def start(self, *more: str, constants: Constants | None = None) -> AbstractContextManager[Client]:
        options = {"constants": constants} if constants else {"program": COMMAND, "preexec_fn": HEARS_HANG_UP}
        self.server = self._serve(*ARGUMENTS, *more, **options)
        return client_of(self.server.url)

    def command(self) -> Command:
        return Command(self.folder, self.server.url)

    def record(self, event: str) -> dict[str, Any]:
        """Return the next record of the log with this event."""
        assert self.server.process.stderr is not None
        for line in self.server.process.stderr:
            if line.startswith("{") and json.loads(line)["event"] == event:
                found: dict[str, Any] = json.loads(line)
                return found
        raise AssertionError(f"there is no {event}")


@pytest.fixture
def project(tmp_path: Path, serve: Serve) -> Project:
    return Project(tmp_path, serve)


def code_of(client: Client) -> str:
    return str(client.submit("held", {"gate": "/dev/null"}).result())


def test_a_hang_up_rolls_the_pools_over_and_loses_no_job(project: Project, gate: str) -> None:
    with project.start() as client:
        tokens = iter(running := client.submit("held", {"gate": gate}))
        assert next(tokens) == "old"
        project.file.write_text(JOBS.format(code="new"))
        project.server.process.send_signal(signal.SIGHUP)
        told = project.record("pools_reloaded")
        assert told["files"] == "own_jobs.py" and told["took_s"] > 0
        assert code_of(client) == "new"
        open_gate(gate)
        assert running.result() == "old"

        project.file.write_text(BROKEN)
        project.server.process.send_signal(signal.SIGHUP)
        told = project.record("reload_failed")
        place = f"({project.file}:13); the code from before goes on"
        assert told["detail"] == f"pool own_jobs: SyntaxError: '(' was never closed {place}"
        assert code_of(client) == "new"
    assert project.server.stop()[:2] == (0, [])


def test_the_verb_tells_what_it_did(project: Project) -> None:
    with project.start() as client:
        command = project.command()
        project.file.write_text(JOBS.format(code="new") + JOBS.format(code="new").replace("held", "added"))
        said = command.ok("reload")
        assert said.startswith("pool own_jobs has the new code, after ") and said.endswith(" s; new: added\n")
        assert code_of(client) == "new"
        record = command.json("reload")
        assert (record["state"], record["pools"], record["came"]) == ("done", ["own_jobs"], [])

        project.file.write_text(BROKEN)
        failed = command.run("reload")
        assert failed.returncode == 1 and failed.stdout == ""
        assert "the code from before goes on: pool own_jobs: SyntaxError: '(' was never closed" in failed.stderr
        assert "x = (" in failed.stderr
        failed = command.run("reload", "--json")
        assert (failed.returncode, json.loads(failed.stdout)["error"]["code"]) == (1, "reload_failed")
        assert code_of(client) == "new"
        readiness = client.ready()
        assert readiness["status"] == "degraded" and "the code from before goes on" in readiness["degraded"][0]
        assert command.run("ps").stderr.startswith("degraded: the code from before goes on: pool own_jobs: SyntaxError")

        checks = json.loads(command.run("doctor", "--json", "--url", project.server.url).stdout)["checks"]
        assert [str(project.file) in each["found"] for each in checks if each["name"] == "jobs' code"] == [True]
        project.file.write_text(JOBS.format(code="third"))
        command.ok("reload")
        assert client.reloaded()["changed_since"] == []


def test_types_whose_settings_would_not_start_are_refused(project: Project) -> None:
    (project.folder / "killable.toml").write_text("[jobs.held.limits]\nrun_s = 5\n")
    with project.start() as client:
        project.file.write_text(JOBS.format(code="new").replace("held", "renamed"))
        failed = project.command().run("reload")
        assert failed.returncode == 1 and "jobs.held" in failed.stderr and "no such job type" in failed.stderr
        assert code_of(client) == "old"


def test_settings_that_a_reload_does_not_read_are_told(project: Project) -> None:
    file = project.folder / "killable.toml"
    file.write_text(before := "[server]\ndrain_s = 5\n")
    with project.start() as client:
        command = project.command()
        command.ok("reload")
        file.write_text("[server]\ndrain_s = 6\n")
        done = command.run("reload")
        words = f"the settings stay as they are: a start reads {file}, a reload does not"
        assert done.returncode == 1 and words in " ".join(done.stderr.split())
        assert "has the new code" in done.stdout, "the code was loaded"
        assert client.ready()["degraded"] == [words]
        assert project.record("settings_changed")["path"] == str(file)
        file.write_text(before)
        command.ok("reload")
        assert client.ready()["degraded"] == []


def test_changed_code_is_told_once_when_somebody_submits(project: Project) -> None:
    with project.start(constants={"killable.api.cli.server.code_watch": {"LOOK_S": 0.0}}) as client:
        assert code_of(client) == "old"
        project.file.write_text(JOBS.format(code="changed"))
        for _ in range(2):
            assert code_of(client) == "old"
        record = project.record("code_changed")
        assert record["files"] == "own_jobs.py" and "killable reload" in record["advice"]
    assert '"code_changed"' not in project.server.stop()[2]


# ── serve --reload ──


def test_each_change_is_loaded(project: Project) -> None:
    """Also of a module that the jobs import; code that does not load is told with its traceback, and watched on."""
    (project.folder / "killable.toml").write_text("")
    helper = project.folder / "own_helper.py"
    with project.start("--reload") as client:
        assert code_of(client) == "old"
        project.file.write_text(JOBS.format(code="new"))
        assert project.record("pools_reloaded")["files"] == "own_jobs.py"
        assert code_of(client) == "new"

        project.file.write_text("import own_helper\n" + JOBS.format(code="lacks"))
        assert "No module named 'own_helper'" in project.record("reload_failed")["detail"]
        helper.write_text("CODE = (\n")
        assert "'(' was never closed" in project.record("reload_failed")["detail"]
        assert code_of(client) == "new"
        helper.write_text("CODE = 'helped'\n")
        assert project.record("pools_reloaded")["files"]
        assert code_of(client) == "lacks"
        project.file.write_text("import own_helper\n" + JOBS.format(code="x").replace("'x'", "own_helper.CODE"))
        project.record("pools_reloaded")
        assert code_of(client) == "helped"
        helper.write_text("CODE = 'again'\n")
        assert project.record("pools_reloaded")["files"] == "own_helper.py"
        assert code_of(client) == "again"

        (project.folder / "killable.toml").write_text("[limits]\nrun_s = 5\n")
        assert "start the server again" in project.record("settings_changed")["advice"]
    assert project.server.stop()[:2] == (0, [])


def test_without_watchfiles_the_extra_is_named(tmp_path: Path) -> None:
    (tmp_path / "own_jobs.py").write_text(JOBS.format(code="old"))
    lacking = tmp_path / "lacking"
    lacking.mkdir()
    (lacking / "watchfiles.py").write_text("raise ImportError('no watchfiles here')\n")
    command = Command(tmp_path, program=[sys.executable, "-m", "killable.api.cli"])
    done = command.run("serve", *ARGUMENTS, "--reload", env={"PYTHONPATH": str(lacking)})
    assert done.returncode == 78 and "pip install 'killable[reload]'" in done.stderr


def test_with_a_cluster_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "own_jobs.py").write_text(JOBS.format(code="old"))
    done = Command(tmp_path).run("serve", *ARGUMENTS, "--reload", "--ray", "auto")
    assert done.returncode == 78 and "nodes of a cluster" in done.stderr
