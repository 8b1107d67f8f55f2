"""The connection of a head to a node host: both prove that they know the secret, and nothing is said before."""

from __future__ import annotations

import asyncio
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack, asynccontextmanager, closing
from pathlib import Path

import pytest
from support.waiting import Pending, until_async

from killable.supervisor.cluster import messages, node_listener, node_secret
from killable.supervisor.cluster.carrier import CarrierError, HostGone, HostPlace, Machine, Request
from killable.supervisor.cluster.direct_carrier import DirectCarrier
from killable.supervisor.cluster.framed_messages import SIZE
from killable.supervisor.cluster.node_listener import NodeListener
from killable.supervisor.linux import node_sockets

HOST = "127.0.0.1"


class Places:
    """A launcher whose one node is there already."""

    trouble = ""

    def __init__(self, place: HostPlace) -> None:
        self.place = place

    async def open(self) -> None: ...
    async def request(self, wanted: Request) -> None: ...
    async def close(self) -> None: ...

    async def members(self) -> Sequence[Machine]:
        return [Machine("a"), Machine("b")]

    async def start(self, node: str) -> HostPlace:
        return self.place


class Host:
    """Answers a call with its message, twice; that of `waits` when it is let go."""

    def __init__(self) -> None:
        self.called: list[str] = []
        self.let_go = asyncio.Event()

    async def call(self, method: str, message: bytes) -> bytes:
        self.called.append(method)
        if method == "waits":
            await self.let_go.wait()
        return message * 2


@asynccontextmanager
async def listening(host: Host, tls: ssl.SSLContext | None = None) -> AsyncIterator[tuple[NodeListener, HostPlace]]:
    listener = NodeListener(host.call, tls=tls)
    port = await listener.start(HOST)
    try:
        yield listener, HostPlace(HOST, port, listener.secret, "something is wrong there")
    finally:
        listener.close()


@asynccontextmanager
async def carrier_to(place: HostPlace, tls: ssl.SSLContext | None = None) -> AsyncIterator[DirectCarrier]:
    carrier = DirectCarrier(Places(place), tls=tls)
    await carrier.start("a")
    try:
        yield carrier
    finally:
        await carrier.close()


async def test_calls_pass_each_other_and_have_any_size() -> None:
    host = Host()
    async with listening(host) as (listener, place), carrier_to(place) as carrier:
        slow = asyncio.ensure_future(carrier.call("a", "waits", b"slow"))
        answers = await asyncio.gather(*(carrier.call("a", "poll", b"%d" % size * size) for size in (0, 1, 9, 1 << 20)))
        assert answers == [b"%d" % size * size * 2 for size in (0, 1, 9, 1 << 20)] and not slow.done()
        host.let_go.set()
        assert await slow == b"slowslow"
        assert listener.strangers == 0
        assert [machine.trouble for machine in await carrier.members()] == ["something is wrong there", ""]


async def test_nobody_calls_who_does_not_know_the_secret() -> None:
    host = Host()
    async with listening(host) as (listener, place), carrier_to(place._replace(secret=b"x" * 32)) as carrier:
        for _ in range(2):
            with pytest.raises(HostGone):
                await carrier.call("a", "poll", b"")
        await until_async(lambda: no_stranger(listener), "it is hung up on")
    assert host.called == []


async def no_stranger(listener: NodeListener) -> bool | Pending:
    return listener.strangers == 0 or Pending(listener.strangers)


async def read_message(reader: asyncio.StreamReader) -> list[bytes]:
    (size,) = SIZE.unpack(await reader.readexactly(SIZE.size))
    return messages.unpack(await reader.readexactly(size))[1]


def framed(blobs: list[bytes], **header: object) -> bytes:
    packed = messages.pack(header, blobs)
    return SIZE.pack(len(packed)) + packed


async def test_a_proof_is_good_for_its_own_connection_only() -> None:
    """Who has heard one on a connection says it again on another, and calls."""
    host = Host()
    async with listening(host) as (_, place):
        heads = node_secret.HeadsProof(place.secret)
        reader, writer = await asyncio.open_connection(HOST, place.port)
        with closing(writer):
            heard = framed(heads.answer(await read_message(reader)))
            writer.write(heard)
            assert heads.answer(await read_message(reader)) == []
        reader, writer = await asyncio.open_connection(HOST, place.port)
        with closing(writer):
            await read_message(reader)
            writer.write(heard + framed([b""], n=1, method="poll"))
            assert await reader.read() == b"", "it is hung up on"
    assert host.called == []


