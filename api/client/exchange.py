"""One request and its answer, without I/O: builds the request, turns answers and failures into values and errors.

Runs in: any machine (no supervisor, no Linux).

    HttpCall ── Server.arguments ──► httpx, in the transports ──► Outcome ──► Server.checked ──► answer or typed error

Nothing here waits or connects, so the blocking and the asyncio client share all of it.
"""

from __future__ import annotations

import json
import os
import re
import ssl
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from importlib.metadata import version
from typing import Any, Literal, TypeAlias, TypeGuard, TypeVar
from urllib.parse import quote

import httpx

from killable.api.client.addresses import DEFAULT_URL, UNIX_PREFIX, is_loopback
from killable.api.client.outcomes import Record, Unreachable, problem_error
from killable.workers.errors import KillableError, Refused

C = TypeVar("C")

CONNECT_S = 5.0
"""Longest time to connect, in seconds. A server that takes longer counts as absent."""
ANSWER_S = 30.0
"""Longest time for an answer, in seconds, beyond the wait that the request asks for. Servers answer in milliseconds."""
PROBLEM_URN = "urn:killable:problem:"
"""Prefix of the problem types of killable servers (RFC 9457, 3.1.1)."""
ANSWER_S_MIN = 0.5
"""Shortest time for an answer, in seconds, however little the caller has left: giving up costs another request."""

Repeat = Literal["safe", "keyed", "unsent", "never"]
"""When a call may be sent again. safe: always; keyed: not after a refusal such as a full queue; unsent: only if the
request cannot have arrived; never: not even then.
"""

Outcome: TypeAlias = httpx.Response | KillableError
"""The outcome of a call: an answer whose body has been read, or the error if none came."""


@dataclass(frozen=True, slots=True)
class HttpCall:
    """One request. The server is asked to hold it for `hold_s` seconds and may take `answer_s` beyond that."""

    method: str
    path: str
    query: Mapping[str, Any] = field(default_factory=dict)
    """Members that are None or empty are not sent."""
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    """JSON, or None."""
    hold_s: float = 0.0
    answer_s: float | None = None
    """None: the client's `answer_s`."""
    again: Repeat = "safe"
    until: float | None = None
    """The monotonic time after which the answer is useless. Each sending contains the time that is left."""


