"""The page and `killable top` over the head of a cluster: its nodes, their workers, and jobs that end there."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import Shown, row_of
from playwright.sync_api import Browser, expect
from support.killable_command import Command
from support.screen import LiveScreen

from killable.api.client.client import Client

TESTS = Path(__file__).parent.parent
LEASE_S = "300"


@pytest.fixture
def head(tmp_path: Path) -> Iterator[str]:
    """The address of a head over the nodes `a` and `b`."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join((str(TESTS), str(TESTS / "api")))}
    command = [sys.executable, str(TESTS / "support" / "head_program.py"), str(tmp_path), LEASE_S, "a", "b"]
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        yield json.loads(process.stdout.readline())["url"]
        process.communicate()


def test_nodes_their_workers_and_their_jobs(browser: Browser, head: str, tmp_path: Path) -> None:
    shown = Shown(browser, head)
    tab = shown.open("workers")
    nodes = tab.get_by_role("region", name="Nodes")
    for name in ("a", "b"):
        expect(nodes.get_by_role("row", name=re.compile(f"^{name} live"))).to_be_visible()
    with Client(head) as client:
        job, other = (client.submit("spin", nodes={"node": "b"}) for _ in range(2))
        row = tab.get_by_role("row").filter(has_text=job.id[4:12])
        expect(row.get_by_role("cell", name="b", exact=True)).to_be_visible()
        expect(nodes.get_by_role("row", name=re.compile("^b live 2"))).to_be_visible()
        tab.set_viewport_size({"width": 390, "height": 844})
        assert not shown.is_wider_than_window()
        expect(row.get_by_role("button", name=re.compile("^Kill"))).to_be_in_viewport(ratio=1)
        tab.set_viewport_size({"width": 1280, "height": 900})
        assert shown.violations() == []

        shown.go("jobs?node=b")
        expect(row_of(tab, job.id)).to_contain_text("b")
        expect(row_of(tab, other.id)).to_contain_text("running")
        shown.go(f"jobs/{job.id}")
        expect(tab.get_by_role("region", name="Facts").get_by_role("link", name="b", exact=True)).to_have_attribute(
            "href", "#/jobs?node=b"
        )
        tab.get_by_role("button", name="Cancel…").click()
        tab.get_by_role("button", name="Cancel the job").click()
        expect(tab.get_by_role("region", name="Certificate").get_by_text("dead after")).to_be_visible()

        shown.go("workers")
        row = tab.get_by_role("row").filter(has_text=other.id[4:12])
        row.get_by_role("button", name=re.compile("^Kill")).click()
        tab.get_by_role("button", name="Kill the worker").click()
        expect(tab.get_by_text(re.compile(r"w-\d+ is dead"))).to_have_count(2)  # the note of the job may still be there
        assert other.record()["error"]["by"] == "operator"

        nodes.get_by_role("button", name="Drain b…").click()
        tab.get_by_role("button", name="Drain the node").click()
        expect(nodes.get_by_role("row", name=re.compile("^b draining"))).to_be_visible()
        nodes.get_by_role("button", name="Undrain b…").click()
        tab.get_by_role("button", name="Undrain the node").click()
        expect(nodes.get_by_role("row", name=re.compile("^b live"))).to_be_visible()
        shown.close()
        assert shown.faults == []

        job = client.submit("spin", nodes={"node": "a"})
        top = Command(tmp_path, head, program=[sys.executable, "-m", "killable.api.cli"])
        with LiveScreen(top, "top", columns=120) as screen:
            screen.until(job.id[4:12])
            screen.type("5")
            screen.until(lambda text: re.search(r"^a +live", text, re.M) and re.search(r"^b +live", text, re.M))
            screen.type("1K")
            screen.until("Kill job")
            screen.type("y")
            screen.until("SIGKILL")
            screen.type("q")
            assert screen.ended() == 0
        assert job.record()["state"] == "cancelled"
