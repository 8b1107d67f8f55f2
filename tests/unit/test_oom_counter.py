"""Whom the out-of-memory killer struck: all workers share one count of its victims."""

from __future__ import annotations

from pathlib import Path

import pytest

from killable.supervisor.linux.oom_counter import OomCounter


@pytest.mark.row("B4")
def test_a_victim_is_one_workers_only(tmp_path: Path) -> None:
    """One that is killed by a stranger while another's death is in the count was no victim."""
    file = tmp_path / "memory.oom_control"
    file.write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 3\n")
    counter = OomCounter(file)
    before = counter.read()
    assert counter.evidence(before, claims=True) == "no"
    file.write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 4\n")
    assert counter.evidence(before, claims=False) == "yes", "it ended otherwise: the victim may be another"
    assert counter.evidence(before, claims=True) == "yes"
    assert counter.evidence(before, claims=True) == "no"
    file.write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 5\n")
    assert counter.evidence(before, claims=True) == "yes"
    assert counter.evidence(counter.read(), claims=True) == "no"
    counter.close()


@pytest.mark.row("B4")
def test_what_is_not_counted_is_not_known(tmp_path: Path) -> None:
    assert OomCounter(tmp_path / "none").evidence(b"", claims=True) == "unknown"
    counter = OomCounter(tmp_path / "none")
    assert counter.evidence(b"oom_kill 3", claims=True) == "unknown" and counter.read() == b""
    counter.close()
    (tmp_path / "some").write_text("oom_kill 3")
    counter = OomCounter(tmp_path / "some")
    assert counter.evidence(b"", claims=True) == "unknown"
    counter.close()
