"""The story of thirteen endings, told by the real command of real jobs, word for word.

To renew the golden files after a change of words: KILLABLE_RENEW_GOLDEN=1 pytest tests/e2e/test_explain.py, and read
what `git diff` shows.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from support.killable_command import Command
from support.long_wait_server import long_wait_server
from support.processes import computes
from support.waiting import until

from killable import Client
from killable.api.client.client import JobHandle
from killable.workers.authoring.limits_and_caps import LIMITS

GOLDEN = Path(__file__).parent / "golden"
ENDINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "completed": ("completes", {}),
    "cancelled": ("cleans_up", {"grace_s": 20}),
    "cancelled, native code": ("native", {"ack_s": 0.2, "grace_s": 20}),
    "timeout.run": ("waits", {"run_s": 5}),
    "timeout.run, total_s": ("waits", {"total_s": 6}),
    "timeout.start": ("starts_slowly", {"start_s": 5}),
    "input.invalid": ("wants_even", {}),
    "timeout.operation": ("waits", {"operation_s": {"load/download": 5}}),
    "limit.memory": ("grows", {"memory_bytes": 64 << 20}),
    "crash": ("crashes", {}),
    "exception": ("raises", {}),
    "killed_externally": ("is_killed", {}),
    "completed, second attempt": ("is_killed_once", {"attempts_max": 2, "backoff_s": 0.01}),
}


INPUTS: dict[str, dict[str, Any]] = {"starts_slowly": {"slowly": {}}, "wants_even": {"number": {"value": 3}}}


def normalized(text: str) -> str:
    """Return a story, a paragraph a line, without what differs from run to run: ids, moments, spans, sizes, places."""
    text = re.sub(r"(?m)^ *[~^]+ *\n", "", text)  # what Python 3.13 puts below a line of a traceback
    text = "".join(f"{' '.join(paragraph.split())}\n" for paragraph in text.split("\n\n"))
    for pattern, instead in (
        (r"job-[0-9a-f]{8}[0-9a-f-]*", "JOB"),
        (r"correlation_id [0-9a-f-]{36}", "correlation_id ID"),
        (r"\d\d:\d\d:\d\d\.\d{3}( UTC on \d{4}-\d\d-\d\d)?", "TIME"),
        (r"(less than )?\b[\d,.]+ (ms|s)\b", "SPAN"),
        (r"\b[\d,.]+ (B|KiB|MiB|GiB|bytes)\b", "SIZE"),
        (r"\bw-\d+", "WORKER"),
        (r"\bpid \d+", "pid N"),
        (r'"/[^"]*/([a-z_]+\.py)", line \d+', r'"\1", line N'),
        (r"\(proof: (cgroup\+)?descendants\)", "(PROOF)"),
        (r" SPAN the next worker was ready in its place", ""),  # perhaps not yet
        (
            r"(It was not the out-of-memory killer|The kernel's out-of-memory killer is the usual sender; [^.]*)\.",
            "OOM.",
        ),
    ):
        text = re.sub(pattern, instead, text)
    return text


def begun(client: Client, name: str) -> JobHandle:
    type, limits = ENDINGS[name]
    job = client.submit(type, INPUTS.get(type, {}), limits=limits)
    if name.startswith("cancelled"):
        next(iter(job))
        if type == "native":
            until(computes(job.record()["pid"]), "it is inside its native call")
        job.cancel(reason="enough")
    return job


def test_each_ending_is_told_as_in_its_golden_file(tmp_path: Path) -> None:
    """By a server that is patient: that a worker had no processor for a second is told, too, and is another story."""
    shutil.copy(GOLDEN / "storied.py", tmp_path)
    (tmp_path / "killable.toml").write_text('[pools.storied]\nmodule = "./storied.py"\nworkers = 6\n')
    stories = {}
    with long_wait_server(tmp_path, "--port", "0") as server, Client(server.url) as client:
        command = Command(tmp_path, server.url)
        running_out = {name: begun(client, name) for name in ENDINGS if name.startswith("timeout")}  # all at once
        for name in ENDINGS:
            job = running_out.get(name) or begun(client, name)
            assert any(event.is_terminal for event in job.events()), name
            stories[name] = normalized(command.ok("explain", job.id))
            if name == "cancelled":  # every member of the certificate, through the command too
                until(lambda job=job: "slot_ready" in job.record()["certificate"], "the next worker is warm")
                assert command.json("inspect", job.id)["certificate"] == job.record()["certificate"]
    if os.environ.get("KILLABLE_RENEW_GOLDEN"):
        for name, story in stories.items():
            (GOLDEN / f"{name}.txt").write_text(story)
    for name, story in stories.items():
        assert story.splitlines() == (GOLDEN / f"{name}.txt").read_text().splitlines(), name


@pytest.mark.parametrize("name", ENDINGS)
def test_the_last_paragraph_names_one_setting_or_none(name: str) -> None:
    last = (GOLDEN / f"{name}.txt").read_text().rpartition("\nChange")[2]
    named = {setting for setting in LIMITS if re.search(rf"\b{setting}\b|--{setting.replace('_', '-')}\b", last)}
    expected = {"cancelled, native code": {"ack_s"}, "timeout.run": {"run_s"}, "timeout.operation": {"operation_s"},
                "timeout.start": {"start_s"}, "timeout.run, total_s": {"total_s"},
                "limit.memory": {"memory_bytes"}}.get(name, set())  # fmt: skip
    assert named == expected, last
    assert named or last.lstrip(" :\n").startswith("None"), last
