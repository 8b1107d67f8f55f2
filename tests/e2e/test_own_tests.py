"""What users test their own jobs with: a server with assertions, one job in a real worker, pytest's fixtures; and the
starter project, which has such tests.
"""

from __future__ import annotations

import ast
import asyncio
import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from support.killable_command import Command
from support.waiting import until_empty

from killable import JobFailed
from killable.testing import JobServer, run_job

JOBS = """
import os, time
from collections.abc import Iterator

from killable import Context, job


@job
def own_words(text: str, ctx: Context) -> Iterator[str]:
    for number, word in enumerate(text.split(), 1):
        print("at", word)
        yield word
        ctx.progress(number, 2)
    return {"words": number}


@job(grace_s=10)
def own_ticks() -> Iterator[str]:
    try:
        while True:
            yield "tick"
            time.sleep(0.01)
    finally:
        print("tidied")


@job
def own_fails() -> None:
    raise OSError("no such thing")


def no_job() -> None:
    pass
"""


@pytest.fixture
def jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A user's module of jobs, imported as their tests import it."""
    (tmp_path / "tested_jobs.py").write_text(JOBS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delenv("KILLABLE_API_KEY", raising=False)
    import importlib

    from killable.workers.authoring import registered_types

    before = dict(registered_types._jobs)
    yield importlib.import_module("tested_jobs")
    del sys.modules["tested_jobs"]
    registered_types._jobs.clear()
    registered_types._jobs.update(before)


def test_a_server_with_assertions(jobs: Any) -> None:
    with JobServer("tested_jobs.py") as server:
        job = server.submit(jobs.own_words, text="one two")
        assert job.assert_next("one") == "one"
        job.assert_progress(1, 2)
        job.assert_next("two")
        done = job.assert_ended(result={"words": 2})
        assert (done.logs, done.code, done.error, done.tokens) == (["at one", "at two"], "", None, ["one", "two"])
        assert list(server.submit("own_words", text="a b").stream()) == ["a", "b"]

        job = server.submit("own_fails")
        done = job.assert_ended("failed", code="exception")
        assert isinstance(done.error, JobFailed) and "no such thing" in str(done)

        job = server.submit("own_ticks")
        job.assert_next("tick", "tick")
        done = job.cancel(reason="enough")
        assert (done.state, done.logs, done.certificate["reason"]) == ("cancelled", ["tidied"], "enough")
        assert done.certificate["tree_empty"] >= 0

        what: list[tuple[str, Any]] = [
            (
                "the next token is 'one', expected 'two'",
                lambda: server.submit("own_words", text="one").assert_next("two"),
            ),
            ("it ended, expected the token 'b'", lambda: server.submit("own_words", text="a").assert_next("a", "b")),
            ("it ended otherwise, expected completed", lambda: server.submit("own_fails").assert_ended()),
            ("no such thing", lambda: server.submit("own_fails").assert_ended()),
            ("its result is", lambda: server.submit("own_words", text="a").assert_ended(result=1)),
            ("not ended within 0.1 s", lambda: server.submit("own_ticks").assert_ended(timeout_s=0.1)),
        ]
        for message, act in what:
            with pytest.raises(AssertionError) as raised:
                act()
            assert message in str(raised.value)
        with pytest.raises(ValueError, match="no_job' is no job"):
            server.submit(jobs.no_job)
        assert "killable.jobs" in server.log()
        pid = server.process.pid
    assert not Path(f"/proc/{pid}").exists()


async def test_the_same_in_an_event_loop(jobs: Any) -> None:
    with JobServer("tested_jobs.py") as server:
        async with server.asynchronous() as asynchronous:
            job = await asynchronous.submit(jobs.own_words, text="one two")
            await job.assert_next("one")
            await job.assert_progress(1, 2)
            assert [token async for token in job.stream()] == ["two"]
            await job.assert_ended(result={"words": 2})
            ticks, fails = await asyncio.gather(asynchronous.submit("own_ticks"), asynchronous.submit("own_fails"))
            with pytest.raises(AssertionError, match="expected 'tock'"):
                await ticks.assert_next("tock")
            assert (await ticks.cancel()).state == "cancelled"
            assert (await fails.finish()).code == "exception"
            assert (await asynchronous.run_job("own_words", text="a")).tokens == ["a"]


def test_one_job_in_a_real_worker(jobs: Any) -> None:
    done = run_job(jobs.own_words, {"text": "one two"})
    assert (done.tokens, done.result, done.state) == (["one", "two"], {"words": 2}, "completed")
    done = run_job(jobs.own_ticks, cancel_after=2)
    assert (done.state, done.logs) == ("cancelled", ["tidied"])
    assert done.certificate["last_signal"] == "SIGTERM"


def test_a_server_that_does_not_start_says_why(jobs: Any, tmp_path: Path) -> None:
    (tmp_path / "tested_jobs.py").write_text("x = (\n")
    with pytest.raises(RuntimeError, match="'\\(' was never closed"):
        JobServer("tested_jobs.py")


def test_a_server_ends_with_the_tests_that_are_killed(jobs: Any, tmp_path: Path) -> None:
    program = (
        "import sys; from killable.testing import JobServer; server = JobServer('tested_jobs.py')\n"
        "print(server.process.pid, flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as tests:
        assert tests.stdout is not None
        pid = int(tests.stdout.readline())
        tests.kill()
    until_empty(lambda: [pid] if Path(f"/proc/{pid}").exists() else [], "the server is gone")


# ── the starter project ──


def run_pytest(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a user's tests, without the plugins that only we have."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("KILLABLE_", "PYTEST_"))}
    plain = [
        "-p",
        "no:asyncio",
        "-p",
        "no:xdist",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:schemathesis",
        "-p",
        "no:timeout",
    ]
    return subprocess.run(
        [sys.executable, "-m", "pytest", *plain, *arguments], cwd=folder, capture_output=True, text=True,
        env=environment, timeout=240,
    )  # fmt: skip


def test_a_new_project_passes_its_tests_and_serves(tmp_path: Path) -> None:
    command = Command(tmp_path)
    written = command.json("new", "my-project")["files"]
    project = tmp_path / "my-project"
    assert {str(path.relative_to(project)) for path in project.rglob("*") if path.is_file()} == set(written)
    done = run_pytest(project, "-q")
    assert done.returncode == 0 and "3 passed" in done.stdout, done.stdout
    checked = Command(project).run("check")
    assert checked.returncode == 0, checked.stderr
    # A test that fails shows what the server said.
    tests = project / "tests" / "test_jobs.py"
    tests.write_text(tests.read_text().replace(r'next("one\n", "two\n")', r'next("one\n", "three\n")'))
    done = run_pytest(project, "-q")
    assert done.returncode == 1 and "the next token is 'two\\n', expected 'three\\n'" in done.stdout
    assert "killable serve" in done.stdout and "submitted" in done.stdout


def test_a_new_project_names_what_there_is(tmp_path: Path) -> None:
    """Its Dockerfile is not built here; each file and module that the project's files name is one of it."""
    Command(tmp_path).ok("new", "my-project")
    project = tmp_path / "my-project"
    metadata = tomllib.loads((project / "pyproject.toml").read_text())
    assert metadata["project"]["name"] == "my-project"
    assert all((project / f"{module}.py").is_file() for module in metadata["tool"]["setuptools"]["py-modules"])
    settings = tomllib.loads((project / "killable.toml").read_text())
    assert (project / settings["pools"]["main"]["module"]).is_file()
    docker = [line.split() for line in (project / "Dockerfile").read_text().splitlines() if line[:1].isupper()]
    copied = [name for line in docker if line[0] == "COPY" for name in line[1:-1]]
    assert copied and all((project / name).is_file() for name in copied)
    assert docker[0][0] == "FROM" and ["CMD", '["killable",', '"serve"]'] in docker
    (exposed,) = [int(line[1]) for line in docker if line[0] == "EXPOSE"]
    assert exposed == settings["server"]["port"]
    for file in project.rglob("*.py"):
        ast.parse(file.read_text())
    assert "@NAME@" not in "".join(path.read_text() for path in project.rglob("*") if path.is_file())


def test_a_new_project_overwrites_nothing(tmp_path: Path) -> None:
    command = Command(tmp_path)
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "jobs.py").write_text("mine\n")
    done = command.run("new", "there")
    assert done.returncode == 65 and "there has jobs.py already: nothing was written" in done.stderr
    assert [path.name for path in (tmp_path / "there").iterdir()] == ["jobs.py"]
    done = command.run("new", "no name!", "--json")
    assert done.returncode == 65 and json.loads(done.stdout)["error"]["code"] == "cannot_write"
    assert not (tmp_path / "no name!").exists()


def test_pytest_imports_nothing_of_killable_until_a_fixture_is_used(tmp_path: Path) -> None:
    (tmp_path / "test_none.py").write_text(
        "import sys\n\ndef test_none():\n"
        "    found = {name for name in sys.modules if name.startswith('killable.')}\n"
        "    assert found == {'killable.api', 'killable.api.testing', 'killable.api.testing.pytest_plugin'}\n"
    )
    done = run_pytest(tmp_path, "-q")
    assert done.returncode == 0, done.stdout
