"""The file of API keys, and the comparison with what a request presents."""

from __future__ import annotations

from pathlib import Path

import pytest

from killable.api.http.api_keys import ApiKey, KeyRing
from killable.api.http.key_file import KeysInvalid, read_keys
from killable.api.http.stream_tickets import Tickets

ONE, TWO = "0123456789abcdef", "fedcba9876543210"


def write(tmp_path: Path, text: str | bytes, mode: int = 0o600) -> Path:
    path = tmp_path / "keys"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    path.chmod(mode)
    return path


@pytest.mark.row("A25")
def test_a_file_of_keys(tmp_path: Path) -> None:
    path = write(tmp_path, f"# who may what\n\ndashboard submit {ONE}\n  on.call-1\toperate   {TWO}  \r\n# end")
    assert read_keys(path) == (ApiKey("dashboard", "submit", ONE), ApiKey("on.call-1", "operate", TWO))
    assert ONE not in repr(read_keys(path))


@pytest.mark.row("A25")
def test_every_fault_is_told_and_no_key_is_repeated(tmp_path: Path) -> None:
    secret = "s3cret-s3cret-s3cret"
    lines = [
        f"a submit {secret}",
        f"b {secret}",
        f"c submit {secret} x",
        f"d admin {TWO}",
        "e submit s3cret",
        f"a operate {ONE}",
        f"f operate {secret}",
        f"g/h submit {TWO}",
        f"i submit {TWO * 20}",
    ]
    with pytest.raises(KeysInvalid) as raised:
        read_keys(write(tmp_path, "\n".join(lines)))
    assert [fault.split(",")[0] for fault in raised.value.faults] == [
        "line 2 has 2 words",
        "line 3 has more after its key than created=",
        "line 4 has an unknown role",
        "line 5 has a key of 6 characters",
        "line 6 repeats the name of line 1",
        "line 7 repeats the key of line 1",
        "line 8 has a name with characters other than A-Z a-z 0-9 _ . - (64 at most)",
        "line 9 has a key of 320 characters",
    ]
    assert all(fault in raised.value.message for fault in raised.value.faults)
    assert "s3cret" not in raised.value.message and raised.value.exit_code == 78


@pytest.mark.row("A25")
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o602, 0o660, 0o601])
def test_a_file_that_others_can_reach_is_refused(tmp_path: Path, mode: int) -> None:
    path = write(tmp_path, f"a submit {ONE}\n", mode)
    with pytest.raises(KeysInvalid, match=f"chmod 600 {path}"):
        read_keys(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "it contains no key; a line is NAME ROLE KEY"),
        ("# a submit x\n", "it contains no key"),
        ("# fine\nä submit x".encode(), "line 2 has a character that is not ASCII"),
        ("#" * (1 << 20) + "\n", "longer than 1048576 bytes"),
    ],
)
def test_a_file_without_keys(tmp_path: Path, text: str | bytes, message: str) -> None:
    with pytest.raises(KeysInvalid, match=message):
        read_keys(write(tmp_path, text))


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(KeysInvalid, match="cannot be read: no such file"):
        read_keys(tmp_path / "none")
    with pytest.raises(KeysInvalid, match="cannot be read: is a directory"):
        read_keys(tmp_path)


@pytest.mark.row("A25")
def test_a_key_is_found_by_the_whole_of_it() -> None:
    keys = (ApiKey("a", "submit", ONE), ApiKey("b", "operate", TWO))
    ring = KeyRing(keys)
    assert [str(ring.find(key.key.encode())) for key in keys] == ["<ApiKey a submit>", "<ApiKey b operate>"]
    for other in ("", ONE[:-1], ONE + "0", ONE.upper(), f"{ONE} ", "a"):
        assert ring.find(other.encode()) is None


@pytest.mark.row("A25")
def test_a_ticket_opens_one_job_of_one_server() -> None:
    tickets = Tickets()
    ticket = tickets.issue("job-1")
    assert tickets.reader("job-1", ticket) == "client" and tickets.issue("job-1") == ticket
    assert tickets.reader("job-1", tickets.issue("job-1", "watcher")) == "watcher"
    assert not any(tickets.reader("job-1", other) for other in ("", ticket[:-1], ticket + "0", "ä", "\ud800"))
    assert not tickets.reader("job-2", ticket) and not Tickets().reader("job-1", ticket)
