"""The process of a node over Ray, without Ray: `NodeActor` imports nothing of it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from support import processes

from killable.supervisor.linux.own_interpreter import SWITCH_S, YOUNG_OBJECTS

JOBS = str(Path(processes.__file__).parent / "simple_jobs.py")
PROGRAM = """
import asyncio, gc, json, sys
from killable.supervisor.cluster.node_actor import NodeActor
from killable.supervisor.settings import PoolSpec, Settings

pool = PoolSpec(name="tests", modules=(sys.argv[1],), workers=1)
actor = NodeActor(Settings(pools=(pool,), sweep=False), "127.0.0.1")
why, port, secret, _ = actor.start()
told = {"why": why, "frozen": gc.get_freeze_count(), "young": gc.get_threshold()[0], "switch": sys.getswitchinterval()}
asyncio.run_coroutine_threadsafe(actor._host.close(), actor._loop).result()
print(json.dumps(told))
"""


def test_what_a_nodes_process_has_imported_is_not_gone_through_again_and_its_loop_gets_its_turn() -> None:
    ended = subprocess.run([sys.executable, "-c", PROGRAM, JOBS], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr
    told = json.loads(ended.stdout)
    assert told["why"] == "" and told["frozen"] > 10_000, told
    assert (told["young"], told["switch"]) == (YOUNG_OBJECTS, SWITCH_S)
