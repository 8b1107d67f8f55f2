"""The page in a real browser: an operator looks, finds, reads, and ends what has to end."""

from __future__ import annotations

import json
import re
from pathlib import Path
from urllib.parse import parse_qsl

import pytest
from browser import Shown, end_of, row_of
from page_jobs import HOSTILE
from playwright.sync_api import Page, expect

from killable.api.client.client import Client

CERTIFICATE = re.compile("dead after")


def test_the_first_look_says_what_waits_runs_and_fails(shown: Shown, client: Client) -> None:
    end_of(client.submit("fails"))
    for _ in range(5):
        client.submit("waits")
    tab = shown.open()
    expect(tab.get_by_role("link", name=re.compile("Running 3 3 of 3 slots busy"))).to_be_visible()
    expect(tab.get_by_role("link", name=re.compile("Queued 2"))).to_be_visible()
    expect(tab.get_by_role("table").get_by_role("row", name=re.compile("main 3"))).to_be_visible()
    codes = tab.get_by_role("region", name="Endings by code")
    expect(codes.get_by_role("link", name=re.compile("exception"))).to_be_visible()
    failures = tab.get_by_role("region", name="Latest failures")
    expect(failures.get_by_role("link", name=re.compile("ValueError: no such model")).first).to_be_visible()
    expect(tab.get_by_role("img", name=re.compile("CPU over the last 1 minute. Now: main"))).to_be_visible()
    codes.get_by_role("link", name=re.compile("exception")).click()
    expect(tab.get_by_role("heading", name="Jobs")).to_be_visible()
    expect(tab.get_by_label("Code")).to_have_value("exception")


def test_workers_that_ended_early_are_counted_with_the_reason(shown: Shown, client: Client) -> None:
    job = client.submit("waits")
    tab = shown.open("jobs")
    expect(row_of(tab, job.id)).to_contain_text("running")
    job.cancel(grace_s=0)
    tab = shown.open()
    expect(tab.get_by_role("columnheader", name="Ended early")).to_be_visible()
    expect(tab.get_by_title(re.compile(r"\d+ stopped"))).to_be_visible()


def test_a_list_stays_as_it_is_until_what_is_new_is_asked_for(shown: Shown, client: Client) -> None:
    first = client.submit("waits", tags={"batch": "stable"})
    second = client.submit("waits", tags={"batch": "stable"})
    tab = shown.open("jobs?tag=batch%3Astable")
    rows = tab.locator("tbody").get_by_role("row")
    expect(rows).to_have_count(2)
    expect(row_of(tab, first.id)).to_contain_text("running")
    new = [client.submit("waits", tags={"batch": "stable"}) for _ in range(3)]
    expect(tab.get_by_role("button", name="3 new")).to_be_visible()
    first.cancel(grace_s=0)
    expect(row_of(tab, first.id)).to_contain_text("cancelled")
    expect(rows).to_have_count(2)
    expect(rows.first).to_contain_text(second.id[4:12])
    tab.get_by_role("button", name="3 new").click()
    expect(rows).to_have_count(5)
    expect(rows.first).to_contain_text(new[-1].id[4:12])
    tab.get_by_role("button", name="State").click()
    expect(rows.last).to_contain_text("cancelled")


def test_jobs_are_found_by_state_and_words(shown: Shown, client: Client) -> None:
    failed = client.submit("fails", {"what": "the moon was full"}, tags={"who": "lovelace"})
    end_of(failed)
    client.submit("waits", tags={"who": "lovelace"})
    tab = shown.open("jobs")
    tab.get_by_label("Search").fill("lovelace")
    rows = tab.locator("tbody").get_by_role("row")
    expect(rows).to_have_count(2)
    tab.get_by_role("button", name=re.compile("failed 1")).click()
    expect(rows).to_have_count(1)
    expect(rows).to_contain_text("exception ValueError: the moon was full")
    assert "state=failed" in tab.url and "search=lovelace" in tab.url
    tab.get_by_role("button", name="Clear").click()
    # What was being typed is not lost by a click before it was sent.
    tab.get_by_label("Search").evaluate(
        """field => {
            field.value = 'lovelace'
            field.dispatchEvent(new Event('input', { bubbles: true }))
            field.dispatchEvent(new Event('change', { bubbles: true }))
            for (const chip of document.querySelectorAll('.chip')) if (chip.textContent.includes('failed')) chip.click()
        }"""
    )
    expect(tab).to_have_url(re.compile("search=lovelace&state=failed$"))
    expect(rows).to_have_count(1)
    tab.get_by_role("button", name="Clear").click()
    expect(tab.get_by_role("button", name="All", exact=True)).to_have_attribute("aria-pressed", "true")


