"""When requests begin in a crowd of others: who has to wait for whom, and who is refused."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from api_server import OwnServer, Server, StartServer
from support.waiting import TIMEOUT_S, Countdown, Pending, until_async

from killable.api.http import operators_first
from killable.api.http.api_keys import ApiKey
from killable.api.http.app_settings import HttpSettings

ANN, BOB = ApiKey("ann", "submit", "ann-0123456789abcdef"), ApiKey("bob", "submit", "bob-0123456789abcdef")
ONCALL = ApiKey("oncall", "operate", "oncall-0123456789abcdef")
HTTP = HttpSettings(keys=(ANN, BOB, ONCALL))
CROWD = 60
SOON = CROWD // 3
"""Of the crowd, at most so many are answered before one that goes first: the loop turns a few times meanwhile."""
PROBE, INFO = "GET /livez", "GET /v1/info"
UNKNOWN = "DELETE /v1/jobs/job-00000000-0000-4000-8000-000000000000"


def asking(what: str, key: ApiKey | None = None) -> bytes:
    authorization = f"Authorization: Bearer {key.key}\r\n" if key else ""
    return f"{what} HTTP/1.1\r\nHost: localhost\r\n{authorization}Connection: close\r\n\r\n".encode()


class Crowd:
    """Clients whose requests are all there before the server, which runs in this loop, sees the first one."""

    def __init__(self, server: Server, number: int, request: bytes, address: str = "127.0.0.1") -> None:
        self.answers: list[bytes] = []
        self._number = number
        self._open: list[socket.socket] = []
        for _ in range(number):
            client = socket.create_connection(("127.0.0.1", server.port), source_address=(address, 0))
            client.sendall(request)
            client.setblocking(False)
            self._open.append(client)

    def answered(self) -> int:
        """Take the answers that have come, without a turn of the loop; return how many there are."""
        for client in list(self._open):
            try:
                answer = client.recv(1 << 16)
            except BlockingIOError:
                continue
            self.answers.append(answer)
            self._open.remove(client)
            client.close()
        return len(self.answers)

    async def all_answered(self) -> None:
        """Look in each turn of the loop: so soon after the last answer nobody else has had more than one."""
        patience = Countdown(TIMEOUT_S)
        while self.answered() < self._number:
            assert not patience.is_over(), f"{len(self._open)} requests have no answer"
            await asyncio.sleep(0)

    def close(self) -> None:
        for client in self._open:
            client.close()


@contextmanager
def crowd(*of: Any) -> Iterator[Crowd]:
    clients = Crowd(*of)
    try:
        yield clients
    finally:
        clients.close()


@pytest.fixture
def clients() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.mark.parametrize("last", [(INFO, ONCALL), (INFO, BOB), (UNKNOWN, ANN), (PROBE, None)])
async def test_who_comes_after_a_crowd_of_one_key_is_answered_before_it(
    start_server: StartServer, last: tuple[str, ApiKey | None]
) -> None:
    """An operator, another key, a cancel of the same key, and a probe."""
    async with start_server(http=HTTP, workers=1) as server:
        with crowd(server, CROWD, asking(INFO, ANN)) as backlog, crowd(server, 1, asking(*last), "127.0.0.2") as one:
            await one.all_answered()
            assert backlog.answered() <= SOON
            await backlog.all_answered()
            assert all(answer.startswith(b"HTTP/1.1 200") for answer in backlog.answers)


async def test_without_keys_addresses_take_turns(start_server: StartServer) -> None:
    async with start_server(workers=1) as server:
        with crowd(server, CROWD, asking(PROBE)) as backlog, crowd(server, 3, asking(INFO), "127.0.0.2") as others:
            await others.all_answered()
            assert backlog.answered() <= SOON
            await backlog.all_answered()


async def test_a_key_goes_past_a_crowd_without_one_at_its_own_address(start_server: StartServer) -> None:
    """As behind a proxy. It is read in the order in which it came, but two are read for one that begins."""
    async with start_server(http=HTTP, workers=1) as server:
        with crowd(server, CROWD, asking(INFO)) as backlog, crowd(server, 1, asking(INFO, BOB)) as one:
            await one.all_answered()
            assert backlog.answered() <= CROWD * 2 // 3
            await backlog.all_answered()
            assert all(answer.startswith(b"HTTP/1.1 401") for answer in backlog.answers)


async def test_too_many_that_wait_are_refused_as_busy_and_counted(
    start_server: StartServer, clients: ExitStack
) -> None:
    async with start_server(http=HttpSettings(keys=HTTP.keys, waiting_max=5), workers=1) as server:
        backlog = clients.enter_context(crowd(server, CROWD, asking(INFO, ANN)))
        bobs = clients.enter_context(crowd(server, 5, asking(INFO, BOB), "127.0.0.2"))
        asked = clients.enter_context(crowd(server, 1, asking("GET /v1/metrics", ONCALL)))
        await asked.all_answered()
        told = json.loads(asked.answers[0].partition(b"\r\n\r\n")[2])
        assert told["requests_waiting"] > 0
        await bobs.all_answered()
        await backlog.all_answered()
        assert all_ok(bobs.answers) == 5, "another key is not refused"
        refused = [answer for answer in backlog.answers if answer.startswith(b"HTTP/1.1 503")]
        assert refused and all_ok(backlog.answers) == CROWD - len(refused) > 5
        head, _, body = refused[0].partition(b"\r\n\r\n")
        problem = json.loads(body)
        assert problem["code"] == "busy" and problem["retryable"] and b"retry-after: 1\r\n" in head.lower() + b"\r\n"
        answer = await server.client.get("/v1/metrics", headers={"authorization": f"Bearer {ONCALL.key}"})
        assert (answer.json()["requests_shed"], answer.json()["requests_waiting"]) == (len(refused), 0)
        text = await server.client.get("/metrics", headers={"authorization": f"Bearer {ONCALL.key}"})
        assert f"\nkillable_requests_shed_total {len(refused)}.0\n" in text.text


def all_ok(answers: list[bytes]) -> int:
    return sum(answer.startswith(b"HTTP/1.1 200") for answer in answers)


async def test_who_leaves_while_it_waits_costs_no_line_of_the_log(
    start_server: StartServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody knows how often that happens, and whoever waits needs no key."""
    async with start_server(http=HTTP, workers=1) as server:
        for _ in range(5):
            leaving = Crowd(server, CROWD, asking(INFO))
            await asyncio.sleep(0)
            for client in leaving._open[::2]:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset
            leaving.close()
            with crowd(server, 1, asking(INFO, BOB)) as one:
                await one.all_answered()
        await no_requests(server)
    assert [record.getMessage() for record in caplog.records if record.name == "uvicorn.error"] == []


