"""The file of API keys as `killable keys` writes it, and who may own it."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest

from killable.api.http.api_keys import ApiKey, KeyRing, digest_of
from killable.api.http.key_file import KeysInvalid, make_key, read_keys, revoke_key

NOW = 1_796_025_600.9  # 2026-11-30T08:00:00Z
CLEAR = "0123456789abcdef"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys"


def make(path: Path, name: str = "ci") -> str:
    return make_key(path, name, "submit", visibility="own", lasts_s=30 * 86400, now=NOW)[1]


@pytest.mark.row("A25")
def test_the_file_has_the_digest_of_a_key_and_never_the_key(path: Path) -> None:
    secret = make(path)
    text = path.read_text()
    assert secret.startswith("killable_") and len(secret) >= 52 and secret not in text
    assert f"ci submit sha256:{digest_of(secret.encode())} created=2026-11-30T08:00:00Z" in text
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    (key,) = read_keys(path)
    assert (key.name, key.role, key.visibility, key.key) == ("ci", "submit", "own", "")
    assert key.expires == "2026-12-30T08:00:00Z" and not key.is_clear
    assert not key.has_expired(NOW + 30 * 86400 - 2) and key.has_expired(NOW + 30 * 86400)
    assert str(KeyRing([key]).find(secret.encode())) == "<ApiKey ci submit>"
    assert KeyRing([key]).find(f"sha256:{key.sha256}".encode()) is None, "the digest opens nothing"
    assert make(path, "other") != secret


@pytest.mark.row("A25")
def test_lines_that_are_there_stay_as_they_are(path: Path) -> None:
    path.write_text(f"# by hand\n\n  old   operate {CLEAR}\n# end\n")
    path.chmod(0o600)
    secret = make(path)
    assert path.read_text().startswith(f"# by hand\n\n  old   operate {CLEAR}\n# end\nci submit sha256:")
    assert revoke_key(path, "ci").sha256 == digest_of(secret.encode())
    assert path.read_text() == f"# by hand\n\n  old   operate {CLEAR}\n# end\n"
    assert revoke_key(path, "old") == ApiKey("old", "operate", CLEAR)
    assert read_keys(path, may_be_empty=True) == ()
    with pytest.raises(KeysInvalid, match="it contains no key"):
        read_keys(path)


@pytest.mark.row("A25")
def test_what_cannot_be_written_leaves_the_file_alone(path: Path) -> None:
    make(path)
    before, files = path.read_bytes(), os.listdir(path.parent)
    for fault, name in (
        ("there is a key named ci", "ci"),
        ("a name has 1 to 64 characters", "a b"),
        ("without a key", "default"),
    ):
        with pytest.raises(KeysInvalid, match=fault):
            make(path, name)
    with pytest.raises(KeysInvalid, match="there is no key named none"):
        revoke_key(path, "none")
    with pytest.raises(KeysInvalid, match="cannot be written: no such file"):
        make(path.parent / "no" / "keys")
    with pytest.raises(KeysInvalid, match="cannot be read: no such file"):
        revoke_key(path.parent / "none", "ci")
    assert path.read_bytes() == before and os.listdir(path.parent) == files
    path.write_text("ci\n")
    with pytest.raises(KeysInvalid, match="line 1 has 1 words"):
        make(path, "other")
    assert path.read_text() == "ci\n"


def test_a_link_stays_a_link(path: Path) -> None:
    real = path.parent / "real"
    make(real)
    path.symlink_to("real")
    make(path, "other")
    assert path.is_symlink() and [key.name for key in read_keys(real)] == ["ci", "other"]


def test_of_two_that_write_at_once_none_is_lost(path: Path) -> None:
    threads = [threading.Thread(target=make, args=(path, f"key-{number}")) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(key.name for key in read_keys(path)) == [f"key-{number}" for number in range(8)]


@pytest.mark.row("A25")
@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_the_file_of_another_owner_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(path)
    os.chown(path, 65534, 65534)
    with pytest.raises(
        KeysInvalid,
        match=r"this is user 0: run this as that user \(sudo -u '#\d+'\), or, if the server is root's, chown 0",
    ):
        read_keys(path)
    monkeypatch.setattr(os, "geteuid", lambda: 65534)
    assert [key.name for key in read_keys(path)] == ["ci"]
    os.chown(path, 0, 0)
    assert [key.name for key in read_keys(path)] == ["ci"], "root's"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root rewrites what belongs to others")
def test_root_looks_after_the_keys_of_a_service_whose_they_stay(path: Path) -> None:
    os.chown(path.parent, 65534, 65533)
    for change in (lambda: make(path), lambda: make(path, "other"), lambda: revoke_key(path, "other")):
        change()
        found = path.stat()
        assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (65534, 65533, 0o600)
    assert [key.name for key in read_keys(path, of_any_owner=True)] == ["ci"]


@pytest.mark.row("A25")
@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("a read sha256:00", "has a digest that is not sha256: and 64 hexadecimal digits"),
        (f"a read {CLEAR} expires=tomorrow", "has a time in expires= that is not like"),
        (f"a read {CLEAR} expires=2026-11-30T08:00:00", "has a time in expires= that is not like"),
        (f"a read {CLEAR} visibility=some", "has an unknown visibility, expected all or own"),
        (f"a read {CLEAR} visibility=own visibility=all", "says something twice after the key"),
        (f"a read {CLEAR} s3cret", "has more after its key than created=, expires= and visibility="),
    ],
)
def test_faults_of_what_stands_behind_a_key(path: Path, line: str, fault: str) -> None:
    path.write_text(f"{line}\n")
    path.chmod(0o600)
    with pytest.raises(KeysInvalid, match=f"line 1 {fault}") as caught:
        read_keys(path)
    assert "s3cret" not in caught.value.message


def test_a_pipe_without_a_writer_is_refused_at_once(path: Path) -> None:
    os.mkfifo(path, 0o600)
    with pytest.raises(KeysInvalid, match="it is not a regular file"):
        read_keys(path)


@pytest.mark.row("A25")
def test_what_a_ring_says_of_keys_that_come_and_go() -> None:
    ring = KeyRing([ApiKey("a", "read", "a" * 16), ApiKey("b", "read", "b" * 16)], "own")
    assert ring.replace([ApiKey("b", "read", "c" * 16), ApiKey("a", "operate", "a" * 16)]) == (["b"], ["b"])
    assert ring.find(b"b" * 16) is None
    seen = {str(key): key.visibility for key in (ring.find(b"a" * 16), ring.find(b"c" * 16)) if key}
    assert seen == {"<ApiKey a operate>": "all", "<ApiKey b read>": "own"}
