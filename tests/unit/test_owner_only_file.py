from __future__ import annotations

import os
from pathlib import Path

import pytest

from killable.api.http.owner_only_file import FILE_BYTES_MAX, lines_of
from killable.api.webhooks.secrets_file import SecretsInvalid, read_secrets

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "secrets"
    path.write_text(f"* {SECRET}\n")
    path.chmod(0o600)
    return path


def test_its_lines_are_read_by_its_owner(path: Path) -> None:
    assert lines_of(path) == [f"* {SECRET}"]
    assert list(read_secrets(str(path), ())) == ["*"]


@pytest.mark.parametrize("mode", [0o640, 0o602])
def test_one_that_others_can_read_or_write_is_refused(path: Path, mode: int) -> None:
    path.chmod(mode)
    with pytest.raises(ValueError, match=f"other users can read or write it \\(mode {mode:04o}\\): chmod 600 {path}"):
        lines_of(path)


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"a" * (FILE_BYTES_MAX + 1), f"it is longer than {FILE_BYTES_MAX} bytes"),
        (b"fine\n# caf\xc3\xa9\n", "line 2 has a character that is not ASCII"),
    ],
    ids=["too long", "not ASCII"],
)
def test_one_that_is_no_such_text_is_refused(path: Path, content: bytes, fault: str) -> None:
    path.write_bytes(content)
    with pytest.raises(ValueError, match=fault):
        lines_of(path)


def test_one_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="it cannot be read: no such file or directory"):
        lines_of(tmp_path / "none")


def test_secrets_of_webhooks_are_refused_as_keys_are(path: Path) -> None:
    path.unlink()
    os.mkfifo(path, 0o600)
    with pytest.raises(SecretsInvalid, match=f"webhook secrets in {path}: it is not a regular file"):
        read_secrets(str(path), ())
