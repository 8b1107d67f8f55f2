"""Measure streams over HTTP: the real command in a process of its own, read by raw sockets.

    python benchmarks/bench_stream.py [--quick] [--json] [--repeat N] [--patience S]

Runs in: the benchmark. The table goes to stdout, progress to stderr, samples to benchmarks/results/.
"""

from __future__ import annotations

import runner
import streams
import typer

if __name__ == "__main__":
    typer.run(runner.command("bench_stream", streams.PARTS, streams.figures, streams.remarks))
