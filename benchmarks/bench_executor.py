"""Measure killable's Executor beside ProcessPoolExecutor, loky, Pebble and others: endings, starts, speed, memory.

    python benchmarks/bench_executor.py [--quick] [--json] [--repeat N] [--patience S] [--only PART]… [--list]

Runs in: the benchmark. Each peer is measured in a program of its own, one after the other, below a process that leaves
nothing of it (`cage`), also after Ctrl-C. The table goes to stdout, progress to stderr; samples and picture to
benchmarks/results/. Needs the package, and the extra `bench`; Celery, RQ, Dask and Ray are
measured where they are installed (`served`).
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated

import runner
import typer
from executor import comparison, peer_picture
from executor.measures import MEASURES, Measure
from plan import FULL, QUICK, Plan
from samples import Samples

HERE = Path(__file__).parent
TRIAL_S = 120.0
"""Longer than any trial: what takes it hangs."""
ERROR_LINES = 12

Only = Annotated[
    list[str] | None, typer.Option("--only", help="Parts whose names have this in them. May be given again.")
]
List = Annotated[bool, typer.Option("--list", help="Print the names of the parts, and end.")]


def main(
    quick: runner.Quick = False,
    as_json: runner.AsJson = False,
    repeat: runner.Repeat = None,
    patience_s: runner.PatienceS = None,
    only: Only = None,
    names: List = False,
) -> None:
    """Measure all peers in one run, so that ratios hold."""
    chosen = {name: one for name, one in MEASURES.items() if not only or any(part in name for part in only)}
    if names or not chosen:
        print("\n".join(MEASURES))
        raise typer.Exit(0 if names else 2)
    plan = (QUICK if quick else FULL).changed(repeat, patience_s)
    began, results = time.monotonic(), Samples()
    parts: dict[str, Callable[[Plan, Samples], Awaitable[None]]] = {
        name: partial(_measure, name, one) for name, one in chosen.items()
    }
    asyncio.run(runner.measure(plan, results, parts))
    runner.fail_on_leftovers()
    results.remarks = list(dict.fromkeys(results.remarks))
    rows = comparison.rows(results)
    lines = [row.figure for row in rows]
    name = "bench_executor" + ("_quick" if quick else "") + ("_part" if only else "")
    compared = {"words": results.words, "peers": [row.as_json() for row in rows], "links": comparison.links()}
    picture_path = _draw(rows, results, runner.RESULTS / f"{name}.png")
    text = runner.report(name, plan, results, lines, time.monotonic() - began, **compared)
    if as_json:
        print(text)
    else:
        runner.print_table(lines, results, comparison.in_words(rows), comparison.table(rows))
    runner.progress.print(f"picture: {picture_path or 'none'}")


async def _measure(name: str, measure: Measure, plan: Plan, results: Samples) -> None:
    """One part: all its peers, one after the other."""
    for peer in measure.peers:
        for _ in range(plan.executor_colds if measure.once else 1):
            results.take_over(await _trial(name, peer, plan))


async def _trial(name: str, peer: str, plan: Plan) -> Samples:
    """Run one trial; what fails in it is a remark."""
    with tempfile.TemporaryDirectory(prefix="killable-bench-", ignore_cleanup_errors=True) as directory:
        path, errors_path = Path(directory, "samples.json"), Path(directory, "stderr")
        with errors_path.open("wb") as errors:
            process = await asyncio.create_subprocess_exec(
                sys.executable, str(HERE / "executor" / "cage.py"), sys.executable, "-m", "executor.trial",
                name, peer, json.dumps(asdict(plan)), str(path),
                stdout=errors, stderr=errors, stdin=asyncio.subprocess.DEVNULL, cwd=HERE,
                env={**os.environ, "TMPDIR": directory},
            )  # fmt: skip
            try:
                async with asyncio.timeout(TRIAL_S):
                    await process.wait()
                why = f"exit {process.returncode}"
            except TimeoutError:
                why = f"not done after {TRIAL_S:g} s"
            finally:
                if process.returncode is None:
                    process.send_signal(signal.SIGTERM)
                    await process.wait()
        if path.exists():
            return Samples(**json.loads(path.read_text()))
        said = errors_path.read_text(errors="replace").splitlines()
        runner.progress.print("\n".join(said[-ERROR_LINES:]), markup=False)
        return Samples(remarks=[f"{name}, {peer}: {why}: {said[-1] if said else 'no word'}"])


def _draw(rows: list[comparison.Row], results: Samples, path: Path) -> Path | None:
    path.parent.mkdir(exist_ok=True)
    try:
        peer_picture.draw(rows, path)
    except ImportError as error:
        results.remarks.append(f"no picture: {error}; pip install '.[bench]'")
        return None
    return path


if __name__ == "__main__":
    typer.run(main)
