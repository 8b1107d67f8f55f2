"""sd_notify(3): what is sent, when, and that nothing is sent without a manager."""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path

import pytest
from support.virtual_loop import VirtualLoop, run

from killable.api.cli.server.service_manager import UNSENT_MAX, ServiceManager

EXTENDED = "EXTEND_TIMEOUT_USEC=20000000"


class Manager:
    """A service manager's end of the socket."""

    def __init__(self, address: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(f"\0{address[1:]}" if address.startswith("@") else address)
        self.socket.setblocking(False)

    def received(self) -> list[str]:
        found = []
        while True:
            try:
                found.append(self.socket.recv(4096).decode())
            except BlockingIOError:
                return found


@pytest.fixture(params=["path", "abstract"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "notify") if request.param == "path" else f"@killable-test/{os.getpid()}"


def test_messages_are_those_of_systemd(address: str) -> None:
    async def main() -> None:
        manager = Manager(address)
        environ = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "3000000", "WATCHDOG_PID": str(os.getpid()), "A": "b"}
        with ServiceManager.of(environ) as told:
            assert environ == {"A": "b"}
            told.status("starting\npools")
            with told.reloading():
                pass  # before it was ready
            told.ready("listening")
            with told.reloading():
                told.status("busy")
            told.stopping("ending 2 jobs")
        received = manager.received()
        assert received[:3] == ["WATCHDOG=1", "STATUS=starting pools", "READY=1\nSTATUS=listening"]
        assert received[3].startswith("RELOADING=1\nMONOTONIC_USEC=") and received[3].rpartition("=")[2].isdigit()
        assert received[4:] == ["STATUS=busy", "READY=1", "STOPPING=1\nSTATUS=ending 2 jobs", EXTENDED]
        manager.socket.close()

    asyncio.run(main())


def test_a_sign_of_life_comes_at_each_half_of_the_period_and_none_after_the_end(tmp_path: Path) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        manager = Manager(str(tmp_path / "notify"))
        with ServiceManager.of({"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "10000000"}):
            await asyncio.sleep(14)
            assert manager.received() == ["WATCHDOG=1"] * 3
        await asyncio.sleep(20)
        assert manager.received() == []
        manager.socket.close()

    run(main())


def test_a_stop_that_takes_long_is_extended_until_it_is_over(tmp_path: Path) -> None:
    async def main() -> None:
        manager = Manager(str(tmp_path / "notify"))
        with ServiceManager(str(tmp_path / "notify")) as told:
            told.extend()
            await asyncio.sleep(11)
            told.stopping("ending 1 job")
            await asyncio.sleep(11)
            assert manager.received() == [*[EXTENDED] * 3, "STOPPING=1\nSTATUS=ending 1 job", *[EXTENDED] * 3]
        await asyncio.sleep(20)
        assert manager.received() == []
        manager.socket.close()

    run(main())


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"WATCHDOG_USEC": "1000000"},
        {"NOTIFY_SOCKET": "vsock:2:1234", "WATCHDOG_USEC": "1000000"},
        {"NOTIFY_SOCKET": "PATH", "WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "1"},
        {"NOTIFY_SOCKET": "PATH", "WATCHDOG_USEC": "0"},
        {"NOTIFY_SOCKET": "PATH", "WATCHDOG_USEC": "soon"},
    ],
)
def test_no_sign_of_life_without_a_manager_that_waits_for_one(environ: dict[str, str], tmp_path: Path) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        manager = Manager(str(tmp_path / "notify"))
        given = {name: value.replace("PATH", str(tmp_path / "notify")) for name, value in environ.items()}
        with ServiceManager.of(given) as told:
            assert given == {} and loop.timers() == []
            told.ready("listening")
        is_told = environ.get("NOTIFY_SOCKET") == "PATH"
        assert manager.received() == (["READY=1\nSTATUS=listening"] if is_told else [])
        manager.socket.close()

    run(main())


def test_a_full_queue_of_the_manager_delays_a_message_and_blocks_nobody(tmp_path: Path) -> None:
    async def main() -> None:
        manager = Manager(str(tmp_path / "notify"))
        with ServiceManager(str(tmp_path / "notify")) as told:
            sent = 2 * UNSENT_MAX
            for number in range(sent):
                told.status(str(number))
            told.ready("listening")
            received = manager.received()
            assert 0 < len(received) < sent
            while "READY=1\nSTATUS=listening" not in received:
                await asyncio.sleep(1)
                received += manager.received()
            assert received[-2:] == [f"STATUS={sent - 1}", "READY=1\nSTATUS=listening"]
        manager.socket.close()

    run(main())


def test_a_manager_that_is_gone_is_no_failure(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        with ServiceManager(str(tmp_path / "nobody")) as told:
            told.ready("listening")

    asyncio.run(main())
    (record,) = caplog.records
    assert (record.message, record.__dict__["detail"]) == ("manager_not_told", "No such file or directory")