def test_a_job_streams_is_cancelled_and_its_certificate_arrives(shown: Shown, client: Client) -> None:
    job = client.submit("deaf", limits={"ack_s": 0.2, "grace_s": 1})
    assert next(iter(job)) == "deaf now"
    tab = shown.open(f"jobs/{job.id}")
    expect(tab.get_by_role("log", name="Output")).to_contain_text("deaf now")
    expect(tab.get_by_text("running", exact=True)).to_be_visible()
    tab.get_by_role("button", name="Cancel…").click()
    dialog = tab.get_by_role("dialog", name=re.compile("Cancel deaf"))
    dialog.get_by_label("Reason, for the record").fill("from the page")
    dialog.get_by_role("button", name="Cancel the job").click()
    expect(dialog).to_have_count(0)
    picture = tab.get_by_role("region", name="Certificate")
    expect(picture.get_by_role("row", name=re.compile(r"SIGTERM sent [\d.]+ ms"))).to_be_visible()
    expect(picture.get_by_text(CERTIFICATE)).to_be_visible()
    expect(picture.get_by_role("row", name=re.compile("SIGKILL sent"))).to_be_visible()
    expect(picture.get_by_role("row", name=re.compile("tree empty"))).to_be_visible()
    expect(tab.get_by_role("region", name="Story")).to_contain_text("no process of it was left")
    expect(tab.get_by_role("region", name="Stack at the kill")).to_contain_text("in deaf")
    expect(tab.get_by_role("region", name="Timeline")).to_contain_text("was stopped")
    record = job.record()
    assert record["state"] == "cancelled" and record["error"]["reason"] == "from the page"


def test_what_is_filtered_is_counted_before_it_is_cancelled(shown: Shown, client: Client) -> None:
    others = client.submit("waits")
    jobs = [client.submit("waits", tags={"batch": "7"}) for _ in range(4)]
    tab = shown.open("jobs?tag=batch%3A7")
    tab.get_by_role("button", name="Cancel these…").click()
    dialog = tab.get_by_role("dialog", name="Cancel jobs")
    expect(dialog.get_by_role("status")).to_contain_text("4 jobs")
    assert {client.job(job.id).record()["state"] for job in jobs} <= {"queued", "running"}, "a dry run ends nothing"
    dialog.get_by_role("button", name="Cancel 4 jobs").click()
    expect(tab.get_by_role("dialog", name="Cancelled").get_by_role("status")).to_contain_text("4 jobs cancelled")
    assert {client.job(job.id).record()["state"] for job in jobs} == {"cancelled"}
    assert others.record()["state"] == "running"


def test_a_worker_is_killed_when_that_is_confirmed(shown: Shown, client: Client) -> None:
    job = client.submit("waits")
    tab = shown.open("workers")
    row = tab.get_by_role("row").filter(has_text=job.id[4:12])
    row.get_by_role("button", name=re.compile("Kill")).click()
    tab.get_by_role("button", name="Leave it").click()
    assert job.record()["state"] == "running"
    row.get_by_role("button", name=re.compile("Kill")).click()
    tab.get_by_role("button", name="Kill the worker").click()
    expect(tab.get_by_text(re.compile("is dead"))).to_have_count(2)  # the note, and what a screen reader is told
    record = job.record()
    assert (record["state"], record["error"]["by"]) == ("cancelled", "operator")


