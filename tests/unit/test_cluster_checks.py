"""What `killable doctor` says of Ray's settings on this machine."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from pathlib import Path

import pytest

from killable.api.cli.commands.doctor import _configured
from killable.api.cli.diagnosis.cluster_checks import examine_cluster
from killable.supervisor.http_server_settings import ClusterSettings


def found(address: str, environ: Mapping[str, str], *, insecure: bool = False) -> dict[str, str]:
    checks = examine_cluster(ClusterSettings(ray=address, insecure=insecure), environ)
    return {check.name: check.status for check in checks if check.name != "Ray"}


def test_without_a_cluster_nothing_is_checked() -> None:
    assert found("", {}) == {}


@pytest.mark.parametrize(
    ("environ", "insecure", "token", "monitor"),
    [
        ({}, False, "fail", "warn"),
        ({}, True, "warn", "warn"),
        ({"RAY_AUTH_MODE": "token", "RAY_memory_monitor_refresh_ms": "0"}, False, "ok", "ok"),
        ({"RAY_AUTH_MODE": "disabled", "RAY_memory_monitor_refresh_ms": "250"}, False, "fail", "warn"),
    ],
)
def test_token_and_memory_monitor(environ: dict[str, str], insecure: bool, token: str, monitor: str) -> None:
    assert found("auto", environ, insecure=insecure) == {
        "Ray's token": token, "Ray's memory monitor": monitor, "Ray and guards": "ok", "Ray's head": "ok",
    }  # fmt: skip


@pytest.mark.parametrize(
    "name", ["RAY_kill_child_processes_on_worker_exit_with_raylet_subreaper", "RAY_process_group_cleanup_enabled"]
)
def test_what_would_kill_the_guards_of_a_node_is_told(name: str) -> None:
    assert found("auto", {name: "true"})["Ray and guards"] == "warn"
    assert found("auto", {name: "0"})["Ray and guards"] == "ok"


def test_whether_the_head_answers() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = f"127.0.0.1:{listening.getsockname()[1]}"
        assert found(address, {})["Ray's head"] == "ok"
    assert found(address, {})["Ray's head"] == "fail"


@pytest.mark.parametrize("file", ["", "[server]\nport = 1\n", "no TOML"])
@pytest.mark.parametrize(("flag", "variable"), [("auto", ""), (None, "auto"), (None, "")])
def test_ray_is_looked_at_whatever_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, flag: str | None, variable: str
) -> None:
    monkeypatch.chdir(tmp_path)
    if file:
        Path("killable.toml").write_text(file)
    if variable:
        monkeypatch.setenv("KILLABLE_CLUSTER__RAY", variable)
    is_looked_at = "Ray's head" in {check.name for check in _configured(flag)}
    assert is_looked_at == bool(flag or variable)
