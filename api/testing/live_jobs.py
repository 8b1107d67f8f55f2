"""A job of a test's server, with assertions about what it streams next and how it ends.

Runs in: any machine. What fails says what was there instead.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator
from queue import Empty, SimpleQueue
from typing import Any

from killable.api.client.async_client import AsyncJobHandle
from killable.api.client.client import JobHandle
from killable.api.client.events import Event, token_of
from killable.api.testing.finished_job import FinishedJob

TIMEOUT_S = 20.0
"""How long an assertion waits for what it is about, unless it is told."""
_ANY: Any = ...


class _Assertions:
    """What both kinds of jobs say."""

    def __init__(self, job_id: str) -> None:
        self.seen = FinishedJob(job_id)
        """What was read of it so far."""

    def _check_token(self, event: Event | None, expected: object, timeout_s: float) -> Any:
        __tracebackhide__ = True
        if event is None:
            raise AssertionError(f"no token within {timeout_s:g} s, expected {_shown(expected)}\n{self.seen}")
        if event.is_terminal:
            raise AssertionError(f"it ended, expected the token {_shown(expected)}\n{self.seen}")
        token = token_of(event.data)
        if expected is not _ANY and token != expected:
            raise AssertionError(f"the next token is {token!r}, expected {_shown(expected)}\n{self.seen}")
        return token

    def _check_progress(self, event: Event | None, done: float, total: float | None) -> None:
        __tracebackhide__ = True
        found = None if event is None or event.is_terminal else (event.data["done"], event.data["total"])
        if found != (done, total):
            raise AssertionError(f"the next progress is {found}, expected {(done, total)}\n{self.seen}")

    def _check_end(self, state: str, code: str | None, result: object, timeout_s: float) -> FinishedJob:
        __tracebackhide__ = True
        seen = self.seen
        if not seen.state:
            raise AssertionError(f"it has not ended within {timeout_s:g} s, expected {state}\n{seen}")
        if seen.state != state or code not in (None, seen.code):
            raise AssertionError(f"it ended otherwise, expected {state}{f', {code}' if code else ''}\n{seen}")
        if result is not _ANY and seen.result != result:
            raise AssertionError(f"its result is {seen.result!r}, expected {result!r}\n{seen}")
        return seen


class LiveJob(_Assertions):
    """A job that runs. Its stream is read in a thread, so that an assertion can give up."""

    def __init__(self, handle: JobHandle) -> None:
        super().__init__(handle.id)
        self.handle = handle
        """The client's, for all else."""
        self._events: SimpleQueue[Event | BaseException] = SimpleQueue()
        threading.Thread(target=self._read, name=f"killable-testing-{handle.id}", daemon=True).start()

    @property
    def id(self) -> str:
        return self.handle.id

    def assert_next(self, *expected: Any, timeout_s: float = TIMEOUT_S) -> Any:
        """Assert that these are the next tokens of its stream, and return the last; without any, that there is one.

        What it prints or reports in between is passed over, and kept in `seen`.
        """
        __tracebackhide__ = True
        token = None
        for each in expected or (_ANY,):
            token = self._check_token(self._next_of("token", timeout_s), each, timeout_s)
        return token

    def assert_progress(self, done: float, total: float | None = None, *, timeout_s: float = TIMEOUT_S) -> None:
        """Assert that the next progress that it reports is this."""
        __tracebackhide__ = True
        self._check_progress(self._next_of("progress", timeout_s), done, total)

    def assert_ended(
        self, state: str = "completed", *, code: str | None = None, result: Any = _ANY, timeout_s: float = TIMEOUT_S
    ) -> FinishedJob:
        """Assert that it ends so, with this error code or result if given, and return all that was seen of it."""
        __tracebackhide__ = True
        self.finish(timeout_s)
        return self._check_end(state, code, result, timeout_s)

    def stream(self, timeout_s: float = TIMEOUT_S) -> Iterator[Any]:
        """Yield the rest of its tokens, each within `timeout_s`; then it is over, however it ended."""
        while (event := self._next_of("token", timeout_s)) is not None and not event.is_terminal:
            yield token_of(event.data)
        if event is None:
            raise AssertionError(f"no token within {timeout_s:g} s\n{self.seen}")
        self.finish(timeout_s)

    def cancel(self, grace_s: float | None = None, reason: str = "") -> FinishedJob:
        """Cancel it, wait until it is dead, and return all that was seen of it, its certificate with it."""
        self.handle.cancel(grace_s, reason)
        return self.finish()

    def finish(self, timeout_s: float = TIMEOUT_S) -> FinishedJob:
        """Read on until it is over, or the time is; return all that was seen of it."""
        self._next_of("", timeout_s)
        if self.seen.state and not self.seen.record:
            self.seen.record = self.handle.record()
            if self.seen.state == "completed":
                self.seen.result = self.handle.result()
        return self.seen

    def _read(self) -> None:
        try:
            for event in self.handle.events():
                self._events.put(event)
        except BaseException as error:  # the server or the client is gone: whoever waits hears of it
            self._events.put(error)

    def _next_of(self, name: str, timeout_s: float) -> Event | None:
        """Return the next event of this name, or the terminal one; None: there was none in time."""
        due = time.monotonic() + timeout_s
        while self.seen.end is None:
            try:
                event = self._events.get(timeout=max(0.0, due - time.monotonic()))
            except Empty:
                return None
            if isinstance(event, BaseException):
                raise event
            self.seen.events.append(event)
            if event.name == name:
                return event
        return self.seen.end


