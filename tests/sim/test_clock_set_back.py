"""A head whose clock is behind that of the head before it: the nodes know a higher epoch than its own."""

from __future__ import annotations

import asyncio
import time

import pytest
from support.virtual_loop import run

from sim.journaled_cluster import journaled_cluster


class WallClock:
    """The time of day; it is set back while no head is there."""

    set_back_s = 0.0

    def __call__(self) -> float:
        return asyncio.get_running_loop().time() - self.set_back_s


@pytest.mark.parametrize(
    ("back_s", "has_new"),
    [
        pytest.param(60.0, True, id="a minute; the first that joins has known no head"),
        pytest.param(1.06, False, id="for less than it takes to start"),
    ],
)
def test_a_head_takes_over_every_node_also_those_that_answer_when_others_have_joined(
    monkeypatch: pytest.MonkeyPatch, back_s: float, *, has_new: bool
) -> None:
    wall = WallClock()
    monkeypatch.setattr(time, "time", wall)

    async def main() -> None:
        async with journaled_cluster(nodes=3, workers=1) as sim:
            jobs = [await sim.submit(run_s=20.0, nodes={"node": f"n000{number}"}) for number in range(2)]
            await asyncio.sleep(1.0)
            wall.set_back_s = back_s
            first, slow, new = sim.network.machines.values()
            slow.late_s = 0.05
            if has_new:
                new.kill()  # the next incarnation joins first
                first.late_s = 0.01
            sim.kill_head()
            await asyncio.sleep(5.0)
            assert [node.state for node in await sim.head.supervisor.nodes()] == ["live"] * 3
            await sim.ended(within_s=20.0)
            assert [job.code for job in jobs] == [None, None] and len(sim.heads) == 2

    run(main())
