"""A Ray whose own head stands still: who asks it waits no longer than for a time, and keeps one thread."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

from ray_cluster import ENVIRONMENT, RayCluster

PROGRAM = """
import asyncio, json, sys, threading
from killable.supervisor.cluster import ray_launcher
from killable.supervisor.cluster.carrier import CarrierError
from killable.supervisor.settings import Settings

async def main():
    ray_launcher.MEMBERS_S = 1.0
    launcher = ray_launcher.RayLauncher(sys.argv[1], Settings(pools=()))
    await launcher.open()
    say = lambda told: print(json.dumps(told), file=sys.__stdout__, flush=True)
    say(len(await launcher.members()))
    sys.stdin.readline()
    threads, failures = [], []
    for _ in range(4):
        try:
            await launcher.members()
        except CarrierError as error:
            failures.append(str(error))
        threads.append(threading.active_count())
    say([failures, threads])
    sys.stdin.readline()
    while True:
        try:
            say(len(await launcher.members()))
            break
        except CarrierError:
            pass

asyncio.run(main())
"""


def test_a_ray_that_does_not_answer_is_not_waited_for_and_is_asked_once_at_a_time() -> None:
    cluster = RayCluster(nodes=1)
    try:
        environ = {**os.environ, **ENVIRONMENT}
        asks = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, cluster.address],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environ,
        )  # fmt: skip
        assert asks.stdin is not None and asks.stdout is not None
        try:
            assert json.loads(asks.stdout.readline()) == 1
            gcs = cluster.process(cluster.head, "gcs_server")
            gcs.send_signal(signal.SIGSTOP)
            asks.stdin.write("\n")
            asks.stdin.flush()
            failures, threads = json.loads(asks.stdout.readline())
            assert failures == ["Ray has not told its machines within 1 s"] * 4 and len(set(threads)) == 1
            gcs.send_signal(signal.SIGCONT)
            asks.stdin.write("\n")
            asks.stdin.flush()
            assert json.loads(asks.stdout.readline()) == 1
        finally:
            asks.kill()
            asks.communicate()
    finally:
        cluster.close()
