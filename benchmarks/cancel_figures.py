"""What was asked of cancels beside what was measured.

Runs in: the benchmark. Pure. The asked values are those of the project's issue "The kill, end to end".
"""

from __future__ import annotations

from collections.abc import Iterator

import crowds
import endings
import flows
from figure import Figure, spread
from samples import DEAD, GRACE_0, RAW, RAW_LATE, Samples, ending

from killable.workers.authoring.limits import DEFAULT_LIMITS

ACK_MS = (DEFAULT_LIMITS.ack_s or 0.0) * 1000
RAW_RATIO_MAX = 1.5
DELETE_MS_MAX = 5.0
STUCK_OVER_ACK_MS_MAX = 20.0
NATIVE_CROWD_MS_MAX = 1100.0
IGNORING_CROWD_MS_MAX = 1250.0
FIRST_LINE_MS_MAX = 0.1
FLOOD_RATIO_MAX = 3.0
FLOOD_OVER_MS_MAX = 10.0
TOKENS_PER_S_MIN = 500_000.0
PRIVATE_MB_MAX = 12.0


def figures(results: Samples) -> list[Figure]:
    """Return every asked value with its measured one; medians unless the line says otherwise."""
    natives = [("native_loop", "sum(range(10**18))"), ("encode", "tokenizers' encode, 4.7 MB")]
    return [
        *(_ratio_to_raw(results, *native) for native in natives),
        Figure(
            "DELETE, grace 0 → response with certificate",
            DELETE_MS_MAX, results.median(endings.DELETED), "ms", digits=2,
            note=spread(results, endings.DELETED),
        ),
        *_stuck(results, natives),
        Figure(
            "16 SIGTERM-ignoring jobs, grace 1 s → all dead",
            IGNORING_CROWD_MS_MAX, results.median(crowds.IGNORING_DEAD), "ms",
            note=spread(results, crowds.IGNORING_DEAD),
        ),
        *_cleaned(results),
        *(_first_line(results, worker) for worker in (flows.FRESH, flows.REUSED)),
        _flooded(results),
        Figure(
            "one job, one emit per token → reader in the supervisor",
            TOKENS_PER_S_MIN, results.median(flows.TOKENS_PER_S), "tokens/s", at_least=True, digits=0,
            note=spread(results, flows.TOKENS_PER_S, 0),
        ),
        Figure(
            "private memory of a fork worker, 200 MB preloaded",
            PRIVATE_MB_MAX, results.median(flows.PRIVATE_MB), "MB", note=spread(results, flows.PRIVATE_MB),
        ),
    ]  # fmt: skip


def _ratio_to_raw(results: Samples, workload: str, label: str) -> Figure:
    """Compare the medians of one run; both kinds of trial took turns."""
    ours = results.median(ending(workload, GRACE_0, DEAD))
    raw = results.median(ending(workload, RAW, DEAD))
    ratio = None if ours is None or raw is None else ours / raw
    note = "" if ours is None or raw is None else f"{ours:.2f} ms; raw kill + pidfd {raw:.2f} ms"
    what = f"cancel, grace 0 → dead, native call ({label})"
    return Figure(what, RAW_RATIO_MAX, ratio, "× raw kill", digits=2, note=note)


def _stuck(results: Samples, natives: list[tuple[str, str]]) -> Iterator[Figure]:
    bound_ms = ACK_MS + STUCK_OVER_ACK_MS_MAX
    asked = f"≤ ack_s + {STUCK_OVER_ACK_MS_MAX:.0f} = {bound_ms:.0f} ms"
    for workload, label in natives:
        name = crowds.per_core_dead(workload)
        what = f"{label}: grace 5 s, one job per core → dead"
        raw = results.median(ending(workload, RAW_LATE, DEAD))
        note = spread(results, name) + ("" if raw is None else f"; raw kill by then {raw:.1f}")
        yield Figure(what, bound_ms, results.median(name), "ms", asked_as=asked, note=note)
        name = crowds.crowd_dead(workload)
        what = f"{label}: grace 5 s, 16 jobs → last one dead"
        yield Figure(what, NATIVE_CROWD_MS_MAX, results.median(name), "ms", note=spread(results, name))
    name = crowds.HELPERS_DEAD
    what = "helper threads compute, main thread waits: grace 5 s → dead"
    yield Figure(what, bound_ms, results.median(name), "ms", asked_as=asked, note=spread(results, name))


def _cleaned(results: Samples) -> Iterator[Figure]:
    bare = results.total(crowds.BARE_CLEANED)
    bare_note = "" if bare is None else f"with a bare ack_s rule {bare:.0f} of {results.total(crowds.BARE_JOBS):.0f}"
    quota = "16 Python jobs in a 5 % processor quota, grace 5 s: cleaned up"
    ordinary = "cancels of json, sorting, imports, grace 2 s: finally ran"
    for what, jobs, cleaned, note in (
        (quota, crowds.QUOTA_JOBS, crowds.QUOTA_CLEANED, bare_note),
        (ordinary, crowds.ORDINARY_JOBS, crowds.ORDINARY_CLEANED, ""),
    ):
        number = results.total(jobs) or 0.0
        asked = f"all {number:.0f}"
        yield Figure(what, number, results.total(cleaned), "", at_least=True, digits=0, asked_as=asked, note=note)


def _first_line(results: Samples, worker: str) -> Figure:
    at_once, later = (flows.first_line(worker, pause_s) for pause_s in flows.PAUSES_S)
    pause_ms = flows.PAUSES_S[1] * 1000
    later_ms = results.median(later)
    note = spread(results, at_once, 3) + ("" if later_ms is None else f"; after {pause_ms:g} ms idle {later_ms:.3f}")
    what = f"submit → first line of the job, {worker} warm worker, in process"
    return Figure(what, FIRST_LINE_MS_MAX, results.median(at_once), "ms", digits=3, note=note)


def _flooded(results: Samples) -> Figure:
    idle_ms = results.median(flows.IDLE_CANCEL) or 0.0
    bound_ms = FLOOD_RATIO_MAX * idle_ms + FLOOD_OVER_MS_MAX
    dead_ms = results.percentile(flows.FLOODED_DEAD, 99)
    return Figure(
        "cancel → certificate, p99, beside a flood that nobody reads",
        bound_ms,
        results.percentile(flows.FLOODED_CANCEL, 99),
        "ms",
        asked_as=f"≤ 3 × idle p50 + 10 = {bound_ms:.1f} ms",
        note="" if dead_ms is None else f"idle p50 {idle_ms:.2f}; dead p99 {dead_ms:.1f}",
    )
