"""Other clients against the real command: curl, httpx-sse, the npm package eventsource, a client of end markers."""

from __future__ import annotations

import json
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from httpx_sse import connect_sse
from support import marker_client

JOBS = '''
from collections.abc import Iterator

from killable import job


@job(operations=("infer",))
def say(texts: list[str]) -> Iterator[str]:
    """Yield these texts."""
    yield from texts
    return {"said": len(texts)}


@job
def fail(message: str) -> Iterator[str]:
    """Yield once, then raise."""
    yield "so far"
    raise ValueError(message)


@job
def spin() -> Iterator[str]:
    """Yield once, then compute for ever."""
    yield "spinning"
    while True:
        pass
'''
NASTY = [
    "[DONE]",
    "[ERROR] no",
    "data: [CANCELLED]",
    "\n[DONE]\n\n",
    "\r[DONE]\r",
    "\u2028[DONE]\u0085",
    "é\U0001f600",
    " ",
]
"""Texts that would end or split a stream which did not encode them."""
EVENTSOURCE = "eventsource@3"
"""The newest major version that Node 18 runs."""


def submit(url: str, type: str, **input: Any) -> str:
    answer = httpx.post(f"{url}/v1/jobs", json={"type": type, "input": input}, timeout=60)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["job_id"])


def run(*command: str, cwd: Path | None = None) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, (done.stdout, done.stderr)
    return done.stdout


# ── curl ──


@pytest.mark.row("A5", "H4")
def test_curl_submits_streams_cancels_and_ends_by_itself(url: str) -> None:
    body = json.dumps({"type": "say", "input": {"texts": NASTY}})
    json_type = ("-H", "content-type: application/json")
    accepted = json.loads(run("curl", "-sS", "--fail", f"{url}/v1/jobs", *json_type, "-d", body))
    text = run("curl", "-sSN", "--fail", f"{url}{accepted['sse_url']}")
    events = [dict(line.partition(": ")[::2] for line in event.splitlines()) for event in text.split("\n\n") if event]
    tokens = [json.loads(event["data"])["text"] for event in events if event.get("event") == "token"]
    assert tokens == NASTY and events[-1]["event"] == "completed"
    assert [int(event["id"]) for event in events] == list(range(len(NASTY) + 2))

    spinning = submit(url, "spin")
    with ThreadPoolExecutor() as pool:
        stream = pool.submit(run, "curl", "-sSN", "--fail", f"{url}/v1/jobs/{spinning}/stream?markers=true")
        answer = json.loads(run("curl", "-sS", "--fail", "-X", "DELETE", f"{url}/v1/jobs/{spinning}?grace_s=0"))
        assert (answer["job_id"], answer["status"]) == (spinning, "cancelled")
        assert stream.result().endswith("data: [CANCELLED]\n\n")


# ── httpx-sse ──


@pytest.mark.row("A23")
def test_httpx_sse_reads_and_resumes(url: str) -> None:
    job_id = submit(url, "say", texts=NASTY)
    with httpx.Client(base_url=url, timeout=60) as client:
        with connect_sse(client, "GET", f"/v1/jobs/{job_id}/stream") as source:
            whole = list(source.iter_sse())
        assert [event.json()["text"] for event in whole if event.event == "token"] == NASTY
        with connect_sse(client, "GET", f"/v1/jobs/{job_id}/stream", headers={"Last-Event-ID": "3"}) as source:
            rest = list(source.iter_sse())
        assert [(event.id, event.data) for event in rest] == [(event.id, event.data) for event in whole[4:]]
        seen_all = client.get(f"/v1/jobs/{job_id}/stream", headers={"Last-Event-ID": whole[-1].id})
        assert seen_all.status_code == 204


# ── npm: eventsource ──

SCRIPT = """
import { EventSource } from "eventsource";
const seen = [];
const source = new EventSource(process.argv[2]);
for (const name of ["started", "token", "completed", "failed", "cancelled", "timed_out"]) {
  source.addEventListener(name, (event) => seen.push([name, event.lastEventId, JSON.parse(event.data)]));
}
source.addEventListener("open", () => console.error("open"));
source.addEventListener("error", () => {
  // It connects again after the end of the stream, with its last id; 204 makes it stop.
  if (source.readyState === EventSource.CLOSED) console.log(JSON.stringify(seen));
});
"""


@pytest.fixture(scope="module")
def node_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("npm") is None:
        raise AssertionError("the tests marked `npm` need Node and npm: apt-get install nodejs npm")
    folder = tmp_path_factory.mktemp("node")
    (folder / "package.json").write_text('{"private": true, "type": "module"}')
    (folder / "read.js").write_text(SCRIPT)
    run("npm", "install", "--silent", "--no-audit", "--no-fund", EVENTSOURCE, cwd=folder)
    return folder


@pytest.mark.npm
@pytest.mark.row("A23")
@pytest.mark.parametrize(
    "type, input, last", [("say", {"texts": NASTY}, "completed"), ("fail", {"message": "no"}, "failed")]
)
def test_eventsource_reads_to_the_terminal_event_and_does_not_come_back(
    url: str, node_folder: Path, type: str, input: dict[str, Any], last: str
) -> None:
    job_id = submit(url, type, **input)
    seen = json.loads(run("node", "read.js", f"{url}/v1/jobs/{job_id}/stream", cwd=node_folder))
    assert [name for name, _, _ in seen] == ["started", *["token"] * (len(seen) - 2), last]
    assert [id for _, id, _ in seen] == [str(number) for number in range(len(seen))]
    if type == "say":
        assert [data["text"] for name, _, data in seen if name == "token"] == NASTY


# ── a client of end markers ──


@pytest.mark.row("A6")
@pytest.mark.row("E12")
def test_a_marker_client_ends_well_on_done_and_no_token_forges_a_marker(url: str) -> None:
    accepted = marker_client.submit(url, "infer", texts=NASTY)
    heard = marker_client.stream(url, accepted["sse_url"])
    assert (heard.outcome, heard.after_the_end) == ("done", [])
    data = [line for line in heard.passed_on if line.startswith('{"text"')]
    assert [json.loads(line)["text"] for line in data] == NASTY


@pytest.mark.row("A8", "H4")
def test_a_marker_client_sees_a_cancel_as_cancelled(url: str) -> None:
    accepted = marker_client.submit(url, "spin")
    with ThreadPoolExecutor() as pool:
        stream = pool.submit(marker_client.stream, url, accepted["sse_url"])
        answer = httpx.delete(f"{url}/v1/jobs/{accepted['job_id']}", params={"grace_s": 0}, timeout=30)
        assert answer.json()["status"] == "cancelled"
        heard = stream.result()
    assert (heard.outcome, heard.after_the_end) == ("cancelled", [])


@pytest.mark.row("A7")
@pytest.mark.row("A9")
def test_a_marker_client_sees_failures_and_timeouts_as_errors_and_never_as_done(url: str) -> None:
    accepted = marker_client.submit(url, "fail", message="[DONE]\n[DONE]")
    heard = marker_client.stream(url, accepted["sse_url"])
    assert (heard.outcome, heard.after_the_end) == ("failed", []) and heard.message == "ValueError: [DONE] [DONE]"
    accepted = marker_client.submit(url, "spin", limits={"run_s": 0.2, "grace_s": 0})
    heard = marker_client.stream(url, accepted["sse_url"])
    assert heard.outcome == "failed" and heard.message.startswith("timeout.run: ")
