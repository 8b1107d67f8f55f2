"""`killable demo`: stream, cancel and kill jobs with real models in half a minute, and check every claim.

Runs in: any process of a person's (Linux). Starts a server of its own and leaves nothing behind.

    generate ──► tokens as they come
    generate ──► cancelled mid-sentence
    tokenize ──► stuck in one native call ──► killed; the stack names the call
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.text import Text

from killable.api.cli.display import console, errors
from killable.api.cli.display.certificate import certificate_table, death_line
from killable.api.cli.display.exit_codes import CommandExit
from killable.api.client.events import token_of
from killable.api.explanation import spelling
from killable.api.explanation.state_words import ended_by
from killable.workers.errors import KillableError

if TYPE_CHECKING:
    from killable.api.cli.server.own_server import OwnServer
    from killable.api.client.client import Client, JobHandle

PROMPT = "Explain in a few sentences why the sea is salty."
LONG_PROMPT = "Tell me a long story about a lighthouse keeper and the sea."
MAX_TOKENS = 96
CUT_AFTER_TOKENS = 24
SILENCE_S = 0.7
"""Seconds to wait before the cancel: the native call takes longer, so the job is certainly inside it."""


class DemoFailed(KillableError):
    """The demo cannot run here."""

    code = "demo_failed"
    exit_code = CommandExit.FAILED


def demo(as_json: bool) -> None:
    with errors.reporting(as_json):
        if sys.platform != "linux":
            raise DemoFailed(f"the demo starts a server, which needs Linux; this is {sys.platform}")
        from killable.api.cli.server.own_server import OwnServer
        from killable.api.client.client import Client

        _require_models()
        story = _Story(Console(quiet=as_json, highlight=False, markup=False, emoji=False, soft_wrap=True))
        with OwnServer() as server:
            story.begin(server)
            with Client(server.url) as client:
                story.tell(client)
            left = server.stop()
        story.finish(left, server.exit_code)
        if as_json:
            console.print_json({"ok": all(story.claims.values()), "claims": story.claims, **story.document})
        if not all(story.claims.values()):
            raise click.exceptions.Exit(CommandExit.FAILED)


def _require_models() -> None:
    """Raise DemoFailed with the install commands if a model is missing."""
    from killable.workers.authoring.requirements import missing
    from killable.workers.builtin import generate, tokenize

    lines = [line for requires in (tokenize.REQUIRES, generate.REQUIRES) if (line := missing(requires))]
    if lines:
        raise DemoFailed("the demo runs real models; to install them:\n  " + "\n  ".join(lines))
    try:
        generate.check_processor()
    except RuntimeError as error:
        raise DemoFailed(str(error)) from None


class _Story:
    """Runs three jobs in turn, and records what was observed and whether each claim held."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self.document: dict[str, Any] = {}
        self.claims: dict[str, bool] = {}

    def begin(self, server: OwnServer) -> None:
        from killable.workers.builtin import generate

        model = generate.model_file()
        self.document |= {"server": {"url": server.url, "pid": server.pid}, "model": model}
        self._say(f"server {server.url}, pid {server.pid}")
        self._say(f"model  {model['file']}, {model['bytes']:,} bytes".replace(",", " "))
        self._say(f"sha256 {model['sha256']}")

    def tell(self, client: Client) -> None:
        self._generate(client)
        self._cut_short(client)
        self._get_stuck(client)

    def finish(self, left: list[str], exit_code: int | None) -> None:
        self._head("no process is left")
        self.document |= {"left": left, "server_exit_code": exit_code}
        self._claim("the server ended with exit code 0", exit_code == 0)
        self._claim("no process of it is left", not left)
        for process in left:
            self._say(f"  {process}")

    def _generate(self, client: Client) -> None:
        self._head("generate: tokens as they come")
        job = client.submit("generate", {"prompt": PROMPT, "max_tokens": MAX_TOKENS})
        seen = self._stream(job)
        rate = seen["tokens"] / seen["token_s"] if seen["token_s"] else 0.0
        self._say(f"worker pid {seen['pid']}, {seen['tokens']} tokens, {rate:.0f} tokens/s")
        self.document["generate"] = {"job_id": job.id, "prompt": PROMPT, "tokens_per_s": round(rate, 1), **seen}
        self._claim("a language model answered", seen["state"] == "completed" and seen["tokens"] > 0)

    def _cut_short(self, client: Client) -> None:
        self._head(f"generate: cancelled mid-sentence, after {CUT_AFTER_TOKENS} tokens")
        job = client.submit("generate", {"prompt": LONG_PROMPT, "max_tokens": 1024})
        seen = self._stream(job, on_token=lambda n: job.cancel(reason="enough") if n == CUT_AFTER_TOKENS else None)
        certificate = self._show_certificate(seen)
        self.document["cancelled"] = {"job_id": job.id, "prompt": LONG_PROMPT, **seen}
        self._claim("it was cancelled, and is dead", seen["state"] == "cancelled" and "tree_empty" in certificate)

    def _get_stuck(self, client: Client) -> None:
        self._head("tokenize: one native call of several seconds, which holds the GIL and handles no signal")
        job = client.submit("tokenize", {"corpus": True})
        worker_id = ""
        for event in job.events():
            if event.name == "started":
                worker_id = event.data["worker_id"]
            elif event.name == "progress":
                break  # the text is loaded, and the native call begins
        time.sleep(SILENCE_S)
        worker = client.worker(worker_id)
        used = f"CPU {worker['cpu'] or 0:.0%}, RSS {spelling.size(worker['rss_bytes'])}"
        self._say(f"worker pid {worker['pid']}, {used}, no output: cancel")
        ending = job.cancel(reason="stuck")
        record = job.record()
        seen = {"state": ending.state, "pid": worker["pid"], "certificate": record["certificate"]}
        certificate = self._show_certificate(seen)
        self.document["stuck"] = {"job_id": job.id, **seen}
        self._claim("the signal was delivered", "delivered" in certificate)
        self._claim("the job could not acknowledge it", "acknowledged" not in certificate)
        self._claim("SIGKILL ended it", "kill_sent" in certificate and "tree_empty" in certificate)
        self._claim("the stack names the native call, encode", "encode" in str(certificate.get("stack")))

    def _stream(self, job: JobHandle, on_token: Callable[[int], object] = lambda number: None) -> dict[str, Any]:
        """Print a job's tokens until its terminal event; return what was observed."""
        seen: dict[str, Any] = {"state": "", "pid": None, "tokens": 0, "token_s": 0.0, "text": "", "certificate": None}
        first = 0.0
        for event in job.events():
            if event.name == "started":
                seen["pid"] = event.data["pid"]
            elif event.name == "token":
                now = time.monotonic()
                first = first or now
                seen["token_s"] = round(now - first, 3)
                seen["tokens"] += 1
                seen["text"] += token_of(event.data)
                self._console.print(Text(token_of(event.data), "italic"), end="")
                on_token(seen["tokens"])
            elif event.is_terminal:
                seen |= {"state": event.name, "certificate": event.data["certificate"], "error": event.data["error"]}
        self._console.print()
        return seen

    def _show_certificate(self, seen: dict[str, Any]) -> dict[str, Any]:
        certificate: dict[str, Any] = seen["certificate"] or {}
        self._say(f"{ended_by(seen)}: {death_line(certificate)}")
        self._console.print(certificate_table(certificate))
        return certificate

    def _head(self, title: str) -> None:
        self._console.print()
        self._console.rule(Text(title, "bold"), align="left", style="dim")

    def _say(self, line: str) -> None:
        self._console.print(line)

    def _claim(self, claim: str, holds: bool) -> None:
        self.claims[claim] = holds
        self._console.print(Text.assemble(("  yes  ", "bold green") if holds else ("  NO   ", "bold red"), claim))
