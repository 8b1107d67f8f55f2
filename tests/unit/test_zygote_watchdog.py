"""Silence is noticed once something is owed, asked about, then given up; nothing waits while nothing is owed."""

from __future__ import annotations

import asyncio

from support.virtual_loop import VirtualLoop, run

from killable.supervisor.linux.zygote_watchdog import ZygoteWatchdog

ANSWER_S = 5.0


class Told:
    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.began = self.loop.time()
        self.events: list[tuple[str, float]] = []
        self.watchdog = ZygoteWatchdog(self.loop, ANSWER_S, lambda: self.note("asked"), lambda: self.note("given up"))

    def note(self, event: str) -> None:
        self.events.append((event, round(self.loop.time() - self.began, 6)))


def test_silence_is_asked_about_then_given_up() -> None:
    async def main() -> None:
        told = Told()
        told.watchdog.expect()
        await asyncio.sleep(3)
        told.watchdog.expect()  # one more is owed: the silence is as old as it was
        await asyncio.sleep(100)
        assert told.events == [("asked", 5.0), ("given up", 10.0)]

    run(main())


def test_a_word_is_a_sign_of_life_and_what_is_owed_still_is() -> None:
    async def main() -> None:
        told = Told()
        told.watchdog.expect()
        await asyncio.sleep(9)
        told.watchdog.heard(expects_more=True)
        await asyncio.sleep(9)
        told.watchdog.heard(expects_more=False)
        await asyncio.sleep(100)
        assert told.events == [("asked", 5.0), ("asked", 14.0)]

    run(main())


def test_nothing_is_scheduled_while_nothing_is_owed() -> None:
    async def main() -> None:
        told = Told()
        assert isinstance(told.loop, VirtualLoop)
        before = len(told.loop.timers())
        told.watchdog.heard(expects_more=False)
        assert len(told.loop.timers()) == before
        told.watchdog.expect()
        assert len(told.loop.timers()) == before + 1
        told.watchdog.heard(expects_more=False)
        assert len(told.loop.timers()) == before and not told.events

    run(main())
