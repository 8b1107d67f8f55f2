"""docs/how-to/deploy.md: a new server takes over from one that drains, and a copy of a journal in use can be served."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.killable_command import Command, Server, client_of
from support.waiting import until

from killable.workers.errors import Refused

JOBS = """
import os
from pathlib import Path
from killable import job

@job
def passes(gate: str, number: int) -> int:
    while not os.path.exists(gate):
        pass
    with open("ran", "a") as file:
        file.write(f"{number}\\n")
    return number

@job
def number_of(number: int) -> int:
    return number
"""
TOML = """
[server]
port = {port}
journal = "{journal}"
drain_s = 120

[pools.main]
module = "./my_jobs.py"
workers = 2
"""


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "my_jobs.py").write_text(JOBS)
    yield tmp_path


def served(folder: Path, journal: str = "jobs.journal", port: int = 0) -> Server:
    (folder / "killable.toml").write_text(TOML.format(port=port, journal=journal))
    return Server(Command(folder))


def test_a_new_server_takes_over_from_one_that_drains_and_no_job_is_lost(folder: Path) -> None:
    old = served(folder)
    gate = folder / "gate"
    with client_of(old.url) as client:
        ids = [client.submit("passes", {"gate": str(gate), "number": number}).id for number in range(12)]
        until(lambda: client.job(ids[1]).record()["state"] == "running", "two run")
        old.process.send_signal(signal.SIGTERM)

        def is_refused() -> bool:
            try:
                client.submit("number_of", {"number": 1})
            except Refused as error:
                return error.code == "draining" and error.retryable
            return False

        until(is_refused, "new jobs are refused, and told to come again")
        assert client.job(ids[-1]).record()["state"] == "queued"
    gate.touch()
    out = threading.Thread(target=old.process.communicate)
    out.start()
    out.join(120)
    assert old.process.returncode == 0
    new = served(folder, port=int(old.url.rpartition(":")[2]))
    try:
        with client_of(new.url) as client:
            ends = [client.job(job_id).record() for job_id in ids]
            assert [(end["state"], end["result"]) for end in ends] == [("completed", n) for n in range(12)]
            assert client.run("number_of", {"number": 7}) == 7
        assert sorted(map(int, (folder / "ran").read_text().split())) == list(range(12)), "each ran once"
    finally:
        assert new.stop()[0] == 0


def test_a_copy_of_a_journal_in_use_is_served_by_another_server(folder: Path) -> None:
    first = served(folder)
    gate = folder / "gate"
    try:
        with client_of(first.url) as client:
            done = client.submit("number_of", {"number": 3})
            assert done.result() == 3
            held = [client.submit("passes", {"gate": str(gate), "number": number}).id for number in range(3)]
            until(lambda: client.job(held[1]).record()["state"] == "running", "two run and one waits")
            told = Command(folder).ok("journal", "backup", "jobs.journal", "copy.journal")
            assert "1 waiting, 2 running, 1 ended" in told
            later = client.submit("number_of", {"number": 4}).id
    finally:
        first.die()  # the machine is lost
    gate.touch()
    second = served(folder, "copy.journal")
    try:
        with client_of(second.url) as client:
            assert client.job(done.id).result() == 3
            assert client.job(held[2]).result() == 2, "what waited runs"
            assert [client.job(each).record()["error"]["code"] for each in held[:2]] == ["supervisor_lost"] * 2
            with pytest.raises(Refused, match="no job"):
                client.job(later).record()
    finally:
        second.stop()
