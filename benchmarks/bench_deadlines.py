"""Measure how late deadlines strike, and how long what they end takes to be gone.

    python benchmarks/bench_deadlines.py [--quick] [--json] [--repeat N] [--patience S]

Runs in: the benchmark. The table goes to stdout, progress to stderr, samples to benchmarks/results/.
"""

from __future__ import annotations

import deadlines
import runner
import typer

if __name__ == "__main__":
    typer.run(runner.command("bench_deadlines", deadlines.PARTS, deadlines.figures, deadlines.remarks))
