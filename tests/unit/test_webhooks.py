"""Which addresses webhooks may go to, how they are signed, and that a name is looked up once for each connection."""

from __future__ import annotations

import asyncio
import base64
import socket
import ssl
import subprocess
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from support.webhook_receiver import receiving

from killable.api.webhooks.callback_address import fault_of, is_allowed, networks_of
from killable.api.webhooks.http_post import Posted, post
from killable.api.webhooks.signature import secret_of, signed_headers


def test_the_signature_is_that_of_the_specification() -> None:
    """The example of the reference implementations (github.com/standard-webhooks)."""
    secret = secret_of("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    headers = signed_headers("msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}', [secret])
    assert headers == {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }


@pytest.mark.parametrize("size", [23, 65])
def test_a_secret_of_a_wrong_size_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match=f"of {size} bytes"):
        secret_of("whsec_" + base64.b64encode(bytes(size)).decode())


PRIVATE = (
    "127.0.0.1", "127.9.9.9", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.0.1", "169.254.169.254", "100.64.0.1",
    "224.0.0.1", "255.255.255.255", "240.0.0.1", "::1", "::", "fe80::1", "fe80::1%eth0", "fc00::1", "ff02::1",
    "::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "2002:7f00:1::", "2002:a00:1::",
    "2001:0:4136:e378:8000:63bf:80ff:fffe", "fec0::2", "fef0::1", "3fff::1", "3fff:fff::1", "192.88.99.1",
    "192.0.0.8", "::ffff:192.88.99.1", "nonsense", "",
)  # fmt: skip
PUBLIC = ("93.184.216.34", "1.1.1.1", "2606:4700:4700::1111", "64:ff9b::101:101", "::ffff:1.1.1.1")


@pytest.mark.parametrize("address", PRIVATE)
def test_a_private_address_is_not_allowed(address: str) -> None:
    assert not is_allowed(address, ())


@pytest.mark.parametrize("address", PUBLIC)
def test_a_public_address_is_allowed(address: str) -> None:
    assert is_allowed(address, ())


def test_a_private_network_can_be_allowed_and_no_more_than_it() -> None:
    allowed = networks_of(["10.1.0.0/16", "::1"])
    for address in ("10.1.2.3", "::ffff:10.1.2.3", "::1", "1.1.1.1"):
        assert is_allowed(address, allowed)
    for address in ("10.2.0.1", "127.0.0.1", "fe80::1"):
        assert not is_allowed(address, allowed)
    assert fault_of("http://10.1.2.3/hook", allowed) == "" and fault_of("http://10.2.0.1/", allowed)
    with pytest.raises(ValueError, match=r"10\.1\.2\.3/8"):
        networks_of(["10.1.2.3/8"])


@pytest.mark.parametrize(
    "url",
    [
        "https://2130706433/", "https://0x7f.1/", "https://127.1/", "https://example.com:0/", "https:///x", "https://[::1",
        "https://exa mple.com/", "https://example.com\\@10.0.0.1/", "//example.com/", "javascript:alert(1)", "https://é/",
        "https://a@10.0.0.1/", "https://example.com/" + "x" * 2048,
    ],
)  # fmt: skip
def test_what_is_no_address_is_told_apart_or_looked_up(url: str) -> None:
    """Other spellings of an address are names: they are looked at when they are looked up."""
    assert fault_of(url, ()) or url in ("https://2130706433/", "https://0x7f.1/", "https://127.1/")


async def send(
    url: str, context: ssl.SSLContext | None = None, allow: str = "127.0.0.0/8", timeout_s: float = 10
) -> Posted:
    made = context or ssl.create_default_context()
    return await post(url, {}, b"{}", allowed=networks_of([allow]), timeout_s=timeout_s, context=made)


@pytest.mark.parametrize("host", ["2130706433", "0x7f.1", "127.1", "localhost"])
async def test_another_spelling_of_a_private_address_is_not_connected_to(host: str) -> None:
    with receiving() as receiver:
        posted = await send(f"https://{host}:{receiver.port}/", allow="10.0.0.0/8")
        assert not posted.is_taken and "private network" in posted.detail and receiver.got == []


