"""Who may see what on the page: keys and roles, a key that is revoked, a server that is started anew."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import httpx
import pytest
from browser import Shown, end_of
from playwright.sync_api import Browser, Route, expect
from support.killable_command import Command, Server
from support.waiting import until

from killable.api.client.client import Client

KEYS = {"looks": "read-0123456789abcdef", "works": "submit-0123456789abcdef", "oncall": "operate-0123456789abcdef"}
ROLES = {"looks": "read", "works": "submit", "oncall": "operate"}
INPUTS = 'keep_input_bytes = 40\ninputs_shown_to = "submit"\n'
SETTINGS = '[server]\napi_keys_file = "keys"\n' + INPUTS + '[pools.main]\nmodule = "./my_jobs.py"\nworkers = 2\n'


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
    (folder / "keys").unlink()
    locked.process.send_signal(signal.SIGHUP)
    expect(tab.get_by_text(re.compile("Degraded: the keys stay as they are: .* no such file"))).to_be_visible()
    write_keys(folder, "works", "oncall")
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


def test_why_one_is_signed_out_outlives_the_answers_that_were_under_way(
    shown: Shown, locked: Server, folder: Path
) -> None:
    with Client(locked.url, api_key=KEYS["works"]) as client:
        job = client.submit("waits")
    tab = shown.open(f"jobs/{job.id}")
    sign_in(shown, "looks")
    expect(tab.get_by_role("region", name="Facts")).to_be_visible()
    held: list[Route] = []
    tab.route(f"**/v1/jobs/{job.id}", lambda route: held.append(route))
    with tab.expect_request(f"**/v1/jobs/{job.id}"):  # it asks each second
        pass
    write_keys(folder, "works", "oncall")
    locked.process.send_signal(signal.SIGHUP)
    expect(tab.get_by_text("The key is no longer valid.")).to_be_visible()
    with tab.expect_response(f"**/v1/jobs/{job.id}") as answer:
        held[0].continue_()
    assert answer.value.status == 401
    tab.evaluate("fetch('/readyz').then(answer => answer.text())")  # what came before is taken when this is
    expect(tab.get_by_text("The key is no longer valid.")).to_be_visible()


def test_inputs_are_shown_to_keys_of_the_role_that_the_operator_chose(shown: Shown, locked: Server) -> None:
    with Client(locked.url, api_key=KEYS["works"]) as client:
        short, long = client.submit("fails", {"what": "\x1b]0;owned\x07"}), client.submit("fails", {"what": "x" * 99})
        end_of(short)
        end_of(long)
    tab = shown.open(f"jobs/{short.id}")
    sign_in(shown, "looks")
    expect(tab.get_by_role("region", name="Facts")).to_be_visible()
    expect(tab.get_by_role("region", name="Input")).to_have_count(0)
    tab.get_by_role("button", name="Sign out").click()
    sign_in(shown, "works")
    expect(tab.get_by_role("region", name="Input")).to_contain_text('{ "what": "\\u001b]0;owned\\u0007" }')
    shown.go(f"jobs/{long.id}")
    told = tab.get_by_role("region", name="Input")
    expect(told).to_contain_text("of which this is the beginning")
    expect(told.get_by_role("group")).to_have_text(re.compile('^{"what":\\s?"x{28,31}$'))


@contextmanager
def held(url: str, key: str, paths: Sequence[str]) -> Iterator[None]:
    """Have streams open with a key, each begun again while a request that the page has under way takes its place."""
    with httpx.Client(base_url=url, headers={"authorization": f"Bearer {key}"}) as client, ExitStack() as streams:

        def opens(path: str) -> bool:
            with ExitStack() as one:
                if one.enter_context(client.stream("GET", path)).status_code == 200:
                    streams.push(one.pop_all())
                    return True
            return False

        for path in paths:
            until(partial(opens, path), f"{path} is open")
        yield


@pytest.mark.parametrize(
    ("settings", "others", "words"),
    [
        # Two streams of a key: the page has one, somebody else the other.
        ("[tenants.looks]\nstreams_max = 2\n", ["/v1/jobs/stream"], "Too much was asked at once; try again"),
        ("[server]\nconnections_per_key_max = 2\n", ["/v1/jobs/stream"], "The server is busy or draining; try again"),
    ],
)
def test_a_refusal_for_now_says_when_to_try_again_and_passes(
    browser: Browser, folder: Path, settings: str, others: list[str], words: str
) -> None:
    """429 and 503, by the bounds of a real server."""
    own = SETTINGS if settings.startswith("[tenants") else SETTINGS.replace("[server]\n", settings)
    (folder / "killable.toml").write_text(own + (settings if settings.startswith("[tenants") else ""))
    write_keys(folder, *KEYS)
    server = Server(Command(folder), "--port", "0")
    shown = Shown(browser, server.url)
    try:
        # From a view without a stream of its own: the page has the one of the server alone, which stays as it is when
        # the view is left. The one of the workers' view is opened anew then, and either could be refused.
        tab = shown.open("jobs/of-before")
        sign_in(shown, "looks")
        expect(tab.get_by_text("live", exact=True)).to_be_visible()
        with held(server.url, KEYS["looks"], others):
            shown.go("jobs")
            expect(tab.get_by_role("alert")).to_contain_text(words)
        expect(tab.get_by_text("There are no jobs yet.")).to_be_visible()
        expect(tab.get_by_role("alert")).to_have_count(0)
        shown.close()
        assert shown.faults == []
    finally:
        server.stop()
