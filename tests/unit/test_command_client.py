"""What verbs share: of a server that answers anything they say so, in words."""

from __future__ import annotations

import json
from typing import Any

import pytest
from click.testing import CliRunner
from support.scripted_server import ID, PATH, Script, as_json

from killable.api.cli.app import app

EMPTY: dict[str, Any] = {
    "jobs": [{}], "workers": [{}], "tenants": [{}], "types": [{}], "nodes": [{}], "job_id": ID, "state": "failed",
    "error": [], "certificate": [], "next_cursor": None,
}  # fmt: skip
"""Lists of objects, as asked for, and nothing in them."""
BEYOND = 10**400
"""A number that JSON can express, and floating point cannot."""
ODD: dict[str, Any] = {
    "jobs": [{"job_id": ID, "state": "queued", "queue": [1], "tags": 3}],
    "workers": [{"worker_id": [], "state": "idle", "cpu": "much", "rss_bytes": {}}],
    "tenants": [{"tenant": 1, "bounds": "x"}], "types": [{"name": 1, "description": 2, "limits": "x", "schema": 3}],
    "job_id": ID, "state": "failed", "error": "x\x1b[31m", "certificate": "y", "limits": [1], "result": {},
    "created_at": {}, "events": "x", "attempts": "x", "draining": [], "next_cursor": None,
}  # fmt: skip
HUGE: dict[str, Any] = {
    "jobs": [{"job_id": ID, "state": "running", "type": "t", "tags": {}, "attempt": BEYOND, "events": BEYOND}],
    "workers": [{"worker_id": "w", "state": "idle", "cpu": BEYOND, "rss_bytes": BEYOND, "age_s": BEYOND}],
    "nodes": [{"name": "n", "state": "live", "heard_s": float("inf"), "running": BEYOND, "slots": BEYOND}],
    "tenants": [{"tenant": "t", "queued": BEYOND, "bounds": {}}],
    "job_types": [{"name": "t", "limits": {"run_s": BEYOND}}],
    "job_id": ID, "state": "failed", "error": {"code": "exception", "message": ""}, "created_at": "9" * 30,
    "certificate": {"tree_empty": BEYOND, "requested": float("inf")}, "heard_s": float("inf"), "name": "n",
}  # fmt: skip
"""What no clock and no machine has."""
PATHS = (
    PATH, "/v1/jobs", "/v1/workers", "/v1/tenants", "/v1/types", "/v1/drain", "/v1/job-types", "/v1/nodes",
    "/v1/nodes/n/drain",
)  # fmt: skip
VERBS = (
    ["ps", "--all"], ["workers"], ["tenants"], ["types"], ["inspect", ID], ["explain", ID], ["wait", ID], ["drain"],
    ["nodes"], ["nodes", "--drain", "n"],
)  # fmt: skip


@pytest.mark.parametrize("as_document", [False, True])
@pytest.mark.parametrize("answer", [EMPTY, ODD, HUGE], ids=["empty", "odd", "huge"])
def test_whatever_a_server_answers_no_verb_ends_in_a_traceback(
    script: Script, answer: dict[str, Any], as_document: bool
) -> None:
    for path in PATHS:
        for method in ("GET", "POST", "DELETE"):
            script.on(method, path, as_json(answer))
    for verb in VERBS:
        done = CliRunner().invoke(app, [*verb, *(["--json"] if as_document else []), "--url", script.url])
        assert done.exception is None or isinstance(done.exception, SystemExit), (verb, done.exception)
        assert "Traceback" not in done.output and "\x1b" not in done.output, (verb, done.output)
        if done.exit_code == 69 and as_document:
            assert json.loads(done.stdout)["error"]["code"] == "unreachable", verb


def test_what_was_missing_is_named(script: Script) -> None:
    script.on("GET", "/v1/workers", as_json({"workers": [{}]}))
    done = CliRunner().invoke(app, ["workers", "--url", script.url])
    assert done.exit_code == 69
    assert (
        f"an answer of {script.url} does not have" in done.output and "KeyError: 'state', at workers.py:" in done.output
    )
