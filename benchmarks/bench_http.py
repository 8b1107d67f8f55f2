"""Measure requests over HTTP: the real command in a process of its own, called by raw sockets.

    python benchmarks/bench_http.py [--quick] [--json] [--repeat N] [--patience S]

Runs in: the benchmark. The table goes to stdout, progress to stderr, samples to benchmarks/results/.
"""

from __future__ import annotations

import calls
import runner
import typer

if __name__ == "__main__":
    typer.run(runner.command("bench_http", calls.PARTS, calls.figures, calls.remarks))
