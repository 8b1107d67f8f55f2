"""What a server needs of a machine: memory of itself, a worker, a kept job, an open stream; bytes of a job on disk.

Runs in: the benchmark. Servers of its own, each for one constant: the growth of their memory (proportional set size)
is divided by how many of the thing there are. docs/how-to/sizing.md has the figures.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import psutil
import runner
from measurement import Figure, Samples
from servers import Server, serve_process
from trial_plan import Plan

from killable.api.cli.bench import jobs

MODULE = Path(jobs.__file__)
"""Its job types import next to nothing."""
KEPT, STREAMS, WORKERS = 1500, 300, 8
KIB, MIB = 1024, 1 << 20
CONSTANTS = {
    "the server's process, MiB": 60,
    "with a pool of one worker, its guard and zygote, MiB": 85,
    "each further worker, while its job waits, MiB": 4,
    "each kept job, without output, KiB": 7,
    "each kept job in the journal, on disk, KiB": 3.5,
    "each open stream, KiB": 60,
}
"""What docs/how-to/sizing.md says, and a little more: over that the page is wrong."""
SERVER, WITH_WORKER, WORKER, JOB, JOURNAL, STREAM = CONSTANTS


def pss_bytes(*pids: int) -> int:
    """Return the memory of these processes together; shared pages count once."""
    return sum(int(psutil.Process(pid).memory_full_info().pss) for pid in pids)


def tree_of(server: Server) -> list[int]:
    return [server.pid, *(each.pid for each in psutil.Process(server.pid).children(recursive=True))]


async def measure_processes(_: Plan, results: Samples) -> None:
    whole: dict[int, int] = {}
    for workers in (1, WORKERS):
        async with serve_process(workers=workers, module=MODULE) as server:
            async with server.connected() as caller:
                for _number in range(workers):
                    await server.start(caller, "wait_for_signal")
            whole[workers] = pss_bytes(*tree_of(server))
            if workers == 1:
                results.add(SERVER, pss_bytes(server.pid) / MIB)
                results.add(WITH_WORKER, whole[1] / MIB)
    results.add(WORKER, (whole[WORKERS] - whole[1]) / (WORKERS - 1) / MIB)


async def measure_kept_jobs(_: Plan, results: Samples) -> None:
    with tempfile.TemporaryDirectory() as folder:
        settings = {"keep_jobs": 2 * KEPT, "journal": f"{folder}/jobs.journal"}

        def journal_bytes() -> int:
            return sum(each.stat().st_size for each in Path(folder).iterdir())

        async with serve_process(module=MODULE, **settings) as server:
            await server.end_jobs(200)
            before, on_disk = pss_bytes(server.pid), journal_bytes()
            await server.end_jobs(KEPT)
            results.add(JOB, (pss_bytes(server.pid) - before) / KEPT / KIB)
            results.add(JOURNAL, (journal_bytes() - on_disk) / KEPT / KIB)


async def measure_streams(_: Plan, results: Samples) -> None:
    async with serve_process(workers=1, module=MODULE, connections_max=4000) as server, server.connected() as caller:
        job = await server.start(caller, "wait_for_signal")
        before = pss_bytes(server.pid)
        readers = [await server.connect() for _ in range(STREAMS)]
        for reader in readers:
            reader.open_stream(job.job_id)
        for reader in readers:
            await reader.line_with(b"event: token")
        results.add(STREAM, (pss_bytes(server.pid) - before) / STREAMS / KIB)
        for reader in readers:
            await reader.close()


def figures(results: Samples) -> list[Figure]:
    return [
        Figure(what.rpartition(", ")[0], bound, results.median(what), what.rpartition(", ")[2])
        for what, bound in CONSTANTS.items()
    ]


PARTS = {"server and workers": measure_processes, "kept jobs": measure_kept_jobs, "streams": measure_streams}

if __name__ == "__main__":
    runner.run(runner.command("sizing", PARTS, figures, lambda _: []), __doc__ or "", examples=["--only streams"])
