"""The journal's file: what it gives back, whose it is, and that what cannot be read stays as it was."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from killable.supervisor.jobs.event_log import EventLog
from killable.supervisor.journal import journal_file, schema
from killable.supervisor.journal.journal_file import (
    AcceptedNote,
    AmendedNote,
    DroppedNote,
    EndedNote,
    EpochNote,
    JournalFile,
    JournalRow,
    NodeDrainNote,
    OutputNote,
    StartedNote,
    StoppedNote,
)
from killable.supervisor.journal.schema import HEADS_MAX
from killable.supervisor.journal.start_refusals import JournalRefused
from killable.supervisor.models import HeadLine

ACCEPTED = AcceptedNote(1, "job-1", b'{"type":"work"}', b"input" * 100)


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "journal")


@pytest.fixture
def file(path: str) -> Iterator[JournalFile]:
    with closing(JournalFile.open(path)) as opened:
        yield opened


def sealed(*events: tuple[str, bytes]) -> EventLog:
    log = EventLog(1 << 20)
    for name, data in events:
        log.append(name, data)
    log.seal()
    return log


def rows_of(path: str) -> list[JournalRow]:
    with closing(JournalFile.open(path)) as opened:
        return opened.read()


@pytest.mark.row("B16")
def test_what_is_written_is_read_by_the_next_one(file: JournalFile, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long it is: a value that is longer than a piece lies in several."""
    monkeypatch.setattr(journal_file, "PIECE_BYTES", 64)
    log = sealed(("started", b"{}"), *[("token", b'{"text":"x"}')] * 20, ("completed", b"[]"))
    file.write([ACCEPTED, AcceptedNote(2, "job-2", b'{"n":2}', b""), AcceptedNote(3, "job-3", b"{}", b"x")])
    file.write(
        [StartedNote(1, b'{"at":1}'), StartedNote(2, b'{"at":2}'), EndedNote(2, b'{"end":1}', b"r" * 1000, None, log)]
    )
    file.write([AmendedNote(2, b'{"end":2}'), DroppedNote(3), StoppedNote(1, b'{"by":"user"}')])
    file.close()
    one, two = rows_of(path)
    assert one == JournalRow(1, "job-1", {"type": "work"}, {"at": 1}, {"by": "user"}, None, {"input": b"input" * 100})
    assert (two.accepted, two.started, two.ended) == ({"n": 2}, {"at": 2}, {"end": 2})
    assert two.pieces == {"result": b"r" * 1000, "events": b"".join(log.encoded())}  # its input is not needed any more
    assert EventLog.decode(two.pieces["events"], 1).read(-1, 100) == log.read(-1, 100)


