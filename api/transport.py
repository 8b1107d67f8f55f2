"""What the client says over HTTP: requests, typed errors out of problem answers, events out of streams.

Runs in: any machine (no supervisor, no Linux).

A stream that breaks is taken up again after its last event, as long as each new connection brings something: a reader
that was cut off for slowness loses nothing, and a server that is gone is found out at once.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from importlib.metadata import version
from typing import Any
from urllib.parse import quote

import httpx
from httpx_sse import EventSource, SSEError

from killable.workers.errors import CODES, KillableError, error_class

DEFAULT_URL = "http://127.0.0.1:7833"
UNIX_PREFIX = "unix:"
CONNECT_S = 5.0
"""A server that takes longer to accept is as good as not there."""
ANSWER_S = 30.0
"""Beyond what the request itself may wait; a server answers within milliseconds."""
SILENCE_S = 35.0
"""On a stream: three pings, ten seconds apart, did not come."""
_NO_FACTS = frozenset({"type", "title", "detail", "code", "retryable", "message", "self"})
TERMINAL = frozenset({"completed", "failed", "cancelled", "timed_out"})


class Unreachable(KillableError):
    """No answer that a killable server gives: refused, timed out, cut off, or someone else's."""

    code = "unreachable"
    exit_code = 69

    @property
    def retryable(self) -> bool:
        return True


@dataclass(frozen=True, slots=True)
class Event:
    """One event of a job: its sequence number, its name, its data."""

    id: int
    name: str
    data: dict[str, Any]

    @property
    def is_terminal(self) -> bool:
        return self.name in TERMINAL


