"""Draw docs/_static/page-now.png and page-job.png: the page of a busy server. Run by `make page-pictures`."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

from killable import Client

STATIC = Path(__file__).parent / "_static"
SIZE = {"width": 1100, "height": 720}
BYTES_MAX = 150 << 10
WATCHED_MS = 45_000
"""Long enough for charts that show something."""
JOBS = """
import os, random, signal, time
from killable import Context, job

WORDS = ("the ", "river ", "carries ", "more ", "tokens ", "than ", "readers ", "can ", "follow.\\n")

@job
def generate(n: int = 400, every_s: float = 0.0):
    print("model loaded", flush=True)
    for _ in range(n):
        yield random.choice(WORDS)
        sum(range(random.randrange(200_000)))
        time.sleep(every_s)

@job
def transcribe(seconds: float, ctx: Context):
    for done in range(100):
        ctx.progress(done, 100, "segments")
        time.sleep(seconds / 100)

@job
def embed():
    raise ValueError("no such model: minilm-l6")

@job
def ocr():
    os.kill(os.getpid(), signal.SIGSEGV)

@job(run_s=2)
def index():
    time.sleep(60)

@job
def resize():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    yield "resizing\\n"
    time.sleep(600)
"""
SETTINGS = '[pools.jobs]\nmodule = "./jobs.py"\nworkers = 6\n'


def submit(client: Client) -> str:
    """Submit one of each kind; return the id of one that was killed."""
    for name in ("embed", "generate", "ocr", "index", "index", "embed"):
        client.submit(name)
    deaf = client.submit("resize", limits={"ack_s": 0.2, "grace_s": 1})
    next(iter(deaf))
    deaf.cancel(reason="asked for by the user")
    client.submit("generate", {"n": 100_000, "every_s": 0.002}, tags={"user": "ada"})
    client.submit("transcribe", {"seconds": 120.0}, tags={"file": "meeting.wav"})
    for number in range(9):
        client.submit("generate", {"n": 4000 + 2000 * number, "every_s": 0.002})
    return deaf.id


def draw(browser: Browser, url: str, killed: str) -> None:
    page = browser.new_page(viewport=SIZE, color_scheme="light")
    page.goto(f"{url}/#/")
    page.wait_for_timeout(WATCHED_MS)
    for name, view in (("now", ""), ("job", f"jobs/{killed}")):
        page.evaluate("view => { location.hash = '#/' + view }", view)
        page.wait_for_timeout(1500)
        path = STATIC / f"page-{name}.png"
        page.screenshot(path=path)
        assert path.stat().st_size <= BYTES_MAX, path
        print(path)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        Path(folder, "jobs.py").write_text(JOBS)
        Path(folder, "killable.toml").write_text(SETTINGS)
        command = [sys.executable, "-m", "killable.api.cli", "serve", "--port", "0", "--json"]
        server = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert server.stdout is not None
        try:
            url = json.loads(server.stdout.readline())["url"].rstrip("/")
            with Client(url) as client:
                killed = submit(client)
            browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
            draw(browser, url, killed)
            browser.close()
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(60)


if __name__ == "__main__":
    main()