def test_workers_are_asked_for_by_the_view_that_shows_them(shown: Shown, client: Client) -> None:
    job = client.submit("waits")
    tab = shown.open()
    expect(tab.get_by_role("link", name=re.compile("Running"))).to_be_visible()
    shown.go("jobs")
    expect(row_of(tab, job.id)).to_be_visible()
    for _ in range(2):
        with tab.expect_request(re.compile(r"/v1/workers/stream$")):
            shown.go("workers")
        expect(tab.get_by_role("row").filter(has_text=job.id[4:12])).to_be_visible()
        expect(tab.get_by_text("live", exact=True)).to_be_visible()
        with tab.expect_request(re.compile(r"/v1/workers/stream\?workers=false$")):
            shown.go("")
        expect(tab.get_by_role("link", name=re.compile("Running"))).to_be_visible()
    job.cancel(grace_s=0)
    asked = [url.partition("/v1/workers/stream")[2] for url in shown.requests if "/v1/workers/stream" in url]
    assert asked == ["?workers=false", "", "?workers=false", "", "?workers=false"]
    assert len([url for url in shown.requests if url.endswith("/v1/info")]) <= 2, "the server is the same one"


def test_a_server_is_drained_and_takes_jobs_again(shown: Shown, client: Client) -> None:
    tab = shown.open("workers")
    tab.get_by_role("button", name="Drain…").click()
    tab.get_by_role("dialog").get_by_role("button", name="Drain").click()
    expect(tab.get_by_text("The server is draining: it accepts no new jobs.")).to_be_visible()
    tab.get_by_role("button", name="Accept jobs again…").click()
    tab.get_by_role("dialog").get_by_role("button", name="Accept jobs").click()
    expect(tab.get_by_text("The server is draining: it accepts no new jobs.")).to_have_count(0)
    end_of(client.submit("fails"))


def test_everything_is_reached_by_keys(shown: Shown, client: Client) -> None:
    jobs = [client.submit("fails", tags={"batch": "keys"}) for _ in range(3)]
    for job in (*jobs, client.submit("fails")):
        end_of(job)
    tab = shown.open()
    expect(tab.get_by_role("heading", name="Now")).to_be_attached()
    tab.keyboard.press("?")
    expect(tab.get_by_role("dialog", name="Keys")).to_be_visible()
    tab.keyboard.press("Escape")
    expect(tab.get_by_role("dialog")).to_have_count(0)
    tab.keyboard.press("/")
    expect(tab.get_by_label("Search")).to_be_focused()
    tab.keyboard.type("batch keys")
    rows = tab.locator("tbody").get_by_role("row")
    tab.keyboard.press("Enter")
    expect(tab).to_have_url(re.compile(r"search=batch\+keys$"))
    expect(rows).to_have_count(3)
    tab.keyboard.press("Escape")
    tab.keyboard.press("j")
    tab.keyboard.press("j")
    expect(rows.nth(1)).to_be_focused()
    tab.keyboard.press("k")
    expect(rows.first).to_be_focused()
    tab.keyboard.press("Enter")
    expect(tab.get_by_role("heading", name=re.compile(jobs[-1].id[4:12]))).to_be_visible()
    tab.keyboard.press("Escape")
    expect(rows).to_have_count(3)
    tab.keyboard.press("g")
    tab.keyboard.press("w")
    expect(tab.get_by_role("heading", name="Workers")).to_be_visible()
    tab.reload()
    expect(tab.get_by_role("heading", name="Workers")).to_be_visible()
    tab.keyboard.press("Tab")
    expect(tab.get_by_role("link", name="Skip to the content")).to_be_focused()