@pytest.mark.parametrize(("hold_max_s", "ending"), [(600.0, "completed"), (0.0, "cancelled")])
async def test_others_wait_while_an_operators_request_is_answered_but_not_for_ever(
    start_server: StartServer, clients: ExitStack, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, hold_max_s: float,
    ending: str,
) -> None:  # fmt: skip
    monkeypatch.setattr(operators_first, "HOLD_MAX_S", hold_max_s)
    async with start_server(http=HTTP, workers=1) as server:
        gate = tmp_path / "gate"
        headers = {"authorization": f"Bearer {ONCALL.key}"}
        server.client.headers.update(headers)
        job_id = await server.submit("gated", gates=[str(gate)])
        await server.read(job_id, until="started")
        operator = clients.enter_context(crowd(server, 1, asking(f"GET /v1/jobs/{job_id}/result?wait_s=60", ONCALL)))
        await is_read(server, "/result")
        with crowd(server, 1, asking(f"DELETE /v1/jobs/{job_id}?grace_s=0", BOB)) as bob:
            for _ in range(500):  # more turns than the cancel would need
                await asyncio.sleep(0)
            if ending == "completed":
                gate.touch()
            await operator.all_answered()
            await bob.all_answered()
        assert (await server.record(job_id))["state"] == ending


async def no_requests(server: OwnServer) -> None:
    async def gone() -> Any:
        return not server.connections or Pending(len(server.connections))

    await until_async(gone, "all have left")


async def is_read(server: OwnServer, path: str) -> None:
    async def there() -> Any:
        scopes = [connection.scope for connection in server.connections]
        return any(scope and scope["path"].endswith(path) for scope in scopes) or Pending("not yet")

    await until_async(there, "the operator's request has come")
    await asyncio.sleep(0)
