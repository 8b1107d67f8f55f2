"""What a server's answers say, and failures to get one: values and typed errors. Without I/O.

Runs in: any machine (no supervisor, no Linux).

    HttpCall.arguments ──► httpx, in the transports ──► Outcome ──► Server.checked ──► answer or typed error

Nothing here waits or connects, so the blocking and the asyncio client share all of it.
"""

from __future__ import annotations

import ssl
from typing import Any, TypeAlias, TypeGuard

import httpx

from killable.api.client.endpoint import Endpoint
from killable.api.client.errors import Unreachable, problem_error
from killable.api.client.events import Record
from killable.api.client.retry_after import retry_after
from killable.workers.errors import KillableError, Refused

PROBLEM_URN = "urn:killable:problem:"
"""Prefix of the problem types of killable servers (RFC 9457, 3.1.1)."""
ANSWER_BYTES_MAX = 256 << 20
"""Of an answer that is not a stream, decoded. The largest one of a killable server has a result of 64 MiB in it, as
JSON or base64.
"""

Outcome: TypeAlias = httpx.Response | KillableError
"""The outcome of a call: an answer whose body has been read, or the error if none came."""


class Server(Endpoint):
    """A killable server: where it is, and what its answers say."""

    __slots__ = ()

    def checked(self, response: Outcome) -> httpx.Response:
        """Return a 2xx answer. Raise any other outcome: the error itself, or the typed error of a problem document."""
        if isinstance(response, KillableError):
            raise response
        if response.is_success:
            return response
        members = _json(response)
        if not is_problem(members):
            raise self.unexpected_answer(response)
        raise problem_error(members, status=response.status_code, **retry_after(response))

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

    def too_large(self, response: httpx.Response) -> Unreachable:
        """Return the error for an answer that is larger than any of a killable server."""
        return Unreachable(
            f"{self.address} answered with more than {ANSWER_BYTES_MAX >> 20} MiB, and the rest was not read: no "
            "killable server does. Is it another server? Set the address with KILLABLE_URL, --url or Client(url)",
            url=self.address, status=response.status_code,
        )  # fmt: skip

    def unexpected_answer(self, response: httpx.Response) -> Unreachable:
        """Return the error for an answer that no killable server gives."""
        kind = response.headers.get("content-type", "no content type").partition(";")[0]
        answer = f"{response.status_code} {response.reason_phrase}".rstrip()
        return Unreachable(
            f"{self.address} answered {answer} ({kind}), which is not an answer of a killable server: "
            "is it another server, or a proxy in front of it?",
            url=self.address, status=response.status_code, **retry_after(response),
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


class AnswerBody:
    """The body of an answer while it comes, in parts, as far as it may be large."""

    def __init__(self, server: Server, response: httpx.Response) -> None:
        self._server = server
        self._response = response
        self._parts: list[bytes] = []
        self._size = 0

    def add(self, part: bytes) -> None:
        """Take a decoded part. Raise Unreachable if it is too much."""
        self._size += len(part)
        if self._size > ANSWER_BYTES_MAX:
            raise self._server.too_large(self._response)
        self._parts.append(part)

    def answer(self) -> httpx.Response:
        """Return the whole answer. Its body is decoded."""
        came = self._response
        headers = [each for each in came.headers.multi_items() if each[0] not in ("content-encoding", "content-length")]
        extensions = {name: value for name, value in came.extensions.items() if name == "reason_phrase"}
        content = b"".join(self._parts)
        return httpx.Response(
            came.status_code, headers=headers, content=content, request=came.request, extensions=extensions
        )


def is_problem(members: object) -> TypeGuard[Record]:
    """Return whether these members are a killable server's problem (RFC 9457); a gateway's may have a `code`, too."""
    return isinstance(members, dict) and "code" in members and str(members.get("type", "")).startswith(PROBLEM_URN)


def closed() -> Refused:
    """Return the error for the use of a closed client."""
    return Refused("this client is closed; create another one")


def may_have_arrived(error: KillableError) -> bool:
    """Return whether the server may have received the request that failed with this error."""
    return not isinstance(error.__cause__, (httpx.ConnectError, httpx.ConnectTimeout))


_NOT_JSON = object()


def _json(response: httpx.Response) -> Any:
    try:
        return response.json()
    except (ValueError, RecursionError):  # nested too deeply
        return _NOT_JSON


def _os_message(error: BaseException) -> str:
    """Return the operating system's message if there is one. httpx's own is `[Errno 111] Connection refused`."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror and not isinstance(cause, ssl.SSLError):
            return cause.strerror[:1].lower() + cause.strerror[1:]
        cause = cause.__cause__ or cause.__context__
    return str(error) or type(error).__name__
