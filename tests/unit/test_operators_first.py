"""How long an operator's request holds up the others."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from support.virtual_loop import VirtualLoop

from killable.api.http.operators_first import HOLD_MAX_S, SHARE, Precedence


def in_virtual_time(scenario: Callable[[Precedence], Coroutine[Any, Any, None]]) -> None:
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(scenario(Precedence()))


async def held_up(precedence: Precedence) -> float:
    """Return for how many seconds others have to wait from now on."""
    loop = asyncio.get_running_loop()
    since, over = loop.time(), asyncio.Event()
    if precedence.defer(over.set):
        await over.wait()
    return round(loop.time() - since, 6)


def test_others_wait_until_the_last_of_several_has_ended() -> None:
    async def scenario(precedence: Precedence) -> None:
        assert await held_up(precedence) == 0
        first, second = precedence.hold(), precedence.hold()
        loop = asyncio.get_running_loop()
        loop.call_later(0.1, first)
        loop.call_later(0.125, first)
        loop.call_later(0.2, second)
        assert await held_up(precedence) == 0.2

    in_virtual_time(scenario)


def test_one_that_goes_on_holds_up_nobody_any_more() -> None:
    async def scenario(precedence: Precedence) -> None:
        end = precedence.hold()
        assert await held_up(precedence) == HOLD_MAX_S
        await asyncio.sleep(10)
        short = precedence.hold()
        asyncio.get_running_loop().call_later(0.0625, short)
        assert await held_up(precedence) == 0.0625, "the one before is not waited for"
        end()

    in_virtual_time(scenario)


def test_others_have_their_part_of_the_time_whatever_operators_do() -> None:
    async def scenario(precedence: Precedence) -> None:
        waited_s = 0.0
        for _ in range(1000):
            precedence.hold()
            waited_s += await held_up(precedence)
            await asyncio.sleep(0.01)
        assert waited_s <= HOLD_MAX_S + SHARE * (waited_s + 1000 * 0.01)
        assert waited_s > 5

    in_virtual_time(scenario)


def test_a_hold_that_is_over_is_noticed_though_its_timer_is_late() -> None:
    async def scenario(precedence: Precedence) -> None:
        precedence.hold()
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        loop.jump(HOLD_MAX_S)
        assert await held_up(precedence) == 0

    in_virtual_time(scenario)