async def test_a_host_that_does_not_know_the_secret_is_told_nothing() -> None:
    """It has the port of one that has ended. Nor does it prove itself by what the head says."""
    heard: list[bytes] = []

    async def pretend(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(framed([b"n" * node_secret.NONCE_BYTES]))
        _, proof = await read_message(reader)
        writer.write(framed([proof]))
        heard.append(await reader.read())
        writer.close()

    async with await asyncio.start_server(pretend, HOST, 0) as server:
        place = HostPlace(HOST, server.sockets[0].getsockname()[1], node_secret.new_secret())
        async with carrier_to(place) as carrier:
            with pytest.raises(HostGone):
                await carrier.call("a", "poll", b"an order")
        await until_async(lambda: _heard(heard), "it is hung up on")
    assert heard == [b""]


async def _heard(heard: list[bytes]) -> bool | Pending:
    return bool(heard) or Pending(heard)


@pytest.mark.parametrize(
    "said",
    [SIZE.pack(node_secret.PROOF_BYTES_MAX + 1), b"GET / HTTP/1.1\r\n\r\n", framed([b""]), framed([b"", b"", b""])],
    ids=["a long message", "something else", "too little", "too much"],
)
async def test_a_stranger_is_hung_up_on(said: bytes) -> None:
    async with listening(Host()) as (listener, place):
        reader, writer = await asyncio.open_connection(HOST, place.port)
        with closing(writer):
            await read_message(reader)
            writer.write(said)
            assert await reader.read() == b""
        assert listener.strangers == 0


async def test_strangers_that_say_nothing_keep_nobody_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_listener, "PROVE_S", 0.2)
    monkeypatch.setattr(node_listener, "STRANGERS_MAX", 2)
    async with listening(Host()) as (listener, place):
        strangers = [await asyncio.open_connection(HOST, place.port) for _ in range(3)]
        for reader, writer in strangers:
            with closing(writer):
                await reader.read()  # to its end: they are hung up on, the first at once
        assert listener.strangers == 0
        async with carrier_to(place) as carrier:
            assert await carrier.call("a", "poll", b"x") == b"xx"


async def test_a_head_gets_in_past_any_number_of_strangers(monkeypatch: pytest.MonkeyPatch) -> None:
    """They hold all places, and take each that becomes free."""
    monkeypatch.setattr(node_listener, "STRANGERS_MAX", 4)
    async with listening(Host()) as (listener, place):
        with ExitStack() as open_ones:

            async def greeted(address: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, list[bytes]]:
                reader, writer = await asyncio.open_connection(HOST, place.port, local_addr=(address, 0))
                open_ones.enter_context(closing(writer))
                return reader, writer, await read_message(reader)

            for _ in range(8):
                await greeted(HOST)
            assert listener.strangers == 4
            async with carrier_to(place) as carrier:
                assert await carrier.call("a", "poll", b"x") == b"xx"
            reader, writer, said = await greeted("127.0.0.2")  # a head that is slow
            for _ in range(8):
                await greeted(HOST)
            heads = node_secret.HeadsProof(place.secret)
            writer.write(framed(heads.answer(said)))
            assert heads.answer(await read_message(reader)) == []


async def test_a_connection_that_is_lost_fails_its_calls_and_the_next_one_connects_anew() -> None:
    host = Host()
    async with listening(host) as (_, place), carrier_to(place) as carrier:
        waits = asyncio.ensure_future(carrier.call("a", "waits", b""))
        await carrier.call("a", "poll", b"")
        carrier._ways["a"]._frames.hang_up()
        with pytest.raises(CarrierError) as raised:
            await waits
        assert not isinstance(raised.value, HostGone), "the host may be there"
        assert await carrier.call("a", "poll", b"x") == b"xx"
    host.let_go.set()