class Transport:
    """One server as a client reaches it. Safe to share between threads; close it."""

    def __init__(self, url: str, *, uds: str | None, api_key: str | None, http: httpx.Client | None) -> None:
        """`http` is a client of the caller's own (proxies, certificates), which stays the caller's to close."""
        if url.startswith(UNIX_PREFIX):
            uds, url = url.removeprefix(UNIX_PREFIX).removeprefix("//"), ""
        self.url = (url if "://" in url else f"http://{url}" if url else "http://localhost").rstrip("/")
        self.address = f"{UNIX_PREFIX}{uds}" if uds else self.url
        self._headers = {"User-Agent": f"killable/{version('killable')}"}
        if api_key:
            self._headers["Authorization"] = f"Bearer {api_key}"
        self._owns_http = http is None
        self._http = http or httpx.Client(
            transport=httpx.HTTPTransport(uds=uds) if uds else None,
            # A proxy from the environment cannot reach this machine's own loopback.
            trust_env=not (uds or _is_loopback(self.url)),
            timeout=httpx.Timeout(ANSWER_S, connect=CONNECT_S, pool=None),
        )

    def close(self) -> None:
        if self._owns_http:
            self._http.close()

    def request(
        self, method: str, path: str, *, json: Any = None, params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None, wait_s: float = 0.0,
    ) -> httpx.Response:  # fmt: skip
        """Return a 2xx answer. `wait_s` is how long the server was asked to hold it.

        Raise Unreachable, or the typed error of the problem that came.
        """
        timeout = httpx.Timeout(ANSWER_S, connect=CONNECT_S, read=wait_s + ANSWER_S, pool=None)
        asked = {name: value for name, value in (params or {}).items() if value not in (None, "")}
        try:
            response = self._http.request(
                method, self.url + path, json=json, params=asked, headers=self._headers | dict(headers or {}),
                timeout=timeout,
            )  # fmt: skip
        except httpx.HTTPError as error:
            raise self._unreachable(error) from error
        except httpx.InvalidURL as error:
            raise Unreachable(f"{self.address!r} is not an address: {error}", url=self.address) from error
        if not response.is_success:
            raise self._problem(response)
        return response

    def members(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        """Return the JSON object of a 2xx answer."""
        return self.parsed(self.request(method, path, **options))

    def parsed(self, response: httpx.Response) -> dict[str, Any]:
        """Return an answer's JSON object. Raise Unreachable for anything else: that is no killable server."""
        try:
            members = response.json()
        except ValueError:
            members = None
        if not isinstance(members, dict):
            raise self._stranger(response)
        return members

    def events(self, job_id: str, after: int = -1) -> Iterator[Event]:
        """Yield a job's events after that id, to the terminal one. Nothing, when that one was seen already.

        Raise the job error `supervisor_lost` when the stream ends without it and cannot be taken up again.
        """
        last, connected = after, False
        while True:
            broken: Exception | None = None
            first_of_connection = last
            try:
                for event in self._connection(job_id, last):
                    connected, last = True, event.id
                    yield event
                    if event.is_terminal:
                        return
            except _NothingLeft:
                return
            except httpx.HTTPError as error:
                if not connected:
                    raise self._unreachable(error) from error
                broken = error
            except KillableError as error:
                if not connected:
                    raise
                broken = error
            if last == first_of_connection:
                raise self._lost(job_id, last) from broken

    def _connection(self, job_id: str, after: int) -> Iterator[Event]:
        """Yield the events of one connection, which may end anywhere."""
        headers = self._headers | {"Accept": "text/event-stream", "Cache-Control": "no-store"}
        if after >= 0:
            headers["Last-Event-ID"] = str(after)
        timeout = httpx.Timeout(ANSWER_S, connect=CONNECT_S, read=SILENCE_S, pool=None)
        address = f"{self.url}{job_path(job_id)}/stream"
        with self._http.stream("GET", address, headers=headers, timeout=timeout) as response:
            if response.status_code == HTTPStatus.NO_CONTENT:
                raise _NothingLeft
            if not response.is_success:
                response.read()
                raise self._problem(response)
            try:
                for sent in EventSource(response).iter_sse():
                    if sent.id and sent.event != "message":  # `retry` alone, and the markers, are not events of the job
                        yield Event(int(sent.id), sent.event, json.loads(sent.data))
            except (SSEError, ValueError) as error:
                raise self._stranger(response) from error

    def _problem(self, response: httpx.Response) -> KillableError:
        """Return the typed error of an answer that is not 2xx (RFC 9457)."""
        try:
            members = response.json()
            code = str(members["code"])
        except (ValueError, KeyError, TypeError):
            return self._stranger(response)
        detail = str(members.get("detail") or members.get("title") or code)
        facts = {name: value for name, value in members.items() if name not in _NO_FACTS}
        if "Retry-After" in response.headers:
            facts["retry_after_s"] = response.headers["Retry-After"]
        return error_class(code)(detail, code=code, **facts)

    def _stranger(self, response: httpx.Response) -> Unreachable:
        kind = response.headers.get("content-type", "no content type").partition(";")[0]
        answer = f"{response.status_code} {response.reason_phrase}".rstrip()
        return Unreachable(
            f"{self.address} answered {answer} ({kind}), which is not how a killable server answers: "
            "is it another one, or a proxy before it?",
            url=self.address,
            status=response.status_code,
        )

    def _unreachable(self, error: httpx.HTTPError) -> Unreachable:
        hint = "is `killable serve` running there? Another address: --url or KILLABLE_URL"
        match error:
            case httpx.ConnectTimeout():
                why = f"no connection within {CONNECT_S:g} s; {hint}"
            case httpx.ConnectError():
                why = f"{_reason(error)}; {hint}"
            case httpx.TimeoutException():
                why = "it took the request and then did not answer in time; it may still be at work on it"
            case httpx.UnsupportedProtocol():
                why = "an address begins with http://, https:// or unix:"
            case _:
                why = f"the connection broke ({_reason(error)}); what was asked may have been done"
        return Unreachable(f"cannot reach {self.address}: {why}", url=self.address)

    def _lost(self, job_id: str, last: int) -> KillableError:
        code = "supervisor_lost"
        return error_class(code)(
            f"the stream of {job_id} ended without its terminal event: what became of the job is not known; "
            f"ask {self.address} again, or look whether the server is there",
            code=code, job_id=job_id, certificate=None, partial=None, last_sequence=last,
        )  # fmt: skip


class _NothingLeft(Exception):
    """The answer 204: the terminal event was seen already."""


def job_path(job_id: str) -> str:
    return f"/v1/jobs/{quote(job_id, safe='')}"


def job_error(members: Mapping[str, Any]) -> KillableError:
    """Return the typed error of a job that did not complete, from its record or its terminal event."""
    error = members.get("error") or {"code": members.get("state", "worker_lost")}
    code = str(error["code"])
    message = str(error.get("message") or (CODES[code].title if code in CODES else code))
    facts = {name: value for name, value in error.items() if name not in _NO_FACTS - {"type"}}
    facts |= {name: members.get(name) for name in ("job_id", "certificate", "partial", "tokens")}
    return error_class(code)(message, code=code, **facts)


def _reason(error: BaseException) -> str:
    """Return the operating system's words where there are any: httpx's own are `[Errno 111] Connection refused`."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror[:1].lower() + cause.strerror[1:]
        cause = cause.__cause__ or cause.__context__
    return str(error) or type(error).__name__


def _is_loopback(url: str) -> bool:
    host = httpx.URL(url).host
    return host in ("localhost", "::1") or host.startswith("127.")
