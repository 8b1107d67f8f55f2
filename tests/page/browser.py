"""A real Chromium with the page in it, and what a test asks of it. By role and text: as people find things, too."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from playwright.sync_api import Browser, Page, Request, expect, sync_playwright
from support.processes import shared_servers

from killable.api.client.client import JobHandle

AXE = Path(__file__).parent / "axe.min.js"
QUIET = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--disable-breakpad", "--disable-crash-reporter"),
)
"""Nothing of it is to ask anything of the network; as root it has no sandbox of its own."""
WAIT_MS = 20_000
"""A busy machine draws late. Nothing waits for as long that comes at all."""

expect.set_options(timeout=WAIT_MS)


@contextmanager
def chromium() -> Iterator[Browser]:
    """Start Debian's; without it the tests fail, and say what to install."""
    path = shutil.which("chromium")
    assert path, "these tests need a browser: apt-get install chromium"
    before = {child.pid for child in psutil.Process().children()}
    with sync_playwright() as playwright:
        # What is below the driver is the browser's: it comes and goes with what is shown.
        driver = {child.pid for child in psutil.Process().children()} - before
        shared_servers.update(driver)
        try:
            browser = playwright.chromium.launch(executable_path=path, args=list(QUIET))
            yield browser
            browser.close()
        finally:
            shared_servers.difference_update(driver)


class Shown:
    """The page of one server in a tab of its own."""

    def __init__(self, browser: Browser, url: str, **options: Any) -> None:
        self.url = url.rstrip("/")
        self._context = browser.new_context(viewport={"width": 1280, "height": 900}, **options)
        self._context.set_default_timeout(WAIT_MS)
        self.tab: Page = self._context.new_page()
        self.faults: list[str] = []
        self.requests: list[str] = []
        self.tab.on("pageerror", lambda error: self.faults.append(str(error)))
        self.tab.on("console", lambda said: self._note(said.type, said.text))
        self.tab.on("request", self._note_request)
        self.tab.on("dialog", lambda dialog: self.faults.append(f"dialog: {dialog.message}"))

    def _note(self, kind: str, text: str) -> None:
        # What the network does is what some tests are about; the page says it in words of its own.
        if kind == "error" and "Failed to load resource" not in text:
            self.faults.append(text)

    def _note_request(self, request: Request) -> None:
        self.requests.append(request.url)

    def open(self, view: str = "") -> Page:
        """Show a view: `jobs?state=failed`."""
        self.tab.goto(f"{self.url}/#/{view}")
        return self.tab

    def go(self, view: str) -> Page:
        """Show another view without loading the page again."""
        self.tab.evaluate("view => { location.hash = '#/' + view }", view)
        return self.tab

    def close(self) -> None:
        self._context.close()

    def violations(self, *rules: str) -> list[str]:
        """Return what axe finds wrong: by all its rules, best practices included, or by those given."""
        if not self.tab.evaluate("() => 'axe' in window"):
            self.tab.evaluate(AXE.read_text())
        options = {"resultTypes": ["violations"]} | ({"runOnly": list(rules)} if rules else {})
        found = self.tab.evaluate("options => axe.run(document, options)", options)
        return [
            f"{each['id']}: {node['target']} {node['failureSummary']}"
            for each in found["violations"]
            for node in each["nodes"]
        ]

    def is_wider_than_window(self) -> bool:
        found: bool = self.tab.evaluate("document.documentElement.scrollWidth > innerWidth")
        return found


def row_of(tab: Page, job_id: str) -> Any:
    """Return the row of a job in a list."""
    return tab.get_by_role("row").filter(has=tab.get_by_role("link", name=re.compile(job_id[4:12])))


def end_of(job: JobHandle) -> None:
    """Wait until a job has ended, however it does."""
    for _ in job.events():
        pass
