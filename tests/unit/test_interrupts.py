"""A command that runs an event loop hears Ctrl-C however early it comes."""

from __future__ import annotations

import asyncio
import signal
from typing import Any

import pytest

from killable.api.cli import interrupts

Handler = Any


def test_an_interrupt_that_the_runner_forgets_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes when SIGINT is handled, and before the count of interrupts is 0."""
    handle = signal.signal
    began = []

    def handle_and_interrupt(number: int, handler: Handler) -> Handler:
        before = handle(number, handler)
        if number == signal.SIGINT and handler is not signal.default_int_handler:
            signal.raise_signal(signal.SIGINT)
        return before

    async def main() -> None:
        began.append(True)

    monkeypatch.setattr(signal, "signal", handle_and_interrupt)
    with pytest.raises(KeyboardInterrupt):
        interrupts.run(main())
    assert not began and signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_interrupt_while_it_runs_is_one_when_it_has_cleaned_up() -> None:
    cleaned = []

    async def main() -> None:
        try:
            signal.raise_signal(signal.SIGINT)
            await asyncio.Event().wait()
        finally:
            cleaned.append(True)

    with pytest.raises(KeyboardInterrupt):
        interrupts.run(main())
    assert cleaned


def test_what_it_returns_and_raises_is_its_own() -> None:
    async def returns() -> int:
        return 7

    async def fails() -> None:
        raise ValueError("no")

    assert interrupts.run(returns()) == 7
    with pytest.raises(ValueError, match="no"):
        interrupts.run(fails())