def test_the_drains_of_nodes_are_read_without_those_that_are_damaged(
    file: JournalFile, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert file.read_drains() == {}
    file.write([NodeDrainNote("a", b'{"until":1}'), NodeDrainNote("b", b'{"until":2}'), NodeDrainNote("a", None)])
    file.write([NodeDrainNote("c", b'{"until":null}'), NodeDrainNote("b", b'{"until":3}')])
    file.close()
    with closing(JournalFile.open(path)) as again:
        assert again.read_drains() == {"c": {"until": None}, "b": {"until": 3}}
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE drains SET members = '{}' WHERE node = 'b'")
        connection.commit()
    with closing(JournalFile.open(path)) as again:
        assert again.read_drains() == {"c": {"until": None}}
    assert "journal_drain_lost" in caplog.text


@pytest.mark.row("B16")
def test_events_of_a_running_job_are_one_log_until_it_ends_or_begins_a_new_one(file: JournalFile) -> None:
    log = EventLog(1 << 20)
    for number in range(20):
        log.append("token", b'{"value":%d}' % number)
    file.write([ACCEPTED])
    place = 0
    while place < len(log):
        following, data = log.encode_some(place, 8, 1 << 20)
        file.write([OutputNote(1, place, data, place == 0)])
        place = following
    (row,) = file.read()
    assert row.pieces["input"] == ACCEPTED.input
    assert EventLog.decode(row.pieces["output"], 1 << 20).read(-1, 100) == log.read(-1, 100)
    file.write([OutputNote(1, 100, log.encode_some(0, 3, 1 << 20)[1], True)])
    (row,) = file.read()
    assert [event.id for event in EventLog.decode(row.pieces["output"], 1 << 20, 100).read(-1, 9)] == [100, 101, 102]
    file.write([EndedNote(1, b"{}", None, None, sealed(("completed", b"{}")))])
    (row,) = file.read()
    assert set(row.pieces) == {"events"}


@pytest.mark.row("B16")
def test_of_one_group_all_is_written_or_nothing(file: JournalFile, path: str) -> None:
    file.write([ACCEPTED])
    with pytest.raises(sqlite3.IntegrityError):
        file.write([AcceptedNote(2, "job-2", b"{}", b"x"), ACCEPTED])
    file.write([AcceptedNote(3, "job-3", b"{}", b"x")])
    file.close()
    assert [row.number for row in rows_of(path)] == [1, 3]


@pytest.mark.row("B16")
def test_the_end_of_a_job_that_was_refused_leaves_nothing(file: JournalFile, path: str) -> None:
    file.write([StartedNote(7, b"{}"), EndedNote(7, b"{}", b"r", b"p", sealed(("cancelled", b"{}"))), DroppedNote(7)])
    file.close()
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT count(*) FROM pieces").fetchone() == (0,)


def refusal(path: str) -> str:
    with pytest.raises(JournalRefused) as caught:
        rows_of(path)
    assert caught.value.journal == path
    return caught.value.message


@pytest.mark.row("B16")
def test_a_second_one_is_refused_until_the_first_is_closed(file: JournalFile, path: str) -> None:
    assert "another server uses it" in refusal(path)
    file.write([ACCEPTED])
    file.close()
    assert [row.job_id for row in rows_of(path)] == ["job-1"]


def other_programs(path: str) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE recipes (name)")


def newer(path: str) -> None:
    JournalFile.open(path).close()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 3")


def torn(path: str) -> None:
    """Lose the second half of a journal with something in it."""
    with closing(JournalFile.open(path)) as opened:
        opened.write([AcceptedNote(n, f"job-{n}", b"{}", b"x" * 5000) for n in range(50)])
    content = Path(path).read_bytes()
    Path(path).write_bytes(content[: len(content) // 2])


def overwritten(path: str) -> None:
    """Lose some pages in the middle of one."""
    with closing(JournalFile.open(path)) as opened:
        opened.write([AcceptedNote(n, f"job-{n}", b"{}", b"x" * 5000) for n in range(50)])
    with open(path, "r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * 40960)


def cut_tail(path: str) -> None:
    """Lose the write-ahead log of a server that was killed."""
    with closing(JournalFile.open(path)) as opened:
        opened.write([ACCEPTED])
        for suffix in ("", "-mark"):
            Path(f"{path}{suffix}.copy").write_bytes(Path(f"{path}{suffix}").read_bytes())
    for suffix in ("", "-mark"):
        Path(f"{path}{suffix}.copy").replace(f"{path}{suffix}")


@pytest.mark.row("B16")
@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: Path(path).write_bytes(b"garbage\n" * 1000), "is not a journal"),
        (other_programs, "is a database of another program"),
        (newer, "written by a newer version of killable: its tables have version 3, this one supports 2"),
        (torn, "is damaged"),
        (overwritten, "is damaged"),
        (cut_tail, "has lost its last 2 transactions"),
        (lambda path: Path(path).touch(), "is empty, and a journal never is"),
    ],
    ids=["garbage", "another's", "newer", "torn", "overwritten", "cut", "empty"],
)
def test_what_cannot_be_read_is_refused_and_stays_as_it_was(path: str, make: object, words: str) -> None:
    assert callable(make)
    make(path)
    before = Path(path).read_bytes()
    assert words in refusal(path)
    assert Path(path).read_bytes() == before


@pytest.mark.row("B16")
def test_a_place_where_no_file_can_be_is_refused(tmp_path: Path) -> None:
    for place in (tmp_path / "no" / "journal", tmp_path):
        assert "cannot be opened and written" in refusal(str(place))
    assert "No such file or directory" in refusal(str(tmp_path / "no" / "journal"))
    assert "it is a directory; name a file in it" in refusal(str(tmp_path))


@pytest.mark.row("B16")
def test_a_flipped_bit_is_found_wherever_it_is_and_costs_only_its_job(path: str) -> None:
    """Each bit of what is stored of a job, one after the other; the job beside it is read each time."""
    with closing(JournalFile.open(path)) as opened:
        log = sealed(("completed", b"{}"))
        opened.write([AcceptedNote(1, "job-1", b'{"n":1}', b"in"), AcceptedNote(2, "job-2", b'{"n":2}', b"in")])
        opened.write([StartedNote(1, b'{"at":1}'), StoppedNote(1, b"{}"), EndedNote(1, b'{"e":1}', b"res", None, log)])
        places = [("jobs", name) for name in ("job_id", "accepted", "started", "stopped", "ended")]
        for table, column in [*places, ("pieces", "data"), ("pieces", "kind")]:
            connection = opened._connection
            ((found, rowid),) = connection.execute(f"SELECT {column}, rowid FROM {table} WHERE number = 1 LIMIT 1")
            for bit in range(8 * len(found)):
                flipped = bytearray(found)
                flipped[bit // 8] ^= 1 << bit % 8
                update = f"UPDATE {table} SET {column} = CAST(? AS {'BLOB' if column == 'data' else 'TEXT'})"
                connection.execute(f"{update} WHERE rowid = ?", (bytes(flipped), rowid))
                rows, bad = opened.scan()
                assert [row.number for row in rows] == [2] and [each.number for each in bad] == [1], (column, bit)
                connection.execute(f"{update} WHERE rowid = ?", (found, rowid))
        assert [row.number for row in opened.scan()[0]] == [1, 2]


@pytest.mark.row("B16")
def test_a_lost_piece_is_found(path: str) -> None:
    with closing(JournalFile.open(path)) as opened:
        opened.write([ACCEPTED])
        opened._connection.execute("DELETE FROM pieces")
        assert opened.scan() == ([], [(1, "job-1", "it has 0 pieces of its 1")])


@pytest.mark.row("B16")
def test_a_row_that_is_set_aside_frees_its_number_and_is_still_there(
    path: str, caplog: pytest.LogCaptureFixture
) -> None:
    with closing(JournalFile.open(path)) as opened:
        opened.write([ACCEPTED, AcceptedNote(2, "job-2", b"{}", b"x")])
        opened._connection.execute("UPDATE jobs SET accepted = '{}' WHERE number = 1")
        assert [row.number for row in opened.read()] == [2]
        assert opened._connection.execute("SELECT job_id, accepted FROM set_aside").fetchall() == [(b"job-1", b"{}")]
        opened.write([ACCEPTED])
        assert [row.number for row in opened.read()] == [1, 2]
    assert [vars(record)["job_id"] for record in caplog.records] == ["job-1"]


@pytest.mark.row("B16")
@pytest.mark.parametrize("suffix", ["", "-wal"])
@pytest.mark.parametrize("replaced", [False, True])
def test_a_file_that_is_removed_or_replaced_takes_nothing_more(
    file: JournalFile, path: str, suffix: str, replaced: bool
) -> None:
    file.write([ACCEPTED])
    Path(path + suffix).unlink()
    if replaced:
        Path(path + suffix).touch()
    with pytest.raises(OSError, match="was removed or replaced while the server had it open"):
        file.write([AcceptedNote(2, "job-2", b"{}", b"x")])
    with pytest.raises(OSError, match="was removed or replaced"):
        file.check()


@pytest.mark.row("B16")
def test_commits_write_over_a_log_that_has_its_length(file: JournalFile, path: str, tmp_path: Path) -> None:
    """Through two rounds of it; a copy at any moment is what a server that is killed leaves."""
    file.make_room()
    log = Path(path + "-wal")
    length, salts = log.stat().st_size, set()
    for number in range(1, 701):
        file.write([AcceptedNote(number, f"job-{number}", b"{}", b"x" * 2000), StartedNote(number, b"{}")])
        assert log.stat().st_size == length
        salts.add(log.read_bytes()[:32])
        if number % 100 == 0:
            copy = str(tmp_path / f"copy-{number}")
            for suffix in ("", "-wal", "-mark"):
                Path(copy + suffix).write_bytes(Path(path + suffix).read_bytes())
            assert len(rows_of(copy)) == number
    assert len(salts) > 1, "it began anew"


@pytest.mark.row("B16")
def test_on_a_disk_that_is_nearly_full_the_log_keeps_its_length(
    file: JournalFile, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = Path(path + "-wal")
    file.write([ACCEPTED])
    length = log.stat().st_size
    full = os.statvfs_result((4096, 4096, 1 << 20, 1000, 1000, 0, 0, 0, 0, 255))
    with monkeypatch.context() as patched:
        patched.setattr(os, "statvfs", lambda _: full)
        file.make_room()
    assert log.stat().st_size == length
    log.unlink()
    file.make_room()
    assert not log.exists(), "nor is another one made"


@pytest.mark.row("B16")
def test_only_its_owner_has_access(path: str, caplog: pytest.LogCaptureFixture) -> None:
    JournalFile.open(path).close()
    assert {each.stat().st_mode & 0o777 for each in Path(path).parent.iterdir()} == {0o600}
    Path(path).chmod(0o644)
    JournalFile.open(path).close()
    assert Path(path).stat().st_mode & 0o777 == 0o600
    assert [(record.getMessage(), vars(record)["path"]) for record in caplog.records] == [("journal_mode_set", path)]


@pytest.mark.row("B16")
def test_another_users_file_is_refused(path: str) -> None:
    JournalFile.open(path).close()
    try:
        os.chown(path, 12345, -1)
    except PermissionError:
        pytest.skip("only root may give a file away")
    assert "belongs to user 12345" in refusal(path)


@pytest.mark.row("B16")
def test_a_journal_that_was_moved_away_leaves_no_mark_behind(path: str) -> None:
    with closing(JournalFile.open(path)) as opened:
        opened.write([ACCEPTED])
    Path(path).rename(f"{path}.old")
    assert rows_of(path) == []


VERSION_1 = (
    "CREATE TABLE jobs (number INTEGER PRIMARY KEY, job_id TEXT NOT NULL UNIQUE,"
    " accepted TEXT NOT NULL, started TEXT, ended TEXT)",
    "CREATE TABLE pieces (number INTEGER NOT NULL, kind TEXT NOT NULL, place INTEGER NOT NULL, data BLOB NOT NULL,"
    " PRIMARY KEY (number, kind, place))",
    "CREATE TABLE checks (count INTEGER NOT NULL)",
    "INSERT INTO checks VALUES (0)",
    f"PRAGMA application_id = {schema.APPLICATION_ID}",
    "PRAGMA user_version = 1",
    """INSERT INTO jobs VALUES (1, 'job-1', '{"n":1}', '{"at":1}', '{"end":1}'), (2, 'job-2', '{"n":2}', NULL, NULL)""",
    "INSERT INTO pieces VALUES (1, 'result', 0, x'3132'), (1, 'events', 0, x''), (2, 'input', 0, x'78')",
)


@pytest.mark.row("B16")
def test_a_journal_without_checksums_gets_them(path: str) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for statement in VERSION_1:
            connection.execute(statement)
    for _ in range(2):
        assert rows_of(path) == [
            JournalRow(1, "job-1", {"n": 1}, {"at": 1}, None, {"end": 1}, {"result": b"12", "events": b""}),
            JournalRow(2, "job-2", {"n": 2}, None, None, None, {"input": b"x"}),
        ]


@pytest.mark.row("B16")
def test_the_log_of_a_journal_that_was_moved_away_is_not_taken_for_that_of_a_new_one(path: str, tmp_path: Path) -> None:
    """SQLite would write it into the new file: the jobs of the old one would run again."""
    with closing(JournalFile.open(path)) as file:
        file.write([ACCEPTED])
        kept = {suffix: Path(path + suffix).read_bytes() for suffix in ("-wal", "-mark")}
    moved = str(tmp_path / "moved")
    Path(path).rename(moved)
    for suffix, content in kept.items():  # as a server leaves them that is killed
        Path(path + suffix).write_bytes(content)
    assert "it is the end of a journal that was moved or removed without it; move it" in refusal(path)
    assert not Path(path).exists() and Path(path + "-wal").read_bytes() == kept["-wal"]
    for suffix in kept:
        Path(path + suffix).rename(moved + suffix)
    assert rows_of(path) == []
    assert [row.job_id for row in rows_of(moved)] == ["job-1"]


@pytest.mark.row("B16")
def test_a_link_is_the_journal_that_it_leads_to(path: str, tmp_path: Path) -> None:
    """Whether that exists or not: what lies beside the file lies there."""
    link, other = tmp_path / "link", str(tmp_path / "elsewhere")
    link.symlink_to(path)
    with closing(JournalFile.open(str(link))) as file:
        file.write([ACCEPTED])
    assert sorted(each.name for each in tmp_path.iterdir()) == ["journal", "journal-mark", "link"]
    assert [row.job_id for row in rows_of(path)] == ["job-1"]
    Path(other).symlink_to(link)
    assert [row.job_id for row in rows_of(other)] == ["job-1"]


def test_the_epoch_of_heads_is_read_unless_it_is_damaged(
    file: JournalFile, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert file.read_epoch() == 0
    for epoch in (5, 1_700_000_000_000, 6):
        file.write([EpochNote(epoch, "a")])
    file.close()
    with closing(JournalFile.open(path)) as again:
        assert again.read_epoch() == 1_700_000_000_000
    assert not caplog.records
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE epochs SET number = 4")
        connection.commit()
    with closing(JournalFile.open(path)) as again:
        assert again.read_epoch() == 0
    assert "journal_epoch_lost" in caplog.text


def test_the_heads_that_had_a_journal_are_kept_each_with_the_last_transaction_that_it_can_have_written(
    path: str,
) -> None:
    """The first one and the newest. One that is not known by when it has ended is left out."""
    ends: dict[str, int] = {}
    for number in range(HEADS_MAX + 10):
        with closing(JournalFile.open(path)) as file:
            assert file.line() == (HeadLine("h0", ends) if number else HeadLine())
            for _ in range(2):  # the second time for a higher epoch
                file.write([EpochNote(number, f"h{number}")])
            ends[f"h{number}"] = file.generation
        if number >= HEADS_MAX:
            ends.pop("h0", None)
            ends.pop(f"h{number - HEADS_MAX}", None)
