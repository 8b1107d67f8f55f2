"""What `killable doctor` says of Ray's settings on this machine."""

from __future__ import annotations

import socket
from collections.abc import Mapping

import pytest

from killable.api.cli.diagnosis.cluster_checks import examine_cluster
from killable.supervisor.server_settings import ClusterSettings


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
