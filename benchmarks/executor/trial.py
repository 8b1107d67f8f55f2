"""One peer in one measure, in a program of its own.

    python -m executor.trial MEASURE PEER PLAN PATH

Runs in: a trial, below `cage`, in the folder `benchmarks/`. Its numbers are written to PATH. Pools that spawn import
this file in their workers: it imports nothing that costs time.
"""

from __future__ import annotations

import faulthandler
import json
import os
import sys
from pathlib import Path

STUCK_S = 100.0
"""Before the benchmark loses its patience: where it stands, for whoever reads stderr."""


def main(measure: str, peer: str, plan: str, path: str) -> None:
    """Measure, write, leave without waiting for what still runs: the cage ends it."""
    from plan import Plan
    from samples import Samples

    from executor.contest import Contest
    from executor.measures import MEASURES, PEERS

    faulthandler.dump_traceback_later(STUCK_S)
    kind = PEERS[peer]
    results = Samples()
    try:
        kind.prepare()
    except ImportError as error:
        results.remarks.append(f"{peer}: {error}")
    else:
        MEASURES[measure].run(Contest(kind, Plan(**json.loads(plan)), results))
    Path(path).write_text(json.dumps(vars(results)))
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