def test_nothing_that_a_job_says_is_obeyed(shown: Shown, client: Client) -> None:
    job = client.submit("hostile", tags={"who": HOSTILE})
    end_of(job)
    seen = "<img src=x onerror=alert(1)>␛]0;owned␇\ufffdgnp.exe\ufffd<script>alert(2)</script>&amp;"
    tab = shown.open(f"jobs/{job.id}")
    expect(tab.get_by_role("log", name="Output")).to_contain_text(seen)
    expect(tab.get_by_role("log", name="Log")).to_contain_text(seen)
    expect(tab.get_by_role("region", name="Traceback")).to_contain_text(seen)
    expect(tab.get_by_role("region", name="Facts")).to_contain_text(seen)
    assert not set(tab.content()) & set("\x1b\x07\u202e\u2066")
    shown.go("jobs")
    expect(row_of(tab, job.id)).to_contain_text(seen)
    shown.go("")
    expect(tab.get_by_role("region", name="Latest failures")).to_contain_text("RuntimeError: <img src=x")
    assert tab.locator("img, #app script, iframe").count() == 0


def test_a_fast_stream_is_shown_to_its_end_and_only_the_end_is_kept(shown: Shown, client: Client) -> None:
    job = client.submit("writes", {"tokens": 60_000})
    tab = shown.open(f"jobs/{job.id}")
    output = tab.get_by_role("log", name="Output")
    expect(output).to_contain_text("word-59999")
    expect(tab.get_by_role("region", name="Output")).to_contain_text("60,000 tokens")
    assert len(output.text_content() or "") < 300_000
    expect(tab.get_by_role("region", name="Result")).to_contain_text('"words": 60000')
    end_of(job)


def test_a_slow_stream_costs_no_node_for_each_frame(shown: Shown, client: Client) -> None:
    job = client.submit("writes", {"tokens": 300, "every_s": 0.02})
    output = shown.open(f"jobs/{job.id}").get_by_role("log", name="Output")
    expect(output).to_contain_text("word-299")
    blocks, texts = output.evaluate(
        "box => [box.childElementCount, [...box.children].reduce((sum, block) => sum + block.childNodes.length, 0)]"
    )
    assert texts == blocks
    end_of(job)


def test_output_is_drawn_ten_times_a_second_at_most(shown: Shown, client: Client) -> None:
    job = client.submit("writes", {"tokens": 300, "every_s": 0.02})
    output = shown.open(f"jobs/{job.id}").get_by_role("log", name="Output")
    output.evaluate(
        """box => {
          window.seen = { draws: 0, began: performance.now(), last: 0 }
          const note = () => { window.seen.draws++; window.seen.last = performance.now() }
          new MutationObserver(note).observe(box, { childList: true, characterData: true, subtree: true })
        }"""
    )
    expect(output).to_contain_text("word-299")
    seen = output.evaluate("() => window.seen")
    assert 0 < (seen["draws"] - 1) * 100 <= seen["last"] - seen["began"]
    end_of(job)


def test_what_is_laid_out_anew_stays_small_in_a_line_without_an_end(
    shown: Shown, client: Client, tmp_path: Path
) -> None:
    """The first piece leaves the most room for what comes in one frame behind it."""
    words, whole = [f"word-{number} " for number in range(5_000)], "x" * 40_000
    begin = "".join(words[:118])
    pieces = [begin, "".join(words[118:]) + whole, " end"]
    job = client.submit("writes_one_line", {"pieces": pieces, "go_on": str(tmp_path / "go_on")})
    output = shown.open(f"jobs/{job.id}").get_by_role("log", name="Output")
    expect(output).to_have_text(begin.strip())
    (tmp_path / "go_on").touch()
    expect(output).to_contain_text(" end")
    blocks = output.evaluate("box => [...box.children].map(block => block.textContent)")
    assert "".join(blocks) == "".join(pieces)
    told = [block for block in blocks if block.startswith("word-")]
    assert len(told) >= 8 and max(map(len, told[:-1])) < 6_000 and all(block.endswith(" ") for block in told[:-1])
    assert max(map(len, blocks)) < 40_000
    end_of(job)


@pytest.mark.parametrize("has_clipboard", [True, False])
def test_an_id_and_a_stack_are_copied_as_they_are_shown(shown: Shown, client: Client, has_clipboard: bool) -> None:
    """A page that came by plain HTTP from another machine has no clipboard of its own."""
    job = client.submit("fails")
    end_of(job)
    if not has_clipboard:
        shown.tab.add_init_script("Object.defineProperty(navigator, 'clipboard', { value: undefined })")
    tab = shown.open(f"jobs/{job.id}")
    found = tab.get_by_role("group", name="Traceback").inner_text()
    for what, text in (("the job's id", job.id), ("the traceback", found)):
        button = tab.get_by_role("button", name=f"Copy {what}")
        button.click()
        expect(button).to_have_text("Copied")
        expect(button).to_be_focused()
        assert pasted(tab) == text


