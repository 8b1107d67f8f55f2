"""`killable serve` under a service manager: a real datagram socket, and signals as systemd sends them."""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from support.killable_command import COMMAND, Serve, Server, client_of, open_gate
from support.waiting import until

JOBS = """
import os, signal, time
from killable import job

@job
def environment() -> dict[str, str]:
    return dict(os.environ)

@job(grace_s=60, ack_s=60)
def deaf():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    yield "tick"
    while True:
        time.sleep(0.01)

@job(grace_s=60)
def tidy(gate: str):
    try:
        yield "tick"
        time.sleep(1000)
    finally:
        open(gate, "rb").close()
"""
WATCHDOG_S = 0.5
AS_SERVICE = ["sh", "-c", f'WATCHDOG_PID=$$ exec {COMMAND[0]} {" ".join(COMMAND[1:])} "$@"', "sh"]


class Manager:
    """systemd's side: what the service tells, as it comes."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))
        self.environment = {"NOTIFY_SOCKET": str(path), "WATCHDOG_USEC": str(int(WATCHDOG_S * 1e6))}

    def until_told(self, word: str) -> list[str]:
        """Return the messages up to one with this line."""
        self.socket.settimeout(60)
        told = []
        while not told or word not in told[-1].splitlines():
            told.append(self.socket.recv(4096).decode())
        return told

    def is_silent(self) -> bool:
        """Return whether nothing is told for the period of the watchdog, after what was told already."""
        self.socket.setblocking(False)
        try:
            while True:
                self.socket.recv(4096)
        except BlockingIOError:
            pass
        self.socket.settimeout(WATCHDOG_S)
        try:
            return not self.socket.recv(4096)
        except TimeoutError:
            return True


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    one = Manager(tmp_path / "notify")
    yield one
    one.socket.close()


@pytest.fixture
def service(manager: Manager, tmp_path: Path, serve: Serve) -> Server:
    (tmp_path / "my_jobs.py").write_text(JOBS)
    return serve("my_jobs.py", "--port", "0", program=AS_SERVICE, env=manager.environment)


def tree(server: Server) -> list[psutil.Process]:
    return psutil.Process(server.process.pid).children(recursive=True)


def test_a_service_is_ready_when_its_workers_are_and_stops_when_it_ends_its_jobs(
    service: Server, manager: Manager, gate: str
) -> None:
    told = manager.until_told("READY=1")
    assert told[-1] == f"READY=1\nSTATUS=listening on {service.url}"
    assert [message for message in told if message != "WATCHDOG=1"][:-1] == [
        "STATUS=starting pools",
        f"STATUS=listening on {service.url}, starting workers",
    ]
    with client_of(service.url) as client:
        assert {worker["state"] for worker in client.workers()} >= {"idle"}
        environment: dict[str, Any] = client.run("environment")
        assert not {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"} & set(environment)
        next(iter(client.submit("tidy", {"gate": gate})))
    manager.until_told("WATCHDOG=1")
    service.process.send_signal(signal.SIGHUP)
    assert manager.until_told("RELOADING=1")[-1].startswith("RELOADING=1\nMONOTONIC_USEC=")
    manager.until_told("READY=1")
    service.process.send_signal(signal.SIGTERM)
    assert manager.until_told("STOPPING=1")[-1] == "STOPPING=1\nSTATUS=ending 1 job"
    manager.until_told("WATCHDOG=1")  # it still lives while a job cleans up
    open_gate(gate)
    service.process.communicate(timeout=60)
    assert service.process.returncode == 0


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGABRT])
def test_a_service_that_stands_still_gives_no_sign_of_life_and_leaves_nothing_when_it_is_ended(
    number: signal.Signals, service: Server, manager: Manager
) -> None:
    manager.until_told("READY=1")
    with client_of(service.url) as client:
        next(iter(client.submit("deaf")))
    manager.until_told("WATCHDOG=1")
    below = tree(service)
    service.process.send_signal(signal.SIGSTOP)
    until(lambda: psutil.Process(service.process.pid).status() == psutil.STATUS_STOPPED, "it stands still")
    assert manager.is_silent()
    service.process.send_signal(number)
    service.process.send_signal(signal.SIGCONT)  # as systemd does: SIGABRT waits for it
    said = service.process.communicate(timeout=60)[1]
    assert service.process.returncode == -number
    until(lambda: not [process for process in below if process.is_running()], "nothing is left")
    assert ("Fatal Python error: Aborted" in said) is (number == signal.SIGABRT)
