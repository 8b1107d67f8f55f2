"""`killable bench` with servers of its own: what it measures, draws and says, and that nothing of it is left."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from support.killable_command import COMMAND, Command, Serve

SVG = "{http://www.w3.org/2000/svg}"


def bench(folder: Path, *args: str, returns: int = 0, **env: str) -> Any:
    """Run it in a process of its own, with few trials, and return what it measured."""
    folder.joinpath("tmp").mkdir()
    command = Command(folder, program=COMMAND)
    done = command.run("bench", *args, "--quick", "--json", env={"TMPDIR": str(folder / "tmp"), **env})
    assert done.returncode == returns, done.stderr
    assert list(folder.joinpath("tmp").iterdir()) == []
    return json.loads(done.stdout)


def rows(document: Any) -> dict[str, Any]:
    return {f"{row['what']}, {row['unit']}": row for row in document["rows"]}


def test_cancels_memory_and_recovery_are_measured_and_drawn(tmp_path: Path) -> None:
    """A cancel is seen from outside, told with its phases, and beside a bare SIGKILL, which leaves a tree behind."""
    parts = ("--only", "cancel-python", "--only", "cancel-tree", "--only", "memory", "--only", "recovery")
    document = bench(tmp_path, *parts, "--seed", "7", "--picture", str(tmp_path / "run.svg"))
    assert (document["failures"], document["interrupted"], document["seed"]) == ([], False, 7)
    assert document["machine"]["cores"] >= 1 and len(document["noise"]) == 2
    assert all(0 <= share < 1 for share in document["noise"])
    found = rows(document)

    killed, asked = found["Python loop, killed, ms"], found["Python loop, asked, ms"]
    assert (killed["count"], killed["bare"]["count"], asked["count"], asked["bare"]) == (6, 6, 2, None)
    assert 0 < killed["min"] <= killed["p50"] <= killed["p99"] <= killed["max"]
    assert killed["ratio"] == pytest.approx(killed["p50"] / killed["bare"]["p50"], abs=0.01)
    assert {"kill_sent", "tree_empty"} <= set(killed["phases"]) and "acknowledged" in asked["phases"]
    assert killed["facts"] == {"alive_when_told": 0, "bare_left": 0}
    tree = found["tree of 4 processes, killed, ms"]
    assert tree["facts"] == {"alive_when_told": 0, "bare_left": 3 * 6}

    assert 0 < found["a warm spare, MiB USS"]["p50"] <= found["a warm spare, MiB PSS"]["p50"]
    assert found["a worker with a job, MiB PSS"]["count"] == 1
    assert found["next job starts, a spare was warm, ms"]["count"] == 4
    assert found["next job starts, without a spare, ms"]["count"] == 4

    drawing = ElementTree.parse(tmp_path / "run.svg").getroot()
    said = [each.text for each in drawing.iter(f"{SVG}text")]
    assert {"Python loop, killed", "tree of 4 processes, killed", "a warm spare", "Memory"} <= set(said)
    # Each value is a dot: of the cancels, of the bare kills beside them, of the recoveries; two are the legend's.
    assert len(list(drawing.iter(f"{SVG}circle"))) == 6 + 6 + 2 + 6 + 6 + 3 * 4 + 2


@pytest.mark.row("H7")
def test_the_load_test_loses_nothing(tmp_path: Path) -> None:
    """A thousand events a second, a burst of ten thousand, a hundred streams, a slow reader, who has all in the end."""
    found = rows(bench(tmp_path, "load"))
    assert {what: (row["facts"]["events"], row["facts"]["lost"]) for what, row in found.items()} == {
        "1 000 events/s in one stream, ms": (1000, 0),
        "a burst of 10 000 events, ms": (10_000, 0),
        "two streams, nobody slow, ms": (1000, 0),
        "two streams, and a slow reader, ms": (1000, 0),
        "the slow reader itself, ms": (500, 0),
        "100 streams at once, ms": (1000, 0),
    }
    assert found["the slow reader itself, ms"]["p50"] > found["two streams, and a slow reader, ms"]["p50"]
    assert found["a burst of 10 000 events, ms"]["facts"]["server_mib_most"] > 0


def test_an_interrupt_ends_everything_and_prints_what_there_is(tmp_path: Path) -> None:
    tmp = tmp_path / "tmp"
    tmp.mkdir()
    command = Command(tmp_path, program=COMMAND)
    parts = ("--only", "cancel-python", "--only", "cancel-ignoring")
    with command.start("bench", *parts, "--repeat", "1000", "--quick", env={"TMPDIR": str(tmp)}) as process:
        assert process.stderr is not None
        while process.stderr.readline() != "cancel-ignoring, pass 1 of 1000\n":
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Python loop, killed" in out and "machine noise" in out
    assert err.endswith("interrupted: what is above had been measured until then; nothing is left running\n")
    assert list(tmp.iterdir()) == []


def test_a_server_that_others_use_is_only_asked(serve: Serve, folder: Path) -> None:
    server = serve("my_jobs.py", "--port", "0")
    done = Command(folder).run("bench", "--server", server.url, "--quick", "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert {row["what"]: row["count"] for row in document["rows"]} == {
        "GET /readyz": 40, "GET /v1/jobs, the first": 40, "GET /v1/workers": 40,
    }  # fmt: skip
    assert document["server"] == server.url
    assert Command(folder, server.url).json("metrics")["accepted"] == 0


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (("--only", "cancle"), 2, "there are cancel-python, cancel-native"),
        (("load", "--only", "cancel"), 2, "there are load-rate"),
        (("--picture", "run.gif"), 2, "neither with .svg nor with .png"),
        (("--picture", "nowhere/run.svg"), 2, "nowhere/run.svg cannot be written"),
        (("load", "--server", "http://127.0.0.1:1"), 2, "harmless"),
        (("--repeat", "0"), 2, "x>=1"),
        (("--server", "http://127.0.0.1:1"), 69, "connection refused"),
    ],
)
def test_what_cannot_be_measured_is_told_before_anything_starts(
    args: tuple[str, ...], code: int, said: str, tmp_path: Path
) -> None:
    done = Command(tmp_path).run("bench", *args)
    assert (done.returncode, done.stdout) == (code, "")
    assert said in " ".join(done.stderr.split())


def test_the_parts_are_listed(tmp_path: Path) -> None:
    done = Command(tmp_path).run("bench", "load", "--list")
    assert done.stdout.split() == ["load-rate", "load-burst", "load-slow-reader", "load-streams"]
