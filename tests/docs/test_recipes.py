"""What recipes promise: of FastAPI's, that a client that leaves stops the job."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from documents import ROOT, blocks_of
from support.uvicorn_process import listens_at
from support.waiting import until

from killable.api.cli.verbs import VERBS

WORK = """
import time
from pathlib import Path

def derive(password, rounds):
    return "".join(count(rounds))

def generate(messages, max_tokens):
    return count(max_tokens)

def count(upto):
    Path("begun").touch()
    try:
        time.sleep(0.1)
        yield "a line\\n"
        time.sleep(1000)
    finally:
        Path("stopped").touch()
"""
"""In place of what a recipe runs in its workers: it leaves traces."""


REQUESTS = {
    "fastapi.md, a result": ("fastapi.md", "work.py", "GET /derive?rounds=1", ""),
    "fastapi.md, a stream": ("fastapi.md", "work.py", "GET /count?upto=1", ""),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_a_client_that_leaves_stops_the_job(name: str, tmp_path: Path) -> None:
    page, module, line, body = REQUESTS[name]
    (app,) = (block.text for block in blocks_of(ROOT / "docs" / "how-to" / page) if block.file_name == "app.py")
    (tmp_path / "app.py").write_text(app.replace("run_s=2)", "run_s=600)"))  # no deadline is to end it
    (tmp_path / module).write_text(WORK)
    with application(tmp_path) as (host, port):
        with socket.create_connection((host, port)) as client:
            request = f"{line} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(body)}\r\n\r\n{body}"
            client.sendall(request.encode())
            until((tmp_path / "begun").exists, "the job has begun")
            assert not (tmp_path / "stopped").exists()
        until((tmp_path / "stopped").exists, "the job was stopped")


@contextmanager
def application(folder: Path) -> Iterator[tuple[str, int]]:
    """Serve the application of a folder; give its address. At the end it has to stop in order."""
    command = [sys.executable, "-m", "uvicorn", "app:app", "--port", "0", "--timeout-graceful-shutdown", "20"]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        address = listens_at(process)
        try:
            yield address
        finally:
            process.send_signal(signal.SIGINT)
            said = process.communicate(timeout=120)[0]
    assert "Application shutdown complete" in said, said


def test_the_pods_of_a_cluster_have_an_init_a_token_no_memory_monitor_and_a_store_that_outlives_rays_head() -> None:
    (block,) = [each for each in blocks_of(ROOT / "docs/how-to/cluster.md") if each.language == "yaml"]
    cluster = yaml.safe_load(block.text)["spec"]
    assert cluster["gcsFaultToleranceOptions"]["redisAddress"] and cluster["gcsFaultToleranceOptions"]["redisPassword"]
    head, *workers = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    assert head["rayStartParams"]["num-cpus"] == "0", "no node is where the server is"
    assert all("num-cpus" not in group["rayStartParams"] for group in workers) and workers
    for pod in (group["template"]["spec"] for group in (head, *workers)):
        assert pod["shareProcessNamespace"] is True, "its first process reaps orphans"
        volumes = {volume["name"] for volume in pod.get("volumes", ())}
        for container in pod["containers"]:
            environment = {each["name"]: each for each in container["env"]}
            assert environment["RAY_AUTH_MODE"]["value"] == "token"
            assert environment["RAY_AUTH_TOKEN"]["valueFrom"]["secretKeyRef"], "no token stands in the manifest"
            assert environment["RAY_memory_monitor_refresh_ms"]["value"] == "0"
            assert {mount["name"] for mount in container.get("volumeMounts", ())} <= volumes
    ours = next(each for each in head["template"]["spec"]["containers"] if "command" in each)
    assert {"/tmp/ray", "/dev/shm"} < {mount["mountPath"] for mount in ours["volumeMounts"]}, "Ray is reached by these"
    program, verb, *options = ours["command"]
    known = {option for parameter in VERBS[verb].params for option in parameter.opts}
    assert (program, verb) == ("killable", "serve") and {each for each in options if each.startswith("-")} <= known