class AsyncLiveJob(_Assertions):
    """A job that runs, in an event loop. Its methods are those of `LiveJob`."""

    def __init__(self, handle: AsyncJobHandle) -> None:
        super().__init__(handle.id)
        self.handle = handle
        self._events = handle.events()

    @property
    def id(self) -> str:
        return self.handle.id

    async def assert_next(self, *expected: Any, timeout_s: float = TIMEOUT_S) -> Any:
        __tracebackhide__ = True
        token = None
        for each in expected or (_ANY,):
            token = self._check_token(await self._next_of("token", timeout_s), each, timeout_s)
        return token

    async def assert_progress(self, done: float, total: float | None = None, *, timeout_s: float = TIMEOUT_S) -> None:
        __tracebackhide__ = True
        self._check_progress(await self._next_of("progress", timeout_s), done, total)

    async def assert_ended(
        self, state: str = "completed", *, code: str | None = None, result: Any = _ANY, timeout_s: float = TIMEOUT_S
    ) -> FinishedJob:
        __tracebackhide__ = True
        await self.finish(timeout_s)
        return self._check_end(state, code, result, timeout_s)

    async def stream(self, timeout_s: float = TIMEOUT_S) -> AsyncIterator[Any]:
        while (event := await self._next_of("token", timeout_s)) is not None and not event.is_terminal:
            yield token_of(event.data)
        if event is None:
            raise AssertionError(f"no token within {timeout_s:g} s\n{self.seen}")
        await self.finish(timeout_s)

    async def cancel(self, grace_s: float | None = None, reason: str = "") -> FinishedJob:
        await self.handle.cancel(grace_s, reason)
        return await self.finish()

    async def finish(self, timeout_s: float = TIMEOUT_S) -> FinishedJob:
        await self._next_of("", timeout_s)
        if self.seen.state and not self.seen.record:
            self.seen.record = await self.handle.record()
            if self.seen.state == "completed":
                self.seen.result = await self.handle.result()
        return self.seen

    async def aclose(self) -> None:
        """Read its stream no more. The job goes on."""
        await self._events.aclose()

    async def _next_of(self, name: str, timeout_s: float) -> Event | None:
        try:
            async with asyncio.timeout(timeout_s):
                while self.seen.end is None:
                    event = await anext(self._events)
                    self.seen.events.append(event)
                    if event.is_terminal:
                        await self.aclose()
                    if event.name == name:
                        return event
        except TimeoutError:
            return None
        return self.seen.end


def _shown(expected: object) -> str:
    return "any" if expected is _ANY else repr(expected)
