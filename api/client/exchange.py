"""One request and its answer, without I/O: what is sent, what an answer means, what a failure means.

Runs in: any machine (no supervisor, no Linux).

    Call ── Server.arguments ──► httpx, in the transports ──► Outcome ──► Server.checked ──► answer, or typed error

Nothing here waits or connects, so the synchronous and the asynchronous client share all of it.
"""

from __future__ import annotations

import json
import os
import re
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from importlib.metadata import version
from typing import Any, Literal, TypeAlias, TypeGuard, TypeVar
from urllib.parse import quote

import httpx

from killable.api.client.outcomes import Record, Unreachable, problem_error
from killable.workers.errors import KillableError, Refused

C = TypeVar("C")

DEFAULT_URL = "http://127.0.0.1:7833"
UNIX_PREFIX = "unix:"
CONNECT_S = 5.0
"""A server that takes longer to accept is as good as not there."""
ANSWER_S = 30.0
"""Beyond what the request itself may wait; a server answers within milliseconds."""
PROBLEM_URN = "urn:killable:problem:"
"""Every problem type of ours begins so (RFC 9457, 3.1.1)."""
PASS_S = 0.5
"""The least that an answer gets, however little time the caller has left: giving up costs another request."""

Again = Literal["safe", "keyed", "unsent", "never"]
"""When a call may be sent once more: always; always, but not when the server is merely full; only when nothing of it
can have arrived; not even then."""

Outcome: TypeAlias = httpx.Response | KillableError
"""What comes of a call: an answer whose body has been read, or the error that none came."""


@dataclass(frozen=True, slots=True)
class HttpCall:
    """One request. `hold_s` is how long the server is asked to hold it, `answer_s` what it may take beyond that."""

    method: str
    path: str
    query: Mapping[str, Any] = field(default_factory=dict)
    """Members that are None or empty are left out."""
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    """JSON, or nothing."""
    hold_s: float = 0.0
    answer_s: float | None = None
    """None: as the client was made."""
    again: Again = "safe"
    until: float | None = None
    """The monotonic time after which its answer is of no use; the server is told with each sending what is left."""


@dataclass(frozen=True, slots=True)
class Server:
    """A killable server as a client reaches it: where, as whom, and how long an answer may take."""

    url: str
    uds: str | None
    address: str
    """As people read it, without any password."""
    headers: Mapping[str, str] = field(repr=False)
    connect_s: float
    answer_s: float

    @classmethod
    def at(
        cls, url: str | None, *, uds: str | None, api_key: str | None, headers: Mapping[str, str] | None,
        connect_s: float, answer_s: float,
    ) -> Server:  # fmt: skip
        """Read an address: `http://HOST:PORT`, `HOST:PORT` or `unix:PATH`; what is not given from the environment.

        Raise Unreachable for what is no address, Refused for a key or header that cannot be sent.
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
            why = "" if passwords else f" ({error})"  # which may repeat a part of it
            raise Unreachable(f"{shown!r} is not an address{why}; one is http://HOST:PORT", url=shown) from error
        shown = f"{UNIX_PREFIX}{uds}" if uds else str(parsed.copy_with(userinfo=b"")).rstrip("/")
        if not uds and (parsed.scheme not in ("http", "https") or not parsed.host):
            raise Unreachable(f"{shown!r} is not an address: one begins with http://, https:// or unix:", url=shown)
        sent = {"User-Agent": f"killable/{version('killable')}"} | _sendable(headers or {})
        if api_key:
            sent["Authorization"] = "Bearer " + _sendable({"API key": api_key})["API key"]
        return cls(url, uds, shown, sent, connect_s, answer_s)

    def open_http(self, client: Callable[..., C], transport: Callable[..., object], **options: Any) -> C:
        """Make a client of httpx's, of these classes, blocking or not. Raise Unreachable where the environment does not
        allow one: it names a proxy of a kind that is not installed, certificates that are not there.
        """
        host = httpx.URL(self.url).host
        # Each open stream holds one: with httpx's own 100 the next call, a cancel perhaps, would wait for ever.
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=20)
        try:
            return client(
                # A proxy from the environment cannot reach this machine's own loopback.
                trust_env=not (self.uds or host in ("localhost", "::1") or host.startswith("127.")),
                limits=limits,
                transport=transport(uds=self.uds, limits=limits) if self.uds else None,
                **options,
            )
        except (ImportError, ValueError, OSError, httpx.InvalidURL) as error:
            why = f"no connection to {self.address} can be made with this environment (proxies, certificates): {error}"
            raise Unreachable(why, url=self.address) from error

    def arguments(self, call: HttpCall) -> dict[str, Any]:
        """Return a call as keyword arguments of httpx's `request` and `stream`."""
        answer_s = max(PASS_S, self.answer_s if call.answer_s is None else call.answer_s)
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
        """Return a 2xx answer. Raise what came instead of one: the error, or the typed one of a problem."""
        if isinstance(response, KillableError):
            raise response
        if response.is_success:
            return response
        members = _json(response)
        if not is_problem(members):
            raise self.stranger(response)
        raise problem_error(members, status=response.status_code, **_retry_after(response))

    def members(self, response: httpx.Response) -> Record:
        """Return an answer's JSON object. Raise Unreachable for anything else: that is no killable server."""
        members = _json(response)
        if not isinstance(members, dict):
            raise self.stranger(response)
        return members

    def member(self, response: httpx.Response, name: str) -> Any:
        """Return one member of an answer's JSON object. Raise Unreachable where there is none."""
        members = self.members(response)
        if name not in members:
            raise self.stranger(response)
        return members[name]

    def value(self, response: httpx.Response) -> Any:
        """Return an answer's JSON value, whatever it is. Raise Unreachable where it is none."""
        value = _json(response)
        if value is _NOT_JSON:
            raise self.stranger(response)
        return value

    def stranger(self, response: httpx.Response) -> Unreachable:
        """Return the error for an answer that a killable server does not give."""
        kind = response.headers.get("content-type", "no content type").partition(";")[0]
        answer = f"{response.status_code} {response.reason_phrase}".rstrip()
        return Unreachable(
            f"{self.address} answered {answer} ({kind}), which is not how a killable server answers: "
            "is it another one, or a proxy before it?",
            url=self.address, status=response.status_code, **_retry_after(response),
        )  # fmt: skip

    def unreachable(self, error: Exception) -> Unreachable:
        """Return the error for an answer that did not come."""
        hint = "is `killable serve` running there? Another address: KILLABLE_URL, --url, or a Client's first argument"
        match error:
            case httpx.ConnectTimeout():
                why = f"no connection within {self.connect_s:g} s; {hint}"
            case httpx.ConnectError():
                why = f"{_reason(error)}; {hint}"
            case httpx.TimeoutException():
                why = "it took the request and then did not answer in time; it may still be at work on it"
            case _:
                why = f"the connection broke ({_reason(error)}); what was asked may have been done"
        unreachable = Unreachable(f"cannot reach {self.address}: {why}", url=self.address)
        unreachable.__cause__ = error
        return unreachable


