"""What the page costs: first paint, processor time of the server for each open page, memory of the tab over time.

Runs in: the benchmark, beside Debian's chromium, driven by Playwright (extra `test`). The server has 10,000 jobs that
have ended (with --quick 2,000) and 200 that run and do next to nothing, so that what is measured is the page's.
"""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psutil
import runner
from measurement import Figure, Samples
from playwright.async_api import Browser, CDPSession, Page, async_playwright
from servers import WAIT_S, Server, serve_process
from trial_plan import Plan

RUNNING = 200
VIEWS = {"now": "", "jobs": "jobs", "workers": "workers"}
OUTPUT = "a job with 10,000 tokens/s"
TOKENS_PER_S = 10_000
PAINTS, TURNS = 5, 3
DRAWN_S = 2.0
LOOKS = 6
"""At the memory of a view."""
PAINT_MAX_MS, CPU_MAX, MEMORY_MAX_MB = 1000, 1.0, 150


@asynccontextmanager
async def filled(plan: Plan) -> AsyncIterator[Server]:
    settings = {"keep_jobs": plan.kept_jobs + RUNNING, "keep_bytes": 1 << 30, "queue_jobs_max": 2 * plan.kept_jobs}
    async with serve_process(workers=RUNNING + 1, jobs_per_worker_max=1_000_000, **settings) as server:
        await server.start_jobs("wait_for_signal", RUNNING)
        await server.fill(plan.kept_jobs)
        yield server


@asynccontextmanager
async def chromium(server: Server) -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        yield browser
        await browser.close()
    for left in psutil.Process().children():  # what it had started is reaped here: this process is a subreaper
        if left.pid != server.pid:
            await asyncio.to_thread(left.wait, WAIT_S)


@asynccontextmanager
async def opened(browser: Browser, url: str) -> AsyncIterator[Page]:
    page = await browser.new_page()
    try:
        await page.goto(url, wait_until="load")
        yield page
    finally:
        await page.close()


async def measure_paint(plan: Plan, results: Samples) -> None:
    async with filled(plan) as server, chromium(server) as browser:
        for name, view in VIEWS.items():
            for _number in range(PAINTS):
                async with opened(browser, f"{server.url}/#/{view}") as page:
                    began = time.monotonic()
                    await page.get_by_role("heading", level=1).wait_for(state="attached")
                    if view == "jobs":
                        await page.locator("tbody tr").first.wait_for()
                    results.add(content_name(name), (time.monotonic() - began) * 1000)
                    results.add(paint_name(name), await first_paint_ms(page))


async def first_paint_ms(page: Page) -> float:
    """Return when the first contentful paint was."""
    found = await page.evaluate("performance.getEntriesByName('first-contentful-paint').map(each => each.startTime)")
    return float(found[0])


async def measure_server(plan: Plan, results: Samples) -> None:
    """Compare the server without a page and with one, in turns."""
    async with filled(plan) as server, chromium(server) as browser:
        for _ in range(TURNS):
            for name, view in VIEWS.items():
                without = await server.used_percent(plan.window_s)
                async with opened(browser, f"{server.url}/#/{view}"):
                    await asyncio.sleep(DRAWN_S)
                    results.add(cpu_name(name), await server.used_percent(plan.window_s) - without)
                await asyncio.sleep(1)


async def measure_memory(plan: Plan, results: Samples) -> None:
    """Look at the heap of an open page, beside a job whose output does not end."""
    async with filled(plan) as server, chromium(server) as browser, server.connected() as caller:
        fast = await caller.submit("yield_words", per_s=TOKENS_PER_S)
        for name, view in {"jobs": "jobs", OUTPUT: f"jobs/{fast}"}.items():
            async with opened(browser, f"{server.url}/#/{view}") as page:
                devtools = await page.context.new_cdp_session(page)
                await devtools.send("Performance.enable")
                for _ in range(LOOKS):
                    await asyncio.sleep(plan.page_s / LOOKS)
                    results.add(heap_name(name), await heap_mb(devtools))
            seen = results.values[heap_name(name)][-LOOKS:]
            results.add(slope_name(name), (seen[-1] - seen[1]) / (plan.page_s * (LOOKS - 2) / LOOKS) * 3600)


async def heap_mb(devtools: CDPSession) -> float:
    """Return the heap of the tab after a collection of what is garbage."""
    await devtools.send("HeapProfiler.collectGarbage")
    metrics = {each["name"]: each["value"] for each in (await devtools.send("Performance.getMetrics"))["metrics"]}
    return float(metrics["JSHeapUsedSize"]) / 1e6


def paint_name(view: str) -> str:
    return f"{view}: first contentful paint, ms"


def content_name(view: str) -> str:
    return f"{view}: its content, after the load, ms"


def cpu_name(view: str) -> str:
    return f"{view}: added to the server, % of a core"


def heap_name(view: str) -> str:
    return f"{view}: heap after a collection, MB"


def slope_name(view: str) -> str:
    return f"{view}: heap, MB an hour"


def figures(results: Samples) -> list[Figure]:
    """Return the targets. What the heap would be after an hour is the last look and the slope since the second."""
    found = []
    for view in VIEWS:
        note = f"content {results.spread(content_name(view), 0, (50,))}" if content_name(view) in results else ""
        paint, cpu = paint_name(view), cpu_name(view)
        found.append(Figure(f"{view}: first paint", PAINT_MAX_MS, results.median(paint), "ms", digits=0, note=note))
        spread = results.spread(cpu, 2)
        found.append(Figure(f"{view}: the server", CPU_MAX, results.median(cpu), "% of a core", digits=2, note=spread))
    for view in ("jobs", OUTPUT):
        heap, slope = results.values.get(heap_name(view)), results.median(slope_name(view))
        hour = None if not heap or slope is None else heap[-1] + max(0.0, slope)
        note = results.spread(heap_name(view))
        found.append(Figure(f"{view}: memory after an hour", MEMORY_MAX_MB, hour, "MB", note=note))
    return found


PARTS = {"first paint": measure_paint, "the server's processor time": measure_server, "memory": measure_memory}

if __name__ == "__main__":
    runner.run(runner.command("page", PARTS, figures, lambda _: []), __doc__ or "", examples=["--quick --only paint"])
