"""The client of one command: its warnings are lines on stderr, as is a server that stands still, and answers that are
no server's are told as such.

Runs in: any machine.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import httpx

    from killable.api.client.client import Client

SAY_S = 5.0
"""Seconds after which a command says that it waits for an answer, beyond those for which it asked to be held."""


class SilentServer:
    """Says once, on stderr, that an answer is late. Its hooks are those of an httpx client, which threads may share."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._said = threading.Lock()
        self.hooks: dict[str, list[Any]] = {"request": [self._sent], "response": [self._answered]}

    def _sent(self, request: httpx.Request) -> None:
        from httpx import ByteStream  # here: help does not need it

        if not isinstance(request.stream, ByteStream):
            return  # an upload may take long
        wait = request.extensions["timeout"]
        # Of `HttpCall.arguments`: `read` has the seconds for which it is held, too.
        timer = threading.Timer(wait["read"] - wait["write"] + SAY_S, self._say)
        timer.daemon = True
        timer.start()
        request.extensions["killable"] = timer

    def _answered(self, response: httpx.Response) -> None:
        self.forget(response.request)

    def forget(self, request: httpx.Request) -> None:
        """Wait no longer for its answer: it came, or it cannot come."""
        if timer := request.extensions.get("killable"):
            timer.cancel()

    def _say(self) -> None:
        from killable.api.cli.display import console

        if self._said.acquire(blocking=False):
            said = f"{self._address} has not answered for {SAY_S:g} s; still waiting"
            console.stderr_console().print(said, style="yellow")


@contextmanager
def open_client(url: str) -> Iterator[Client]:
    """Yield a client. What it warns of is a line on stderr, and not a place in this program.

    Raise Unreachable for an answer that the body could not use.
    """
    from httpx import Client as HttpClient
    from httpx import HTTPTransport

    from killable.api.cli.display import console
    from killable.api.cli.display.errors import odd_answer
    from killable.api.client.client import Client
    from killable.api.client.endpoint import Endpoint
    from killable.api.client.httpx_client import open_httpx
    from killable.api.client.timeouts import ANSWER_S, CONNECT_S
    from killable.workers.errors import KillableError  # here: help does not need it

    with warnings.catch_warnings(record=True) as caught:
        endpoint = Endpoint.at(
            url, uds=None, api_key=None, headers=None, connect_s=CONNECT_S, answer_s=ANSWER_S
        )  # fmt: skip
        server = SilentServer(endpoint.address)

        class Watched(HttpClient):
            def send(self, request: httpx.Request, **options: Any) -> httpx.Response:
                try:
                    return super().send(request, **options)
                finally:
                    server.forget(request)  # httpx calls no hook for a request that fails

        http = open_httpx(endpoint, Watched, HTTPTransport, event_hooks=server.hooks)
    for warning in caught:
        console.stderr_console().print(f"warning: {warning.message}", style="yellow")
    with warnings.catch_warnings(action="ignore"):
        client = Client(url, http=http)
    with http, client:
        try:
            yield client
        except KillableError:
            raise
        except (LookupError, TypeError, AttributeError, ValueError, ArithmeticError, RecursionError) as error:
            raise odd_answer(client.address, error) from error