def json_of(members: Record) -> bytes:
    """Return a body as JSON. ASCII, since lone surrogates have no UTF-8. Raise Refused for what JSON cannot say."""
    try:
        return json.dumps(members, allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise Refused(f"this cannot be sent as JSON: {error}") from error


def is_problem(members: object) -> TypeGuard[Record]:
    """Tell whether these are the members of a problem of ours (RFC 9457): a gateway may have a `code` in its own."""
    return isinstance(members, dict) and "code" in members and str(members.get("type", "")).startswith(PROBLEM_URN)


def closed() -> Refused:
    """Return the error for a client that is used after its `close`."""
    return Refused("this client has been closed, and its connections with it: make another one")


def job_path(job_id: str) -> str:
    return f"/v1/jobs/{quote(job_id, safe='')}"


def was_sent(error: KillableError) -> bool:
    """Tell whether the server may have got the request that ended in this error."""
    return not isinstance(error.__cause__, (httpx.ConnectError, httpx.ConnectTimeout))


_NOT_JSON = object()


def _json(response: httpx.Response) -> Any:
    try:
        return response.json()
    except ValueError:
        return _NOT_JSON


def _retry_after(response: httpx.Response) -> dict[str, Any]:
    """Return the fact `retry_after_s` where the answer has that header: seconds, or a date (RFC 9110, 10.2.3)."""
    value = response.headers.get("Retry-After", "").strip()
    if value.isascii() and value.isdigit():
        return {"retry_after_s": float(value)}
    try:
        due = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return {}
    return {"retry_after_s": max(0.0, (due.replace(tzinfo=due.tzinfo or UTC) - datetime.now(UTC)).total_seconds())}


def _sendable(headers: Mapping[str, str]) -> dict[str, str]:
    """Return headers that can be sent. Raise Refused for others, naming the header and never its value."""
    for name, value in headers.items():
        if not (value.isascii() and value.isprintable()):
            raise Refused(
                f"the {name} has a character that no header can carry; it must be printable ASCII", header=name
            )
    return dict(headers)


def _text(value: Any) -> Any:
    """Return what a query can carry: a name of a file, which may stand in a reason, may have bytes that are no text."""
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value


def _reason(error: BaseException) -> str:
    """Return the operating system's words where there are any: httpx's own are `[Errno 111] Connection refused`."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror and not isinstance(cause, ssl.SSLError):
            return cause.strerror[:1].lower() + cause.strerror[1:]
        cause = cause.__cause__ or cause.__context__
    return str(error) or type(error).__name__