@dataclass(frozen=True, slots=True)
class Server:
    """A killable server as a client reaches it: address, headers with the API key, and time limits."""

    url: str
    uds: str | None
    address: str
    """The address for messages, without any password."""
    headers: Mapping[str, str] = field(repr=False)
    connect_s: float
    answer_s: float

    @classmethod
    def at(
        cls, url: str | None, *, uds: str | None, api_key: str | None, headers: Mapping[str, str] | None,
        connect_s: float, answer_s: float,
    ) -> Server:  # fmt: skip
        """Parse an address: `http://HOST:PORT`, `HOST:PORT` or `unix:PATH`. The environment supplies missing values.

        Raise Unreachable for an invalid address, Refused for a key or header that cannot be sent. Warn, at the line
        that makes the client, of a key that would go to another machine unencrypted.
        """
        url = url or ("" if uds else os.environ.get("KILLABLE_URL") or DEFAULT_URL)
        api_key = (api_key or os.environ.get("KILLABLE_API_KEY") or "").strip()
        if url.startswith(UNIX_PREFIX):
            uds, url = url.removeprefix(UNIX_PREFIX).removeprefix("//"), ""
        url = (url if "://" in url else f"http://{url}" if url else "http://localhost").rstrip("/")
        try:
            parsed = httpx.URL(url)
        except httpx.InvalidURL as error:
            shown, passwords = re.subn(r"(?<=://).*@", "", url, flags=re.DOTALL)
            why = "" if passwords else f" ({error})"  # the message may repeat a part of the password
            raise Unreachable(f"{shown!r} is not a valid address{why}; expected http://HOST:PORT", url=shown) from error
        shown = f"{UNIX_PREFIX}{uds}" if uds else str(parsed.copy_with(userinfo=b"")).rstrip("/")
        if not uds and (parsed.scheme not in ("http", "https") or not parsed.host):
            raise Unreachable(f"{shown!r} is not a valid address: expected http://, https:// or unix:", url=shown)
        sent = {"User-Agent": f"killable/{version('killable')}"} | _sendable(headers or {})
        if api_key:
            sent["Authorization"] = "Bearer " + _sendable({"API key": api_key})["API key"]
        server = cls(url, uds, shown, sent, connect_s, answer_s)
        if parsed.scheme == "http" and not server.is_here and any(name.lower() == "authorization" for name in sent):
            why = "anyone on the way can read it; use https:// or a tunnel (ssh -L)"
            warnings.warn(f"the API key goes to {shown} unencrypted: {why}", UserWarning, stacklevel=3)
        return server

    @property
    def is_here(self) -> bool:
        """Whether it can only be on this machine."""
        return bool(self.uds) or is_loopback(httpx.URL(self.url).host)

    def open_http(self, client: Callable[..., C], transport: Callable[..., object], **options: Any) -> C:
        """Create an httpx client of these classes, blocking or not.

        Raise Unreachable if the environment names a kind of proxy that is not installed, or certificates that do not
        exist.
        """
        url = httpx.URL(self.url)
        is_here = self.is_here
        # Each open stream holds a connection: with httpx's default of 100, the next call (a cancel) could wait forever.
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=20)
        try:
            return client(
                # A proxy from the environment cannot reach this machine's loopback.
                trust_env=not is_here,
                # Plain HTTP to this machine needs no certificates, and to read them all takes 20 ms.
                verify=not (is_here and url.scheme == "http"),
                limits=limits,
                transport=transport(uds=self.uds, limits=limits, verify=False) if self.uds else None,
                **options,
            )
        except (ImportError, ValueError, OSError, httpx.InvalidURL) as error:
            why = f"no connection to {self.address} with the proxies or certificates of this environment: {error}"
            raise Unreachable(why, url=self.address) from error

    def arguments(self, call: HttpCall) -> dict[str, Any]:
        """Return a call as keyword arguments of httpx's `request` and `stream`."""
        answer_s = max(ANSWER_S_MIN, self.answer_s if call.answer_s is None else call.answer_s)
        headers = dict(self.headers) | _sendable(call.headers)
        if call.body is not None:
            headers["Content-Type"] = "application/json"
        if call.until is not None:
            headers["X-Request-Timeout"] = f"{max(0.001, call.until - time.monotonic()):.3f}"
        return {
            "method": call.method,
            "url": self.url + call.path,
            "params": {name: _text(value) for name, value in call.query.items() if value not in (None, "")},
            "headers": headers,
            "content": call.body,
            "timeout": httpx.Timeout(
                answer_s, connect=min(self.connect_s, answer_s), read=call.hold_s + answer_s, pool=None
            ),
        }

    def checked(self, response: Outcome) -> httpx.Response:
        """Return a 2xx answer. Raise any other outcome: the error itself, or the typed error of a problem document."""
        if isinstance(response, KillableError):
            raise response
        if response.is_success:
            return response
        members = _json(response)
        if not is_problem(members):
            raise self.unexpected_answer(response)
        raise problem_error(members, status=response.status_code, **_retry_after(response))

    def members(self, response: httpx.Response) -> Record:
        """Return the JSON object of an answer. Raise Unreachable if it has none: this is no killable server."""
        members = _json(response)
        if not isinstance(members, dict):
            raise self.unexpected_answer(response)
        return members

    def member(self, response: httpx.Response, name: str) -> Any:
        """Return one member of the JSON object of an answer. Raise Unreachable if it is missing."""
        members = self.members(response)
        if name not in members:
            raise self.unexpected_answer(response)
        return members[name]

    def records(self, response: httpx.Response, name: str) -> list[Record]:
        """Return the JSON objects in one member of an answer. Raise Unreachable if it has no list of them."""
        found = self.member(response, name)
        if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
            raise self.unexpected_answer(response)
        return found

    def value(self, response: httpx.Response) -> Any:
        """Return the JSON value of an answer, of any type. Raise Unreachable if it has none."""
        value = _json(response)
        if value is _NOT_JSON:
            raise self.unexpected_answer(response)
        return value

    def unexpected_answer(self, response: httpx.Response) -> Unreachable:
        """Return the error for an answer that no killable server gives."""
        kind = response.headers.get("content-type", "no content type").partition(";")[0]
        answer = f"{response.status_code} {response.reason_phrase}".rstrip()
        return Unreachable(
            f"{self.address} answered {answer} ({kind}), which is not an answer of a killable server: "
            "is it another server, or a proxy in front of it?",
            url=self.address, status=response.status_code, **_retry_after(response),
        )  # fmt: skip

    def unreachable(self, error: Exception) -> Unreachable:
        """Return the error for a request that got no answer."""
        hint = "is `killable serve` running there? Set another address with KILLABLE_URL, --url or Client(url)"
        match error:
            case httpx.ConnectTimeout():
                why = f"no connection within {self.connect_s:g} s; {hint}"
            case httpx.ConnectError():
                why = f"{_os_message(error)}; {hint}"
            case httpx.TimeoutException():
                why = "it received the request but did not answer in time; it may still process it"
            case _:
                why = f"the connection broke ({_os_message(error)}); the request may have been processed"
        unreachable = Unreachable(f"cannot reach {self.address}: {why}", url=self.address)
        unreachable.__cause__ = error
        return unreachable