async def test_a_name_that_changes_its_meaning_is_not_asked_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was looked at is what is connected to (DNS rebinding)."""
    with receiving("127.0.0.2") as allowed, receiving("127.0.0.1", allowed.port) as forbidden:
        asked = answer(monkeypatch, "rebinds.test", ["127.0.0.2"], ["127.0.0.1"])
        posted = await send(f"http://rebinds.test:{allowed.port}/", allow="127.0.0.2/32")
        assert posted.is_taken and len(allowed.got) == 1 and forbidden.got == []
        assert asked == ["rebinds.test"] and allowed.got[0][0]["host"] == f"rebinds.test:{allowed.port}"
        posted = await send(f"http://rebinds.test:{allowed.port}/", allow="127.0.0.2/32")
        assert not posted.is_taken and "private network" in posted.detail and forbidden.got == []


async def test_of_several_addresses_only_those_that_are_allowed_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    with receiving("127.0.0.3") as receiver, receiving("127.0.0.1", receiver.port) as forbidden:
        answer(monkeypatch, "several.test", ["127.0.0.1", "127.0.0.2", "127.0.0.3"])
        posted = await send(f"http://several.test:{receiver.port}/", allow="127.0.0.2/31")
        assert posted.is_taken and forbidden.got == [], "nobody listens at the first one that is allowed"


async def test_an_address_that_drops_packets_keeps_no_other_from_being_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """As one of IPv6 where the network only says that it carries it."""
    with receiving("127.0.0.1") as receiver, ExitStack() as opened:
        silent = opened.enter_context(socket.create_server(("127.0.0.2", receiver.port), backlog=0))
        for _ in range(3):  # its queue is full: the kernel drops what else asks for a connection
            filling = opened.enter_context(socket.socket())
            filling.setblocking(False)
            filling.connect_ex(silent.getsockname())
        answer(monkeypatch, "two.test", ["127.0.0.2", "127.0.0.1"])
        posted = await send(f"http://two.test:{receiver.port}/", timeout_s=2)
        assert posted.is_taken and len(receiver.got) == 1
        answer(monkeypatch, "one.test", ["127.0.0.2"])
        posted = await send(f"http://one.test:{receiver.port}/", timeout_s=0.1)
        assert not posted.is_taken and posted.detail == "no answer within 0.1 s"


async def test_a_certificate_is_that_of_the_name_and_not_of_the_address(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "key.pem", "-out", "cert.pem",
         "-days", "2", "-subj", "/CN=hook.test", "-addext", "subjectAltName=DNS:hook.test"],
        cwd=tmp_path, check=True, capture_output=True,
    )  # fmt: skip
    theirs = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    theirs.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    ours = ssl.create_default_context(cafile=str(tmp_path / "cert.pem"))
    with receiving(context=theirs) as receiver:
        answer(monkeypatch, "hook.test", ["127.0.0.1"])
        assert (await send(f"https://hook.test:{receiver.port}/", ours)).is_taken
        answer(monkeypatch, "other.test", ["127.0.0.1"])
        refused = await send(f"https://other.test:{receiver.port}/", ours)
        assert not refused.is_taken and "certificate verify failed" in refused.detail
        assert len(receiver.got) == 1


async def test_a_proxy_of_the_environment_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    with receiving() as receiver, receiving() as proxy:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        assert (await send(f"http://127.0.0.1:{receiver.port}/")).is_taken
        assert len(receiver.got) == 1 and proxy.got == []


async def test_an_answer_without_end_and_one_that_is_none_cost_no_more_than_their_time() -> None:
    async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n" + b"x" * 1000)
        await writer.drain()
        await reader.read()
        writer.close()

    async def interim(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                writer.write(b"HTTP/1.1 100 Continue\r\n\r\n" * 1000)
                await writer.drain()
        except OSError:
            writer.close()

    async def nonsense(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-x\r\n")
        writer.close()

    for handler, is_taken, words in ((endless, True, "200"), (nonsense, False, ""), (interim, False, "no answer")):
        server = await asyncio.start_server(handler, "127.0.0.1", 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            posted = await send(f"http://127.0.0.1:{port}/")
            assert posted.is_taken == is_taken and words in posted.detail, posted


def answer(monkeypatch: pytest.MonkeyPatch, name: str, *answers: list[str]) -> list[str]:
    """Let a name mean these addresses, at one look-up after the other; return who is asked for, as it comes."""
    asked: list[str] = []
    left, real = list(answers), socket.getaddrinfo

    def look_up(host: Any, port: Any, *args: Any, **options: Any) -> Any:
        if host != name:
            return real(host, port, *args, **options)
        asked.append(host)
        found = left.pop(0) if len(left) > 1 else left[0]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in found]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    return asked
