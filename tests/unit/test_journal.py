"""What a journal owes while the disk is full."""

from __future__ import annotations

import pytest

from killable.supervisor.journal import Journal
from killable.supervisor.journalfile import Dropped, Started


@pytest.mark.row("B16")
def test_a_job_that_is_dropped_takes_along_what_is_owed_of_it() -> None:
    journal = Journal("")
    journal._owe([Started(1, b"{}"), Started(2, b"{}")])
    journal._owe([Dropped(1)])
    assert journal._owed == [Started(2, b"{}"), Dropped(1)]
