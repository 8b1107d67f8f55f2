"""Each limit and each cap, by the command and by the clients: in force, or refused by its name."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from support import user_jobs
from support.killable_command import Command, Serve
from support.limit_values import every_limit

from killable import Client
from killable.api.client.async_client import AsyncClient
from killable.workers.authoring.limits_and_caps import LIMITS
from killable.workers.errors import Refused

ASKED = every_limit(
    queue_s=9.0, start_s=8.0, first_token_s=7.0, idle_s=None, run_s=6.0, operation_s={"load/download": 5.0},
    grace_s=0.0, ack_s=None, memory_bytes=1 << 29, cpu_s=4.0, files_max=40, backoff_s=0.5,
)  # fmt: skip
CAP, CAP_BYTES = 50, 1 << 30
TIGHTER = 20
"""A cap of one type, below the server's."""


def cap_of(name: str) -> int:
    return CAP_BYTES if name.endswith("_bytes") else CAP


def configuration() -> str:
    caps = "".join(f"{name} = {cap_of(name)}\n" for name in LIMITS if name not in ("ack_s", "idle_s"))
    tighter = f"[jobs.add.caps]\nrun_s = {TIGHTER}\nack_s = {TIGHTER}\nidle_s = {TIGHTER}\n"
    operations = '[jobs.downloads.limits.operation_s]\n"load/download" = 0.2\n'
    pool = '[pools.own]\nmodule = ["./my_jobs.py", "./downloads.py"]\nworkers = 1\n'
    return f"[server]\nport = 0\n{pool}[caps]\n{caps}{tighter}{operations}"


DOWNLOADS = """
from killable import Context, job

@job(grace_s=0.1)
def downloads(ctx: Context) -> None:
    with ctx.operation("load"), ctx.operation("download"):
        ctx.sleep(3600)
"""


def written(value: Any) -> str:
    """Return a limit as the command takes it."""
    if isinstance(value, dict):
        return ",".join(f"{path}={seconds}" for path, seconds in value.items())
    return "none" if value is None else str(value)


@pytest.fixture
def command(tmp_path: Path, serve: Serve) -> Command:
    shutil.copy(user_jobs.__file__, tmp_path / "my_jobs.py")
    (tmp_path / "downloads.py").write_text(DOWNLOADS)
    (tmp_path / "killable.toml").write_text(configuration())
    return Command(tmp_path, serve().url)


def flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


@pytest.mark.own_server
@pytest.mark.row("C2")
@pytest.mark.row("C4")
def test_the_command_sets_each_limit_and_is_refused_over_each_cap(command: Command) -> None:
    options = [word for name, value in ASKED.items() for word in (flag(name), written(value))]
    job_id = command.ok("submit", "greet", "-i", "name=x", "-d", *options).strip()
    assert command.json("inspect", job_id)["limits"] == ASKED
    over = {name: {"load": 2 * CAP} if name == "operation_s" else 2 * cap_of(name) for name in LIMITS}
    for name, value in over.items():
        done = command.run("submit", "add", "-i", "a=1", flag(name), written(value))
        cap = TIGHTER if name in ("run_s", "ack_s", "idle_s") else cap_of(name)
        assert (done.returncode, done.stdout) == (65, ""), (name, done.stderr)
        assert name in done.stderr and f"cap of {cap}" in done.stderr, done.stderr


@pytest.mark.own_server
@pytest.mark.row("C3")
@pytest.mark.row("C4")
async def test_so_do_the_clients_and_the_lower_cap_holds(command: Command) -> None:
    with Client(command.url) as client:
        assert client.submit("greet", {"name": "x"}, limits=ASKED).record()["limits"] == ASKED
        for name in LIMITS:
            cap = TIGHTER if name in ("run_s", "ack_s", "idle_s") else cap_of(name)
            value = {"load": cap + 1} if name == "operation_s" else cap + 1
            with pytest.raises(Refused) as caught:
                client.submit("add", {"a": 1}, limits={name: value})
            whole_name = "operation_s.load" if name == "operation_s" else name
            assert (caught.value.code, caught.value.limit, caught.value.cap) == ("limit_over_cap", whole_name, cap)
        assert client.submit("greet", {"name": "x"}, limits={"run_s": CAP}).record()["limits"]["run_s"] == CAP
    async with AsyncClient(command.url) as client:
        job = await client.submit("greet", {"name": "x"}, limits=ASKED)
        assert (await job.record())["limits"] == ASKED
        with pytest.raises(Refused) as caught:
            await client.submit("add", {"a": 1}, limits={"run_s": TIGHTER + 1})
        assert caught.value.cap == TIGHTER


@pytest.mark.own_server
@pytest.mark.row("C6")
def test_the_file_sets_the_time_of_an_operation_by_its_path(command: Command) -> None:
    with Client(command.url) as client:
        job = client.submit("downloads", {}, limits={})
        ended = list(job.events())[-1].data["error"]
        assert (ended["code"], ended["operation"], ended["limit_s"]) == ("timeout.operation", "load/download", 0.2)
