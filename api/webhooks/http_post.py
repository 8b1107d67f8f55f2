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

import httpx

from killable.api.webhooks.callback_address import Network, is_allowed, is_listed
from killable.supervisor import event_loops
from killable.workers.named_tuples import NamedTuple

ADDRESSES_MAX = 4
"""Of one name, tried one after the other."""
DETAIL_CHARS_MAX = 300


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
        async with asyncio.timeout(timeout_s):
            return await _post(httpx.URL(url), headers, body, allowed, context)
    except TimeoutError:
        return Posted(False, f"no answer within {timeout_s:g} s")
    except (OSError, UnicodeError, httpx.HTTPError, httpx.InvalidURL) as error:
        return Posted(False, _words(error))


async def _post(
    url: httpx.URL, headers: Mapping[str, str], body: bytes, allowed: Sequence[Network], context: ssl.SSLContext
) -> Posted:
    found = await _addresses_of(url)
    addresses = [each for each in found if is_allowed(each, allowed)]
    if not addresses:
        return Posted(False, f"{url.host} is {', '.join(found) or 'nowhere'}, in a private network")
    if url.scheme == "http":  # what is sent is readable on its way: only within what the settings allow
        addresses = [each for each in addresses if is_listed(each, allowed)]
        if not addresses:
            return Posted(False, f"http:// is for networks in webhooks.allow, and {url.host} is {', '.join(found)}")
    # No environment: a proxy would resolve the name anew, and connect to whatever it means by then.
    async with httpx.AsyncClient(
        verify=context, trust_env=False, follow_redirects=False, timeout=None,
        limits=httpx.Limits(max_keepalive_connections=0),
    ) as client:  # fmt: skip
        for place, address in enumerate(addresses[:ADDRESSES_MAX]):
            try:
                return await _to_address(client, url, address, headers, body)
            except httpx.ConnectError:
                if place == len(addresses[:ADDRESSES_MAX]) - 1:
                    raise
    raise AssertionError("unreachable")


async def _to_address(
    client: httpx.AsyncClient, url: httpx.URL, address: str, headers: Mapping[str, str], body: bytes
) -> Posted:
    """Send it to this very address: between a check of the name and the connection the name could change its meaning.

    The certificate is that of the name (`sni_hostname`), and so is the header Host.
    """
    request = client.build_request(
        "POST", url.copy_with(host=address), content=body,
        headers={**headers, "Host": url.netloc.decode("ascii")}, extensions={"sni_hostname": url.raw_host.decode()},
    )  # fmt: skip
    response = await client.send(request, stream=True)
    try:
        return _posted_of(response)
    finally:
        await response.aclose()  # its body is not read: nobody looks at it, and it may be endless


def _posted_of(response: httpx.Response) -> Posted:
    status = f"status {response.status_code}"
    if response.is_success:
        return Posted(True, status)
    if response.is_redirect:
        return Posted(False, f"{status}: redirects are not followed")
    return Posted(False, status, response.status_code, _retry_after_s(response))


def _retry_after_s(response: httpx.Response) -> float | None:
    """Return the seconds of a Retry-After: a number, or a date (RFC 9110, 10.2.3)."""
    value = response.headers.get("retry-after", "")
    if value.isascii() and value.isdecimal():
        return float(value[:9])
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time())
    except (ValueError, TypeError, OverflowError):
        return None


async def _addresses_of(url: httpx.URL) -> list[str]:
    port = url.port or (443 if url.scheme == "https" else 80)
    loop = asyncio.get_running_loop()
    look_up = partial(socket.getaddrinfo, url.raw_host.decode("ascii"), port, type=socket.SOCK_STREAM)
    found = await event_loops.in_thread(loop, look_up, is_waited_for=False)  # a thread that no exit waits for
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


def _words(error: Exception) -> str:
    return (str(error) or type(error).__name__)[:DETAIL_CHARS_MAX]
