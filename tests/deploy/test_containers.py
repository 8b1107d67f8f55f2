"""contrib/container and contrib/compose under Docker's daemon, as docs/how-to/container.md says.

By hand: it takes images from a registry, and minutes. `test_manifests.py` looks at what is in these files.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from package_source import ROOT, copy_package_source
from support.waiting import Pending, until

pytestmark = [pytest.mark.containers, pytest.mark.timeout(900)]

NAME = f"killable-test-{os.getpid()}"
JOBS = """
from killable import job

@job(grace_s=10)
def add_up(upto: int) -> int:
    return sum(range(upto))
"""
HARDENED = ("--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL", "--security-opt", "no-new-privileges")
ENVIRONMENT = {"KILLABLE_API_KEY": "0123456789abcdef0123456789abcdef", "GRAFANA_PASSWORD": "secret"}
FOR_EVER, SECONDS = 10**13, 2 * 10**8


def docker(*words: str, code: int | None = 0) -> str:
    """Run a command of Docker's; return what it printed."""
    done = subprocess.run(
        ["docker", *words], capture_output=True, text=True, timeout=600, check=False, env={**os.environ, **ENVIRONMENT}
    )
    assert code is None or done.returncode == code, (words, done.stdout, done.stderr)
    return done.stdout


def inside(*words: str) -> str:
    return docker("exec", NAME, *words)


def until_healthy() -> None:
    def is_healthy() -> bool | Pending:
        state = docker("inspect", NAME, "--format", "{{.State.Health.Status}}").strip()
        return state == "healthy" or Pending(state)

    until(is_healthy, "its health check passes")


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("docker") is None or "Server" not in docker("version", code=None):
        pytest.skip("there is no Docker")
    folder = tmp_path_factory.mktemp("context")
    copy_package_source(folder / "killable")
    shutil.copytree(ROOT / "contrib", folder / "killable/contrib")
    (folder / "my_jobs.py").write_text(JOBS)
    shutil.copy(folder / "killable/contrib/container/killable.toml", folder)
    return folder


@pytest.fixture
def container(context: Path) -> Iterator[None]:
    """A container of the image, without root, on a file system that it cannot write."""
    docker("build", "--file", str(context / "killable/contrib/container/Containerfile"), "--tag", NAME, str(context))
    try:
        docker(
            "run", "--detach", "--name", NAME, "--env", "KILLABLE_API_KEY", "--volume", f"{NAME}:/var/lib/killable",
            "--stop-timeout", "60", *HARDENED, NAME,
        )  # fmt: skip
        until_healthy()
        yield
    finally:
        docker("rm", "--force", NAME, code=None)
        docker("volume", "rm", NAME, code=None)
        docker("rmi", NAME, code=None)


def test_the_image_kills_drains_and_remembers_without_root_and_without_an_init(container: None) -> None:
    assert inside("id", "--user").strip() == "10001"
    assert "499500" in inside("killable", "submit", "add_up", "-i", "upto=1000")
    job = inside("killable", "submit", "--detach", "add_up", "-i", f"upto={FOR_EVER}").strip()
    assert "dead after" in inside("killable", "kill", job)

    inside("sh", "-c", "(sleep 0.1 &)")

    def is_reaped() -> bool | Pending:
        found = [line for line in inside("sh", "-c", "cat /proc/[0-9]*/stat").splitlines() if ") Z " in line]
        return not found or Pending(found)

    until(is_reaped, "process 1 has reaped what an exec has left")

    last = inside("killable", "submit", "--detach", "add_up", "-i", f"upto={SECONDS}").strip()
    docker("stop", NAME)
    assert docker("inspect", NAME, "--format", "{{.State.ExitCode}}").strip() == "0"
    docker("start", NAME)
    until_healthy()
    assert f"{last} (add_up) completed" in inside("killable", "explain", last)


def test_prometheus_beside_it_has_its_metrics(context: Path) -> None:
    compose = ["compose", "--project-name", NAME, "--file", str(context / "killable/contrib/compose/compose.yaml")]
    try:
        docker(*compose, "up", "--detach", "--build", "killable", "prometheus")

        def is_scraped() -> bool | Pending:
            ask = "promtool", "query", "instant", "http://localhost:9090", 'up{job="killable"}'
            answer = docker(*compose, "exec", "-T", "prometheus", *ask, code=None)
            return "=> 1 " in answer or Pending(answer)

        until(is_scraped, "its metrics are in Prometheus")
    finally:
        docker(*compose, "down", "--volumes", "--rmi", "local", code=None)
