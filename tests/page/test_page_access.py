"""Who may see what on the page: keys and roles, a key that is revoked, a server that is started anew."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import Shown
from playwright.sync_api import Browser, expect
from support.killable_command import Command, Server

from killable.api.client.client import Client

KEYS = {"looks": "read-0123456789abcdef", "works": "submit-0123456789abcdef", "oncall": "operate-0123456789abcdef"}
ROLES = {"looks": "read", "works": "submit", "oncall": "operate"}
SETTINGS = '[server]\napi_keys_file = "keys"\n[pools.main]\nmodule = "./my_jobs.py"\nworkers = 2\n'


def write_keys(folder: Path, *names: str) -> None:
    file = folder / "keys"
    file.write_text("".join(f"{name} {ROLES[name]} {KEYS[name]}\n" for name in names))
    file.chmod(0o600)


@pytest.fixture
def locked(folder: Path) -> Iterator[Server]:
    (folder / "killable.toml").write_text(SETTINGS)
    write_keys(folder, *KEYS)
    server = Server(Command(folder), "--port", "0")
    yield server
    if server.process.poll() is None:
        server.stop()


@pytest.fixture
def shown(browser: Browser, locked: Server) -> Iterator[Shown]:
    shown = Shown(browser, locked.url)
    yield shown
    shown.close()
    assert shown.faults == []


def sign_in(shown: Shown, name: str) -> None:
    shown.tab.get_by_label("API key").fill(KEYS[name])
    shown.tab.get_by_role("button", name="Sign in").click()
    expect(shown.tab.get_by_title(re.compile(f"Signed in with the key {name}"))).to_be_visible()


def test_a_key_is_asked_for_and_stands_in_no_address(shown: Shown, locked: Server) -> None:
    with Client(locked.url, api_key=KEYS["works"]) as client:
        job = client.submit("waits")
    tab = shown.open(f"jobs/{job.id}")
    expect(tab.get_by_text("This server needs a key.")).to_be_visible()
    assert shown.violations() == []
    tab.get_by_label("API key").fill("not-a-key-0123456789")
    tab.get_by_role("button", name="Sign in").click()
    expect(tab.get_by_role("alert")).to_contain_text("The server does not know this key")
    sign_in(shown, "looks")
    # What was asked for at first is shown: a reader's view of it has nothing to press.
    expect(tab.get_by_role("heading", name=re.compile(job.id[4:12]))).to_be_visible()
    expect(tab.get_by_text("running", exact=True)).to_be_visible()
    assert tab.get_by_role("button", name=re.compile("Cancel|Kill|Drain")).count() == 0
    for view, heading in (("jobs", "Jobs"), ("workers", "Workers")):
        shown.go(view)
        expect(tab.get_by_role("heading", name=heading)).to_be_visible()
        expect(tab.get_by_text(job.id[4:12]).first).to_be_visible()
        assert tab.get_by_role("button", name=re.compile("Cancel|Kill|Drain")).count() == 0, view
    tab.reload()
    expect(tab.get_by_title(re.compile("Signed in with the key looks"))).to_be_visible()
    assert not [url for url in (*shown.requests, tab.url) if KEYS["looks"] in url or "ticket" in url]
    tab.get_by_role("button", name="Sign out").click()
    sign_in(shown, "works")
    shown.go(f"jobs/{job.id}")
    expect(tab.get_by_role("button", name="Cancel…")).to_be_visible()
    shown.go("workers")
    expect(tab.get_by_role("heading", name="Workers")).to_be_visible()
    assert tab.get_by_role("button", name=re.compile("Kill|Drain")).count() == 0
    tab.get_by_role("button", name="Sign out").click()
    sign_in(shown, "oncall")
    expect(tab.get_by_role("button", name="Drain…")).to_be_visible()


def test_a_key_that_is_revoked_and_a_server_that_is_started_anew(
    shown: Shown, browser: Browser, locked: Server, folder: Path
) -> None:
    tab = shown.open("workers")
    sign_in(shown, "looks")
    expect(tab.get_by_text("live", exact=True)).to_be_visible()
    write_keys(folder, "works", "oncall")
    locked.process.send_signal(signal.SIGHUP)
    expect(tab.get_by_text(re.compile("key is no longer valid|is not valid"))).to_be_visible()
    sign_in(shown, "oncall")
    expect(tab.get_by_text("live", exact=True)).to_be_visible()
    port = locked.url.rsplit(":", 1)[1].strip("/")
    locked.stop()
    expect(tab.get_by_text(re.compile("What is shown is from before"))).to_be_visible()
    again = Server(Command(folder), "--port", port)
    try:
        expect(tab.get_by_text(re.compile("The server was started anew")).first).to_be_visible()
        expect(tab.get_by_text("live", exact=True)).to_be_visible()
        expect(tab.get_by_text(re.compile("What is shown is from before"))).to_have_count(0)
        shown.close()
    finally:
        again.stop()


def test_a_clock_that_is_off_is_told_and_ages_are_the_servers(shown: Shown, locked: Server) -> None:
    with Client(locked.url, api_key=KEYS["works"]) as client:
        job = client.submit("waits")
    tab = shown.tab
    tab.add_init_script("{ const real = Date.now; Date.now = () => real.call(Date) - 300000 }")
    shown.open("jobs")
    sign_in(shown, "looks")
    expect(tab.get_by_text(re.compile("clock of this machine is (5m 0|4m 5)"))).to_be_visible()
    row = tab.get_by_role("row").filter(has_text=job.id[4:12])
    expect(row.locator("time")).to_have_text(re.compile(r"^\d{1,2} s$"))