def test_the_whole_record_is_copied(shown: Shown, client: Client) -> None:
    job = client.submit("fails", tags={"who": HOSTILE})
    end_of(job)
    tab = shown.open(f"jobs/{job.id}")
    tab.get_by_role("button", name="Copy the job's record").click()
    text = pasted(tab)
    assert json.loads(text) == job.record()
    assert not set(text) & set("\x1b\x07\u202e\u2066")


@pytest.mark.parametrize(
    ("name", "query"),
    [("fails", {"type": "fails"}), ("exception", {"code": "exception"}), ("scans", {"tag": "team:scans"})],
)
def test_from_a_job_to_those_like_it(shown: Shown, client: Client, name: str, query: dict[str, str]) -> None:
    job, other = client.submit("fails", tags={"team": "scans"}), client.submit("writes", {"tokens": 1})
    end_of(job)
    end_of(other)
    tab = shown.open(f"jobs/{job.id}")
    tab.get_by_role("main").get_by_role("link", name=name, exact=True).click()
    expect(row_of(tab, job.id)).to_be_visible()
    expect(row_of(tab, other.id)).to_have_count(0)
    assert dict(parse_qsl(tab.url.partition("?")[2])) == query


def pasted(tab: Page) -> str:
    """Return what is pasted where a person would."""
    tab.evaluate("() => { document.body.append(document.createElement('textarea')) }")
    box = tab.locator("body > textarea")
    box.press("Control+V")
    text = box.input_value()
    box.evaluate("box => box.remove()")
    return text


def test_progress_is_told(shown: Shown, client: Client) -> None:
    job = client.submit("counts")
    assert next(iter(job)) == "thirty"
    tab = shown.open("jobs?state=running")
    expect(row_of(tab, job.id).get_by_role("progressbar", name="30 of 120 pages")).to_have_attribute(
        "aria-valuenow", "25"
    )


def test_a_job_that_is_not_there(shown: Shown) -> None:
    tab = shown.open("jobs/job-00000000-0000-4000-8000-000000000000")
    expect(tab.get_by_role("status").filter(has_text="It may have ended and be kept no longer")).to_be_visible()


def test_each_view_is_accessible_and_fits_a_phone(shown: Shown, client: Client) -> None:
    ended = client.submit("deaf", limits={"ack_s": 0.2, "grace_s": 0.5})
    assert next(iter(ended)) == "deaf now"
    ended.cancel()
    end_of(client.submit("fails"))
    running = client.submit("counts", tags={"file": "a-rather-long-name-of-a-file-that-was-scanned.pdf"})
    tab = shown.open()
    views = ("", "jobs", f"jobs/{ended.id}", f"jobs/{running.id}", "workers")
    for theme in ("light", "dark"):
        tab.emulate_media(color_scheme=theme)
        for view in views:
            tab.set_viewport_size({"width": 1280, "height": 900})
            shown.go(view)
            expect(tab.get_by_role("heading", level=1)).to_be_attached()
            expect(tab.get_by_text(re.compile("^(Loading|Waiting for)"))).to_have_count(0)
            # Only colours depend on the theme.
            assert shown.violations(*(() if theme == "light" else ("color-contrast",))) == [], (view, theme)
            tab.set_viewport_size({"width": 390, "height": 844})
            assert not shown.is_wider_than_window(), (view, theme)
            if view == "workers":
                # Scrolled to neither side: what a table is for is not off the screen.
                expect(tab.get_by_role("button", name=re.compile("^Kill")).first).to_be_in_viewport(ratio=1)
    tab.keyboard.press("?")
    expect(tab.get_by_role("dialog")).to_be_visible()
    assert shown.violations() == []
