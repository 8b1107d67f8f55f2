"""Measure limits: how far over its memory limit a job comes, and what watching costs, busy and idle.

    python benchmarks/bench_limits.py [--quick] [--json] [--repeat N] [--patience S]

Runs in: the benchmark. The table goes to stdout, progress to stderr, samples to benchmarks/results/.
"""

from __future__ import annotations

import excess
import runner
import typer

if __name__ == "__main__":
    typer.run(runner.command("bench_limits", excess.PARTS, excess.figures, excess.remarks))