def json_of(members: Record) -> bytes:
    """Return a body as JSON in ASCII, since lone surrogates have no UTF-8. Raise Refused if JSON cannot express it."""
    try:
        return json.dumps(members, allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise Refused(f"the request cannot be encoded as JSON: {error}") from error


def is_problem(members: object) -> TypeGuard[Record]:
    """Return whether these members are a killable server's problem (RFC 9457); a gateway's may have a `code`, too."""
    return isinstance(members, dict) and "code" in members and str(members.get("type", "")).startswith(PROBLEM_URN)


def closed() -> Refused:
    """Return the error for the use of a closed client."""
    return Refused("this client is closed; create another one")


def job_path(job_id: str) -> str:
    return f"/v1/jobs/{quote(job_id, safe='')}"


def may_have_arrived(error: KillableError) -> bool:
    """Return whether the server may have received the request that failed with this error."""
    return not isinstance(error.__cause__, (httpx.ConnectError, httpx.ConnectTimeout))


_NOT_JSON = object()


def _json(response: httpx.Response) -> Any:
    try:
        return response.json()
    except ValueError:
        return _NOT_JSON


def _retry_after(response: httpx.Response) -> dict[str, Any]:
    """Return the fact `retry_after_s` if the answer has a Retry-After: seconds, or a date (RFC 9110, 10.2.3)."""
    value = response.headers.get("Retry-After", "").strip()
    if value.isascii() and value.isdigit():
        return {"retry_after_s": float(value)}
    try:
        due = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return {}
    return {"retry_after_s": max(0.0, (due.replace(tzinfo=due.tzinfo or UTC) - datetime.now(UTC)).total_seconds())}


def _sendable(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the headers. Raise Refused for one that cannot be sent; the message has its name, never its value."""
    for name, value in headers.items():
        if not (value.isascii() and value.isprintable()):
            raise Refused(
                f"the {name} has a character that a header cannot contain; it must be printable ASCII", header=name
            )
    return dict(headers)


def _text(value: Any) -> Any:
    """Return a value that a query can carry. A reason may contain a file name, whose bytes may not be valid text."""
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value


def _os_message(error: BaseException) -> str:
    """Return the operating system's message if there is one. httpx's own is `[Errno 111] Connection refused`."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror and not isinstance(cause, ssl.SSLError):
            return cause.strerror[:1].lower() + cause.strerror[1:]
        cause = cause.__cause__ or cause.__context__
    return str(error) or type(error).__name__
