"""A page of somebody else, in a real browser, that talks to OpenAI's routes: nothing but `fetch`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from playwright.sync_api import Browser, Page
from support import openai_jobs
from support.killable_command import Command, Server
from support.waiting import until

from killable.api.client.client import Client

ASK = """([url, body, aborts]) => (async () => {
    const abort = new AbortController()
    const answer = await fetch(url + '/v1/chat/completions', {
        method: 'POST', signal: abort.signal,
        headers: {'content-type': 'application/json', authorization: 'Bearer sk-none'}, body: JSON.stringify(body),
    })
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader()
    const found = {status: answer.status, text: '', words: [], error: ''}
    try {
        for (;;) {
            const {done, value} = await reader.read()
            if (done) break
            found.text += value
            if (aborts && found.text.includes('there')) abort.abort()
        }
    } catch (error) {
        found.error = error.name
    }
    for (const line of found.text.split('\\n')) {
        if (!line.startsWith('data: {')) continue
        const choice = JSON.parse(line.slice(6)).choices[0]
        if (choice && choice.delta.content) found.words.push(choice.delta.content)
    }
    return found
})()"""
HELLO = {"model": "parrot", "stream": True, "messages": [{"role": "user", "content": "hello there you"}]}


class _Blank(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.send_header("Content-Type", "text/html")
        self.end_headers()

    def log_message(self, *args: Any) -> None: ...


@contextmanager
def site() -> Iterator[str]:
    """Have a page of another origin."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Blank) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def asked(browser: Browser, tmp_path: Path) -> Iterator[tuple[Page, str]]:
    """A tab of a page whose origin the server knows, and the server's address."""
    (tmp_path / "my_jobs.py").write_text(Path(openai_jobs.__file__).read_text())
    with site() as origin:
        settings = f'[server]\ncors_origins = ["{origin}"]\n[pools.main]\nmodule = "./my_jobs.py"\nworkers = 2\n'
        (tmp_path / "killable.toml").write_text(settings)
        server = Server(Command(tmp_path), "--port", "0")
        context = browser.new_context()
        try:
            tab = context.new_page()
            tab.goto(origin)
            yield tab, server.url.rstrip("/")
        finally:
            context.close()
            server.stop()


def test_a_page_reads_a_streamed_answer_to_its_end(asked: tuple[Page, str]) -> None:
    tab, url = asked
    found = tab.evaluate(ASK, [url, HELLO, False])
    assert (found["status"], found["error"], "".join(found["words"])) == (200, "", "hello there you")
    assert found["text"].endswith("data: [DONE]\n\n")


def test_a_page_that_aborts_its_fetch_ends_the_job(asked: tuple[Page, str]) -> None:
    tab, url = asked
    found = tab.evaluate(ASK, [url, HELLO | {"then": "hang"}, True])
    assert found["error"] == "AbortError" and "[DONE]" not in found["text"]
    with Client(url) as client:
        (job,) = client.jobs()
        record = until(lambda: (seen := client.job(job["job_id"]).record())["ended_at"] and seen, "the job has ended")
    assert (record["state"], record["certificate"]["by"]) == ("cancelled", "client_gone")
    assert "tree_empty" in record["certificate"]


def test_a_page_of_an_origin_that_is_not_allowed_reads_nothing(asked: tuple[Page, str]) -> None:
    tab, url = asked
    with site() as another:
        tab.goto(another)
        told = tab.evaluate(
            "([ask, args]) => eval(ask)(args).then(JSON.stringify, error => error.name)", [ASK, [url, HELLO, False]]
        )
    assert told == "TypeError"