async def test_a_host_that_has_ended_is_gone_and_the_next_one_is_called_where_it_listens() -> None:
    host = Host()
    async with listening(host) as (listener, place), carrier_to(place) as carrier:
        assert await carrier.call("a", "poll", b"x") == b"xx"
        listener.close()
        carrier._ways["a"]._frames.hang_up()
        with pytest.raises(CarrierError):
            await carrier.call("a", "poll", b"")
        with pytest.raises(HostGone):
            await carrier.call("a", "poll", b"")
        async with listening(host) as (_, after):
            carrier._launcher.place = after  # type: ignore[attr-defined]
            await carrier.start("a")
            assert await carrier.call("a", "poll", b"x") == b"xx"
        with pytest.raises(HostGone):
            await carrier.call("b", "poll", b"")


async def test_nothing_is_kept_of_a_machine_that_is_gone() -> None:
    """Its buffer is as large as an answer, and machines of clouds never come back under the same name."""
    async with listening(Host()) as (_, place), carrier_to(place) as carrier:
        assert await carrier.call("a", "poll", b"x") == b"xx"
        way = carrier._ways["a"]
        carrier.forget("a")
        assert way.is_over and not carrier._ways and not carrier._places
        carrier.forget("b")  # of which there was nothing
        with pytest.raises(HostGone):
            await carrier.call("a", "poll", b"")


async def test_what_answers_nothing_is_not_waited_for() -> None:
    """A machine that is off, or a host that stands still: its kernel accepts."""
    with socket.create_server((HOST, 0)) as silent:
        async with carrier_to(HostPlace(HOST, silent.getsockname()[1], b"x" * 32)) as carrier:
            with pytest.raises(CarrierError) as raised:
                await carrier.call("a", "poll", b"")
            assert not isinstance(raised.value, HostGone)


async def test_a_call_that_gives_up_leaves_the_connection_to_the_others() -> None:
    """A head has some calls under way to a node, each with a time of its own."""
    host = Host()
    async with listening(host) as (_, place), carrier_to(place) as carrier:
        hasty, other = (asyncio.ensure_future(carrier.call("a", "poll", b"x")) for _ in range(2))
        await asyncio.sleep(0)  # both wait for the connection
        hasty.cancel()
        assert await other == b"xx"
        assert hasty.cancelled()


def _openssl(*arguments: str, folder: Path) -> None:
    subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)


def _certificates(folder: Path, name: str) -> dict[str, str]:
    """Return Ray's variables: a certificate for this address, by an authority of its own."""
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    _openssl("req", "-x509", *key, "-keyout", f"{name}-ca.key", "-out", f"{name}-ca.pem", "-subj", f"/CN={name}",
             folder=folder)  # fmt: skip
    _openssl("req", *key, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", "/CN=node", folder=folder)
    (folder / "names").write_text(f"subjectAltName=IP:{HOST}")
    _openssl("x509", "-req", "-in", f"{name}.csr", "-CA", f"{name}-ca.pem", "-CAkey", f"{name}-ca.key",
             "-CAcreateserial", "-extfile", "names", "-out", f"{name}.pem", folder=folder)  # fmt: skip
    files = {"CA_CERT": f"{name}-ca.pem", "SERVER_CERT": f"{name}.pem", "SERVER_KEY": f"{name}.key"}
    return {"RAY_USE_TLS": "1", **{f"RAY_TLS_{what}": str(folder / file) for what, file in files.items()}}


async def test_it_is_encrypted_where_ray_is_and_both_have_certificates_of_one_authority(tmp_path: Path) -> None:
    ours, others = _certificates(tmp_path, "ours"), _certificates(tmp_path, "others")
    host = Host()
    async with listening(host, node_sockets.tls(ours, listens=True)) as (_, place):
        async with carrier_to(place, node_sockets.tls(ours, listens=False)) as carrier:
            assert await carrier.call("a", "poll", b"x" * 100_000) == b"x" * 200_000
        for tls in (None, node_sockets.tls(others, listens=False)):
            async with carrier_to(place, tls) as carrier:
                with pytest.raises(CarrierError):
                    await carrier.call("a", "poll", b"")
    assert host.called == ["poll"]
    assert node_sockets.tls({"RAY_USE_TLS": "0"}, listens=True) is None
    with pytest.raises(ValueError, match="RAY_TLS_SERVER_KEY"):
        node_sockets.tls({**ours, "RAY_TLS_SERVER_KEY": ""}, listens=True)
