"""Run uvicorn without its signal handlers: it serves a socket that is already bound, until `close`.

Runs in: supervisor.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from killable.api.app import close_app, create_app, end_listening
from killable.api.cli.server.bounded_protocol import bounds_of, protocol_of
from killable.api.cli.server.listener import Listener, cannot_listen
from killable.api.cli.server.operator_socket import OperatorServer
from killable.api.cli.server.trusted_proxies import with_true_clients
from killable.api.cli.server.uvicorn_server import AcceptingServer
from killable.api.http.api_keys import ApiKey, KeyRing
from killable.api.http.app_settings import HttpSettings
from killable.api.http.audit_log import AuditLog
from killable.supervisor.http_server_settings import ServerSettings
from killable.supervisor.jobs.wakeup_turns import wakeup_turns
from killable.supervisor.linux import own_interpreter

if TYPE_CHECKING:
    from prometheus_client.core import Metric

    from killable.api.app import Tools
    from killable.api.http.dependencies import FilesOfServer
    from killable.api.http.telemetry_sent import TelemetrySent
    from killable.api.webhooks.deliveries import Deliveries
    from killable.supervisor.engine import Engine
    from killable.supervisor.files.file_store import FileStore

logger = logging.getLogger("killable.server")

CUT_OFF_S = 1.0
"""Seconds for uvicorn to end after it was asked to drop its connections."""


def import_mcp() -> None:
    """Import what `/mcp` needs, before there is anything that a second's import would hold up."""
    from killable.api.mcp import endpoint as _  # noqa: F401


def _tools(engine: Engine, settings: HttpSettings) -> Tools | None:
    if not settings.mcp:
        return None
    from killable.api.mcp.endpoint import McpEndpoint

    return McpEndpoint(engine, settings.body_bytes_max)


class HttpServer:
    """The HTTP side of one `serve`."""

    def __init__(
        self, engine: Engine, server: ServerSettings, listener: Listener, keys: Sequence[ApiKey] = (),
        audit_log: AuditLog | None = None, operators: Listener | None = None, files: FileStore | None = None,
        callbacks: Deliveries | None = None, telemetry: TelemetrySent | None = None,
    ) -> None:  # fmt: skip
        settings = HttpSettings.of(server, keys)
        bounds = bounds_of(settings)
        self._listener = listener
        self._app = create_app(engine, settings, audit_log, files, _tools(engine, settings), callbacks, telemetry)
        self._precedence = precedence = self._app.state.parts.turns.precedence
        protocol = protocol_of(settings, bounds, precedence)
        served = with_true_clients(self._app, server.trusted_proxies)
        self._server = AcceptingServer(served, protocol, bounds.make_room, precedence.defer)
        self._operators = (
            None if operators is None else OperatorServer(self._app, settings, operators, bounds.make_room)
        )
        self.troubles: list[Callable[[], str]] = self._app.state.parts.troubles
        """What /readyz, the metrics and the service manager are told, each as a sentence, or "" if nothing is wrong."""
        self.troubles.append(self._server.trouble)
        self.server_files: list[FilesOfServer] = self._app.state.parts.server_files
        """What `POST /v1/reload` reads again."""
        self._serving: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start, and return once connections are accepted. Raise CannotServe."""
        own_interpreter.let_threads_in()
        wakeup_turns().defer = self._precedence.defer
        self._serving = asyncio.create_task(self._server.serve(sockets=[self._listener.socket]))
        try:
            await self._until(self._server.listening)
            if self._serving.done():
                await self._serving
        except OSError as error:
            raise cannot_listen(self._listener.url, error) from error
        if self._operators is not None:
            await self._operators.start()

    def metrics(self) -> Iterable[Metric]:
        """Return what is measured of requests."""
        found: Iterable[Metric] = self._app.state.parts.request_metrics.collect()
        return found

    async def readiness(self) -> tuple[bool, list[str]]:
        """Return what /readyz tells who may know all: whether any job can start, and everything that is wrong."""
        found: tuple[bool, list[str]] = await self._app.state.parts.readiness(reasons=True)
        return found

    def replace_keys(self, keys: Sequence[ApiKey]) -> tuple[list[str], list[str]]:
        """Let these be the keys from now on, of a server that was started with some. Return the names that came, and
        those that went.

        What has begun goes on, also the stream of a key that is gone: it was allowed when it began.
        """
        found: KeyRing | None = self._app.state.parts.keys
        assert found is not None
        return found.replace(keys)

    async def until_stopped(self) -> None:
        """Wait until the server has ended by itself, which is an error."""
        assert self._serving is not None
        await asyncio.wait({self._serving})

    async def close(self, readers_s: float) -> None:
        """Accept no more connections, wait up to `readers_s` for the open answers, then drop the rest."""
        assert self._serving is not None
        self._server.should_exit = True
        end_listening(self._app)
        await asyncio.wait({self._serving}, timeout=readers_s)
        if not self._serving.done():
            logger.warning("readers_dropped", extra={"number": len(self._server.server_state.connections)})
            # The dropped answers are cancelled, and uvicorn would log a traceback for each.
            logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
        self._server.force_exit = True
        await asyncio.wait({self._serving}, timeout=CUT_OFF_S)
        # From Python 3.12 on, uvicorn would wait for connections whose readers do not read.
        self._serving.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._serving
        if self._operators is not None:
            await self._operators.close()
        await close_app(self._app)

    async def _until(self, event: asyncio.Event) -> None:
        assert self._serving is not None
        waiting = asyncio.create_task(event.wait())
        await asyncio.wait({self._serving, waiting}, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
