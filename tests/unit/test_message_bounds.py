"""What a worker's messages may be: all that one can write, and nothing that holds up the loop that decodes it."""

from __future__ import annotations

import base64

import pytest

from killable.workers.protocol import message_bounds as bounds
from killable.workers.protocol.file_names import CONTENT_TYPE_CHARS_MAX, NAME_BYTES_MAX
from killable.workers.protocol.messages import (
    BYTES_MAX_OF_KINDS,
    Broken,
    Idle,
    Kind,
    OperationEntered,
    Raised,
    SavedFile,
)

WIDE = "\N{GRINNING FACE}"
"""12 bytes in JSON of ASCII."""
FAULT = {"pointer": WIDE * bounds.FAULT_CHARS_MAX, "message": WIDE * bounds.FAULT_CHARS_MAX}
EXCEPTION = base64.b64encode(b"x" * bounds.INLINE_BYTES_MAX).decode()
MESSAGE, TRACEBACK = WIDE * bounds.EXCEPTION_CHARS_MAX, WIDE * bounds.TRACEBACK_CHARS_MAX
LARGEST = [
    (Kind.RAISED, Raised("payload", MESSAGE, MESSAGE, faults=[FAULT] * bounds.FAULTS_MAX)),
    (Kind.RAISED, Raised("exception", MESSAGE, MESSAGE, TRACEBACK, pickled=EXCEPTION, after_s=0.1)),
    (Kind.RAISED, Raised("exception", '\\"', traceback='[{",\\' * (bounds.TRACEBACK_CHARS_MAX // 5))),
    (Kind.BROKEN, Broken(WIDE * bounds.WHY_CHARS_MAX)),
    (Kind.OPERATION, OperationEntered(1, "/".join(["n" * 64] * bounds.OPERATIONS_MAX), 1e300, True, 99)),
    (Kind.IDLE, Idle(False, WIDE * 1000)),
    (Kind.FILE, SavedFile(1, "\u00e4" * (NAME_BYTES_MAX // 2), "a/" + "b" * (CONTENT_TYPE_CHARS_MAX - 2))),
]


@pytest.mark.parametrize(("kind", "message"), LARGEST, ids=lambda value: type(value).__name__)
def test_the_largest_that_a_worker_writes_is_read(kind: Kind, message: Raised) -> None:
    payload = message.encode()
    assert len(payload) <= BYTES_MAX_OF_KINDS[kind]
    assert type(message).decode(payload).encode() == payload


@pytest.mark.parametrize("many", [b"[]", b"0", b'""', b"{}"])
def test_a_large_message_of_many_members_is_not_decoded(many: bytes) -> None:
    with pytest.raises(ValueError, match="too many members"):
        Raised.decode(b'{"cause":"exception","faults":[%s]}' % b",".join([many] * 10_000))
    with pytest.raises(ValueError, match="too many members"):
        Broken.decode(b'{"why":[%s]}' % b",".join([many] * 10_000))


def test_what_is_longer_than_a_message_may_be_is_cut() -> None:
    assert len(Raised("exception", WIDE * (1 << 20)).encode()) <= BYTES_MAX_OF_KINDS[Kind.RAISED]
    assert len(Idle(False, WIDE * (1 << 20)).encode()) <= BYTES_MAX_OF_KINDS[Kind.IDLE]
