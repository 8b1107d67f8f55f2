"""Run one measure of one peer in a program of its own.

    python -m executor.trial MEASURE PEER PLAN PATH     write the samples to PATH, as JSON
    python -m executor.trial --owner PEER ADDRESS       keep two workers busy, until killed

Runs in: a trial, below `subreaper`, in the folder `benchmarks/` | a program that the measure "owner" kills. Pools that
spawn import this file in each worker: it imports nothing at the top that takes time.
"""

from __future__ import annotations

import faulthandler
import json
import os
import signal
import sys
from pathlib import Path

STUCK_S = 100.0
"""Then the stacks go to stderr. Shorter than the benchmark's own timeout."""


def main(measure: str, peer: str, plan: str, path: str) -> None:
    """Measure, write the samples, and exit without waiting for what still runs: the subreaper ends it."""
    from measurement import Samples
    from trial_plan import Plan

    from executor.measures import MEASURES, PEERS
    from executor.watched_pool import Trial

    faulthandler.dump_traceback_later(STUCK_S)
    peer_type = PEERS[peer]
    results = Samples()
    try:
        peer_type.prepare()
    except ImportError as error:
        results.remarks.append(f"{peer}: {error}")
    else:
        MEASURES[measure].run(Trial(peer_type, Plan(**json.loads(plan)), results))
    Path(path).write_text(json.dumps(vars(results)))
    sys.stdout.flush()
    os._exit(0)


def own_workers(peer: str, address: str) -> None:
    """Report the owners of the workers, then run a process tree in each of two workers."""
    from executor import tasks
    from executor.measures import PEERS

    peer_type = PEERS[peer]
    peer_type.prepare()
    with peer_type() as pool:
        for pid in pool.owner_pids():
            tasks.report(address, tasks.OWNER, pid)
        for _ in range(2):
            pool.submit(tasks.process_tree, address)
        while True:
            signal.pause()


if __name__ == "__main__":
    if sys.argv[1] == "--owner":
        own_workers(*sys.argv[2:])
    else:
        main(*sys.argv[1:])
