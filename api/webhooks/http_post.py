"""One POST of a webhook: to an address that was looked at, within a time, without following a redirect.

Runs in: the webhooks' thread, which has an event loop of its own: neither a look-up nor TLS holds up the jobs.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Mapping, Sequence
from email.utils import parsedate_to_datetime
from functools import partial
from time import time
from urllib.parse import SplitResult, urlsplit

import httpcore

from killable.api.webhooks.bounded_answers import BoundedAnswers
from killable.api.webhooks.callback_address import Network, is_allowed, is_listed
from killable.supervisor import event_loops
from killable.workers.named_tuples import NamedTuple

ADDRESSES_MAX = 4
"""Of one name, tried one after the other. Each has its share of the time that is left to connect: one that drops
packets, as of a family that the network does not carry, keeps no other from being tried.
"""
DETAIL_CHARS_MAX = 300
NO_ANSWER = (
    OSError, ValueError, httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException,
)  # fmt: skip
"""What is raised for the other side, the network, and an address that is none after all."""


class Posted(NamedTuple):
    """What became of one POST."""

    is_taken: bool
    detail: str
    """The status, or why there is none."""
    status: int = 0
    """That of the answer; 0: there was none."""
    again_s: float | None = None
    """The seconds that the receiver asks to wait (Retry-After)."""


async def post(
    url: str, headers: Mapping[str, str], body: bytes, *, allowed: Sequence[Network], timeout_s: float,
    context: ssl.SSLContext,
) -> Posted:  # fmt: skip
    """Send one webhook. Never raises for what the other side or the network does."""
    try:
        async with asyncio.timeout(timeout_s) as until:
            return await _post(urlsplit(url), headers, body, allowed, context, until)
    except TimeoutError:
        return Posted(False, f"no answer within {timeout_s:g} s")
    except NO_ANSWER as error:
        return Posted(False, _words(error))


async def _post(
    url: SplitResult, headers: Mapping[str, str], body: bytes, allowed: Sequence[Network], context: ssl.SSLContext,
    until: asyncio.Timeout,
) -> Posted:  # fmt: skip
    found = await _addresses_of(url)
    addresses = [each for each in found if is_allowed(each, allowed)]
    if not addresses:
        return Posted(False, f"{url.hostname} is {', '.join(found) or 'nowhere'}, in a private network")
    if url.scheme == "http":  # what is sent is readable on its way: only within what the settings allow
        addresses = [each for each in addresses if is_listed(each, allowed)]
        if not addresses:
            allowed_only = "http:// is for networks in webhooks.allow"
            return Posted(False, f"{allowed_only}, and {url.hostname} is {', '.join(found)}")
    # No environment: a proxy would resolve the name anew, and connect to whatever it means by then.
    async with httpcore.AsyncConnectionPool(context, network_backend=BoundedAnswers()) as connections:
        for left in range(len(tried := addresses[:ADDRESSES_MAX]), 0, -1):
            try:
                return await _to_address(connections, url, tried[-left], headers, body, _share_s(until, left))
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                if left == 1:
                    raise
    raise AssertionError("unreachable")


def _share_s(until: asyncio.Timeout, left: int) -> float | None:
    """Return the seconds in which one of the addresses that are left has to be connected to; None: all that is left."""
    end = until.when()
    assert end is not None
    return max(0.0, end - asyncio.get_running_loop().time()) / left if left > 1 else None


async def _to_address(
    connections: httpcore.AsyncConnectionPool, url: SplitResult, address: str, headers: Mapping[str, str], body: bytes,
    connect_s: float | None,
) -> Posted:  # fmt: skip
    """Send it to this very address: between a check of the name and the connection the name could change its meaning.

    The certificate is that of the name (`sni_hostname`), and so is the header Host.
    """
    target = (url.path or "/") + (f"?{url.query}" if url.query else "")
    there = httpcore.URL(scheme=url.scheme, host=address, port=url.port, target=target)
    more = {"Host": url.netloc, "Content-Length": str(len(body))}
    # The answer's body is not read: nobody looks at it, and it may be endless.
    async with connections.stream(
        "POST", there, headers=[*more.items(), *headers.items()], content=body,
        extensions={"sni_hostname": url.hostname, "timeout": {"connect": connect_s}},
    ) as response:  # fmt: skip
        return _posted_of(response)


def _posted_of(response: httpcore.Response) -> Posted:
    status = f"status {response.status}"
    if 200 <= response.status < 300:
        return Posted(True, status)
    if 300 <= response.status < 400:
        return Posted(False, f"{status}: redirects are not followed")
    return Posted(False, status, response.status, _retry_after_s(response))


def _retry_after_s(response: httpcore.Response) -> float | None:
    """Return the seconds of a Retry-After: a number, or a date (RFC 9110, 10.2.3)."""
    found = [value for name, value in response.headers if name.lower() == b"retry-after"]
    value = found[0].decode("latin-1") if found else ""
    if value.isascii() and value.isdecimal():
        return float(value[:9])
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time())
    except (ValueError, TypeError, OverflowError):
        return None


async def _addresses_of(url: SplitResult) -> list[str]:
    port = url.port or (443 if url.scheme == "https" else 80)
    loop = asyncio.get_running_loop()
    look_up = partial(socket.getaddrinfo, url.hostname, port, type=socket.SOCK_STREAM)
    found = await event_loops.in_thread(loop, look_up, is_waited_for=False)  # a thread that no exit waits for
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


def _words(error: Exception) -> str:
    return (str(error) or type(error).__name__)[:DETAIL_CHARS_MAX]
