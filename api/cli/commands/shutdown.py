"""`killable shutdown`: stop the server, and make sure that it is gone.

Runs in: any machine; what does not go by itself is ended only on the server's own.

    POST /v1/shutdown ──► jobs end, the server ends        if it does not, and is on this machine:
                                                           SIGTERM ── 5 s ──► SIGKILL, through a pidfd
"""

from __future__ import annotations

import signal
import time
from typing import TYPE_CHECKING

import click

from killable.api.cli.commands.drain import remaining
from killable.api.cli.display import console, errors
from killable.api.cli.display.exit_codes import CommandExit
from killable.api.cli.parameters.command_client import open_client
from killable.api.cli.parameters.completion import short_timeout_client
from killable.api.cli.server.running_server import Foreign, RunningServer, is_on_this_machine
from killable.api.explanation import spelling
from killable.workers.errors import KillableError

if TYPE_CHECKING:
    import httpx

    from killable.api.client.client import Client

LEAVE_S = 10.0
"""Seconds from the last job's end: readers receive their terminal events (5 s at most), then the zygotes end."""
GRACE_S_MAX = 60.0
"""Longest grace of a job to wait for: the default cap. The SIGTERM that follows cuts a longer one short."""
TERM_S = 5.0
"""Seconds from SIGTERM to SIGKILL: a server that handles signals kills its jobs and ends within them."""
KILL_S = 5.0
"""Seconds for the process to be gone after SIGKILL."""
ASK_AGAIN_S = 0.25
ANSWER_S = 5.0
"""Seconds to wait for an answer. A responsive server takes milliseconds; one that takes longer is signalled."""


class NotDown(KillableError):
    """The server is still up. Facts: `url`, `pid`."""

    code = "still_up"
    exit_code = CommandExit.FAILED

    @property
    def retryable(self) -> bool:
        return True


def shutdown(grace: float | None, deadline: float, reason: str, as_json: bool, url: str) -> None:
    with errors.reporting(as_json), open_client(url) as client:
        down = _Shutdown(client, quiet=as_json)
        try:
            how = down.run(grace, deadline, reason)
        except KeyboardInterrupt:
            console.stderr_console().print("interrupted; the shutdown continues and cannot be undone")
            raise
        finally:
            down.close()
        members = {"url": client.address, "pid": down.pid, "down": True, "how": how, "took_s": round(down.took_s, 3)}
        if as_json:
            console.print_json(members)
        else:
            pid = f", pid {down.pid}," if down.pid else ""
            click.echo(f"{client.address}{pid} is down after {spelling.duration(down.took_s)} ({how})")


class _Shutdown:
    """The shutdown of one server."""

    def __init__(self, client: Client, *, quiet: bool) -> None:
        self.pid: int | None = None
        self._client = client
        self._quiet = quiet
        self._process: RunningServer | None = None
        self._foreign_error: Foreign | None = None
        self._began = time.monotonic()

    @property
    def took_s(self) -> float:
        return time.monotonic() - self._began

    def run(self, grace_s: float | None, deadline_s: float, reason: str) -> str:
        """Request it over HTTP, wait, then signal if needed. Return how the server ended. Raise NotDown or Foreign."""
        if is_on_this_machine(self._client.address) and not responds(self._client.address):
            return self._end_by_signal_only()
        self._look_at_process()  # while it still listens: it is identified by its socket
        standing = self._client.shutdown(grace_s=grace_s, deadline_s=deadline_s, reason=reason)
        left = remaining(standing)
        self._say(f"{self._client.address} accepts no more jobs; {f'{left} left' if left else 'no jobs left'}")
        if self._wait_until_gone(
            deadline_s + (GRACE_S_MAX if grace_s is None else min(grace_s, GRACE_S_MAX)) + LEAVE_S
        ):
            return "asked over HTTP"
        if self._process is None:
            raise self._foreign_error or NotDown(
                f"{self._client.address} is still up after {spelling.duration(self.took_s)}, and it is on another "
                "machine: end its process there",
                url=self._client.address, pid=self.pid,
            )  # fmt: skip
        return self._ended_by_signal(self._process)

    def close(self) -> None:
        if self._process is not None:
            self._process.close()

    def _look_at_process(self) -> None:
        pid = self._client.info().get("pid")
        self.pid = pid if isinstance(pid, int) else None
        if self.pid is None or not is_on_this_machine(self._client.address):
            return
        try:
            self._process = RunningServer(self.pid, self._client.address)
        except Foreign as doubt:  # matters only if the server does not exit by itself
            self._foreign_error = doubt

    def _wait_until_gone(self, seconds_: float) -> bool:
        """Wait for its end, at most `seconds_`, and at most LEAVE_S once it has no jobs. Return whether it is gone."""
        latest = time.monotonic() + seconds_
        idle_until: float | None = None
        while not self._is_gone():
            now = time.monotonic()
            if has_jobs(self._client.address):
                idle_until = None
            elif idle_until is None:
                idle_until = now + LEAVE_S
            if now >= min(latest, latest if idle_until is None else idle_until):
                return False
        return True

    def _is_gone(self) -> bool:
        """Return whether it is gone; wait up to ASK_AGAIN_S for it."""
        if self._process is not None:
            return self._process.wait(ASK_AGAIN_S)
        if not is_up(self._client.address):
            return True
        time.sleep(ASK_AGAIN_S)
        return False

    def _end_by_signal_only(self) -> str:
        """End a server that accepts connections but does not answer (a blocked event loop). Find it by its socket."""
        self._say(f"{self._client.address} accepts connections, but did not answer within {ANSWER_S:g} s")
        self._process = RunningServer.listening_at(self._client.address)
        self.pid = self._process.pid
        return self._ended_by_signal(self._process, "no answer over HTTP")

    def _ended_by_signal(self, process: RunningServer, before: str = "asked over HTTP") -> str:
        for number, patience_s in ((signal.SIGTERM, TERM_S), (signal.SIGKILL, KILL_S)):
            self._say(f"still up: sending {number.name} to pid {process.pid}")
            process.send(number)
            if process.wait(patience_s):
                return f"{before}, then {number.name}"
        raise NotDown(
            f"pid {process.pid} still exists {KILL_S:g} s after SIGKILL: it is in uninterruptible sleep (state D)",
            url=self._client.address, pid=process.pid,
        )  # fmt: skip

    def _say(self, line: str) -> None:
        if not self._quiet:
            console.stderr_console().print(line, style="dim")


def has_jobs(address: str) -> bool:
    """Return whether the server reports jobs; False if it does not answer: it stops answering after the last job."""
    import httpx

    try:
        with short_timeout_client(address, ANSWER_S) as http:
            standing = http.get("/v1/drain").raise_for_status().json()
            return bool(remaining(standing))
    except (httpx.HTTPError, ValueError, TypeError, AttributeError):
        return False


def is_up(address: str) -> bool:
    """Return whether anything accepts connections there, even if it does not answer."""
    import httpx

    return _asked(address) is not httpx.ConnectError


def responds(address: str) -> bool:
    """Return whether a request ends in time, be it with an answer or a refused connection."""
    import httpx

    return _asked(address) is not httpx.TimeoutException


def _asked(address: str) -> type[httpx.HTTPError] | None:
    import httpx  # here, as it takes 60 ms, which the help of this verb need not wait for

    try:
        with short_timeout_client(address, ANSWER_S) as http:
            http.get("/livez")
    except httpx.HTTPError as error:
        kinds = (httpx.ConnectError, httpx.TimeoutException)
        return next((kind for kind in kinds if isinstance(error, kind)), None)
    return None
