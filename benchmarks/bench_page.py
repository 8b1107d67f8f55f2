"""What the page costs: first paint, memory of the tab over time, processor time of the server for one open page.

    python benchmarks/bench_page.py [--jobs 10000] [--running 200] [--minutes 10]

Needs Debian's chromium and the extra `test`. The jobs do next to nothing, so what is measured is the page's.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
from playwright.sync_api import CDPSession, Page, sync_playwright

QUICK = """
from killable import job

@job(queue_s=3600)
def nothing():
    pass
"""
LONG = """
import time
from killable import job

@job(run_s=7200, queue_s=3600)
def waits():
    time.sleep(7200)

@job(run_s=7200, output_bytes="1GiB")
def writes(per_s: int):
    while True:
        begun = time.monotonic()
        for number in range(per_s // 50):
            yield f"word-{number} " if number % 20 else f"word-{number}\\n"
        time.sleep(max(0, 0.02 - (time.monotonic() - begun)))
"""
SETTINGS = """[server]
keep_jobs = 12000
queue_jobs_max = 20000
[pools.quick]
module = "./quick.py"
workers = 2
jobs_per_worker_max = 1000
[pools.long]
module = "./long.py"
workers = {running}
spares = 0
"""


def cpu_s(pid: int) -> float:
    """Return the processor time of a process so far, of itself only."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def used_by(pid: int, span_s: float) -> float:
    """Return the share of one core that a process uses, in percent."""
    before, began = cpu_s(pid), time.monotonic()
    time.sleep(span_s)
    return 100 * (cpu_s(pid) - before) / (time.monotonic() - began)


def heap_mb(devtools: CDPSession) -> float:
    """Return the heap of the tab after a collection of what is garbage."""
    devtools.send("HeapProfiler.collectGarbage")
    metrics = {each["name"]: each["value"] for each in devtools.send("Performance.getMetrics")["metrics"]}
    return float(metrics["JSHeapUsedSize"]) / 1e6


def first_paint_ms(page: Page) -> float:
    """Return when the first contentful paint was."""
    found = page.evaluate("performance.getEntriesByName('first-contentful-paint').map(each => each.startTime)")
    return float(found[0]) if found else float("nan")


def fill(url: str, ended: int, running: int) -> None:
    """Submit all, and wait until the short ones have ended."""
    with httpx.Client(base_url=url, timeout=60) as client, ThreadPoolExecutor(8) as threads:

        def submit(body: dict[str, Any]) -> None:
            while client.post("/v1/jobs", json=body).status_code == 429:
                time.sleep(0.05)

        list(threads.map(submit, [{"type": "nothing"}] * ended))
        list(threads.map(submit, [{"type": "waits"}] * (running - 1)))
        while True:
            counts = client.get("/v1/jobs?limit=1").json()["counts"]
            if not counts.get("queued") and sum(counts.values()) >= ended + running - 1:
                print(f"kept: {json.dumps(counts)}", flush=True)
                return
            time.sleep(0.5)


def measure(url: str, pid: int, minutes: float) -> None:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        for view in ("", "jobs", "workers"):
            paints, lists = [], []
            for _ in range(5):
                page = browser.new_page()
                page.goto(f"{url}/#/{view}", wait_until="load")
                began = time.monotonic()
                page.get_by_role("heading", level=1).wait_for(state="attached")
                if view == "jobs":
                    page.locator("tbody tr").first.wait_for()
                lists.append(1000 * (time.monotonic() - began))
                paints.append(first_paint_ms(page))
                page.close()
            print(
                f"/{view}: first contentful paint {statistics.median(paints):.0f} ms, "
                f"content {statistics.median(lists):.0f} ms after load (medians of 5)",
                flush=True,
            )
        for view in ("", "jobs", "workers"):
            without, beside = [], []
            for _ in range(3):
                without.append(used_by(pid, 8))
                page = browser.new_page()
                page.goto(f"{url}/#/{view}")
                page.wait_for_timeout(2000)
                beside.append(used_by(pid, 8))
                page.close()
                time.sleep(1)
            more = statistics.median(b - a for a, b in zip(without, beside, strict=True))
            print(
                f"/{view}: server {statistics.median(without):.2f} % of a core, with one page open "
                f"{statistics.median(beside):.2f} %: {more:+.2f} %",
                flush=True,
            )
        # Only now: what it costs would hide what a page costs.
        fast = httpx.post(f"{url}/v1/jobs", json={"type": "writes", "input": {"per_s": 10_000}}).json()["job_id"]
        for view in ("jobs", f"jobs/{fast}"):
            page = browser.new_page()
            devtools = page.context.new_cdp_session(page)
            devtools.send("Performance.enable")
            page.goto(f"{url}/#/{view}")
            seen = []
            for _ in range(6):
                page.wait_for_timeout(minutes * 60_000 / 6)
                seen.append(heap_mb(devtools))
            slope = (seen[-1] - seen[1]) / (minutes * 4 / 6) * 60
            print(
                f"/{view.split('/job-')[0]}: heap after collections, over {minutes:g} min: "
                f"{', '.join(f'{each:.1f}' for each in seen)} MB; slope {slope:+.1f} MB an hour",
                flush=True,
            )
            if view != "jobs":
                print(f"  shown: {page.get_by_role('region', name='Output').inner_text().splitlines()[1]}", flush=True)
            page.close()
        browser.close()


EXAMPLES = """Examples:
  python benchmarks/bench_page.py --jobs 2000 --running 50 --minutes 1
"""
PARTS = ("first paint", "the server's processor time", "memory")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--list", action="version", version="\n".join(PARTS), help="print what is measured, and end")
    parser.add_argument("--jobs", type=int, default=10_000, help="ended jobs that are kept")
    parser.add_argument("--running", type=int, default=200)
    parser.add_argument("--minutes", type=float, default=10, help="for which the memory is looked at, each view")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "quick.py").write_text(QUICK)
        Path(folder, "long.py").write_text(LONG)
        Path(folder, "killable.toml").write_text(SETTINGS.format(running=given.running))
        command = [sys.executable, "-m", "killable.api.cli", "serve", "--port", "0", "--json"]
        with Path(folder, "log").open("w") as log:
            server = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=log, text=True)
        assert server.stdout is not None
        try:
            url = json.loads(server.stdout.readline())["url"].rstrip("/")
            fill(url, given.jobs, given.running)
            measure(url, server.pid, given.minutes)
        except BaseException:
            print(Path(folder, "log").read_text()[-2000:], file=sys.stderr)
            raise
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(60)


if __name__ == "__main__":
    main()
