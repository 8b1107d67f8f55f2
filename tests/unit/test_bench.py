"""What `killable bench` makes of what it has measured: what counts as lost, how it is told and drawn."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from rich.console import Console

from killable.api.cli.bench import load, session, tables
from killable.api.cli.bench.percentiles import median, percentile
from killable.api.cli.bench.picture import draw, picture
from killable.api.cli.bench.plan import QUICK
from killable.api.cli.bench.raw_connection import Body
from killable.api.cli.bench.results import Results, Row

DOCUMENT: dict[str, Any] = {
    "version": "1.2", "seed": 7, "measured_at": "2026-01-02T03:04:05+00:00", "noise": [0.01, 0.02],
    "machine": {"cpu": "A <fast> & small one", "cores": 1, "system": "Linux", "kernel": "6.1", "python": "3.13.1",
                "cgroup": "no cgroup v2", "root": False, "load": [0.1, 0.1, 0.1]},
}  # fmt: skip


def token(number: int) -> bytes:
    return b'id: %d\nevent: token\ndata: {"text": "%d  "}\n\n' % (number, number)


STARTED, COMPLETED = (
    b'retry: 1000\nid: 1\nevent: started\ndata: {"pid": 1}\n\n',
    b"id: 9\nevent: completed\ndata: {}\n\n",
)


def read(*chunks: bytes) -> load.EventReader:
    reader = load.EventReader("job-1")
    for chunk in chunks:
        reader.feed(chunk)
    return reader


def test_events_are_counted_wherever_they_are_cut() -> None:
    whole = STARTED + b"".join(map(token, range(2, 9))) + COMPLETED
    for cut in range(len(whole)):
        reader = read(whole[:cut], whole[cut:])
        assert reader.ids == list(range(2, 9)) and reader.ended == "completed" and reader.has_begun.is_set(), cut
        assert reader.lost(7) == 0


def test_the_sizes_of_chunks_are_no_part_of_an_event() -> None:
    """A server cuts its answer where it likes."""
    whole = STARTED + b"".join(map(token, range(2, 9))) + COMPLETED
    head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
    for cut in range(1, len(whole)):
        parts = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (whole[:cut], whole[cut:]))
        reader, body = load.EventReader("job-1"), Body()
        for received in (head + parts[:100], parts[100:]):
            reader.feed(body.feed(received))
        assert reader.lost(7) == 0 and reader.ended == "completed", cut


@pytest.mark.parametrize(
    ("ids", "lost"),
    [((2, 3, 4), 0), ((2, 4), 1), ((), 3), ((2, 3), 1), ((2, 3, 3, 4), 1), ((2, 4, 3), 1), ((2, 3, 4, 5), 1)],
)
def test_what_is_missing_doubled_or_out_of_order_is_lost(ids: tuple[int, ...], lost: int) -> None:
    assert read(*map(token, ids)).lost(3) == lost


def test_a_loss_makes_the_run_a_failure() -> None:
    results = Results()
    reader = read(STARTED, token(2), token(4), COMPLETED)
    load._note(results.row_of("load-rate", "one stream", "ms"), [reader], 3, results)
    assert results.failures == ["load-rate: 1 of 3 events were lost or out of order (one stream)"]


def test_a_job_that_does_not_complete_makes_the_run_a_failure() -> None:
    results = Results()
    load._note(
        results.row_of("load-rate", "one stream", "ms"),
        [read(token(2), COMPLETED.replace(b"completed", b"failed"))],
        1,
        results,
    )
    assert results.failures == ["load-rate: job-1 ended as failed"]


def test_what_hinders_a_part_is_told_and_the_next_one_begins() -> None:
    def fails(_plan: Any, _results: Results) -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    def measures(_plan: Any, results: Results) -> None:
        results.row_of("second", "what", "ms").values.append(1.0)

    results = Results()
    session.run([session.CallPart("first", fails), session.CallPart("second", measures)], QUICK, 2, results, print)
    assert [len(row.values) for row in results.rows] == [2]
    assert len(results.failures) == 2 and results.failures[0].startswith("first: no process can be started")


def test_an_interrupt_keeps_what_was_measured() -> None:
    def is_interrupted(_plan: Any, results: Results) -> None:
        results.row_of("first", "what", "ms").values.append(1.0)
        raise KeyboardInterrupt

    results = Results()
    session.run([session.CallPart("first", is_interrupted)], QUICK, 2, results, print)
    assert results.is_interrupted and results.rows[0].values == [1.0]


def test_percentiles_are_measured_values() -> None:
    assert (median([]), percentile([], 99)) == (None, None)
    values = [float(number) for number in range(1, 101)]
    assert (median(values), percentile(values, 99), percentile(values, 100)) == (50.5, 99.0, 100.0)
    assert percentile([1.0, 2.0], 99) == 2.0


def test_the_worst_rate_is_the_least() -> None:
    assert Row("tokens", "tokens", "/s", [3.0, 1.0, 2.0]).worst == 1.0
    assert Row("recovery", "next", "ms", [3.0, 1.0, 2.0]).worst == 3.0


def measured() -> Results:
    results = Results()
    cancel = results.row_of("cancel-python", "Python <loop> & more", "ms")
    cancel.values, cancel.told, cancel.bare = [1.0, 2.0, 3.0], [2.0, 3.0, 4.0], [0.5, 1.0, 1.5]
    cancel.add_phases({"kill_sent": 0.1, "tree_empty": 1.5, "proof": "descendants"}, ("kill_sent", "tree_empty"))
    results.row_of("tokens", "tokens, one stream", "/s").values = [123456.0]
    results.row_of("load-rate", "a thousand", "ms").values = [0.1 + number / 100 for number in range(1000)]
    results.row_of("server", "cancel → dead", "ms").told_by_server = {"p50": 1.5, "p99": 2.5}
    results.row_of("cancel-tree", "not measured", "ms")
    return results


def shown(width: int) -> str:
    text = io.StringIO()
    console = Console(file=text, width=width)
    for part in (*tables.head(DOCUMENT), *tables.sections(measured())):
        console.print(part)
    return text.getvalue()


@pytest.mark.parametrize("width", [80, 200])
def test_the_tables_fit_the_terminal(width: int) -> None:
    lines = shown(width).splitlines()
    assert all(len(line) <= width for line in lines)
    (cancel,) = [line for line in lines if "Python <loop>" in line and "×" in line]
    assert cancel.split()[-1] == "×" and "2.00" in cancel and "3.00" in cancel
    assert any("123 456" in line for line in lines)
    assert not any("not measured" in line for line in lines)
    assert "machine noise 1 % then 2 %" in " ".join(" ".join(lines).split())


def test_a_busy_machine_is_told() -> None:
    busy = [line.plain for line in tables.head({**DOCUMENT, "noise": [0.3, 0.01]})]
    assert any("busy" in line for line in busy)
    assert not any("busy" in line.plain for line in tables.head(DOCUMENT))


def test_the_histogram_stands_where_the_values_are() -> None:
    low, high = Row("recovery", "low", "ms", [1.0] * 9), Row("recovery", "high", "ms", [90.0])
    axis, first, second = tables.histograms([low, high]).plain.splitlines()
    assert first.index("█") == axis.index("1")
    assert axis.index("10") < second.index("█") <= axis.index("100")


def test_the_histogram_has_room_for_names_and_axis() -> None:
    named = Row("recovery", "next job starts, a spare was warm", "ms", [0.02, 1000.0])
    axis, line = tables.histograms([named]).plain.splitlines()
    assert line.startswith(named.what) and max(len(axis), len(line)) <= tables.COLUMNS


def test_a_png_is_drawn_from_it(tmp_path: Path) -> None:
    draw(measured(), DOCUMENT, tmp_path / "run.png")
    assert (tmp_path / "run.png").read_bytes().startswith(b"\x89PNG")


def test_a_full_disk_names_the_picture() -> None:
    with pytest.raises(OSError, match="/dev/full"):
        draw(measured(), DOCUMENT, Path("/dev/full"))


def test_the_picture_is_well_formed_and_has_a_bar_for_many_values() -> None:
    drawing = ElementTree.fromstring(picture(measured(), DOCUMENT))
    said = [each.text or "" for each in drawing.iter("{http://www.w3.org/2000/svg}text")]
    assert "Python <loop> & more" in said and any("A <fast> & small one" in each for each in said)
    assert len(list(drawing.iter("{http://www.w3.org/2000/svg}circle"))) == 3 + 3 + 2
    assert len(list(drawing.iter("{http://www.w3.org/2000/svg}rect"))) > 20
