"""docs/how-to/logging.md: by the page's lines logrotate moves the audit log away, and no record is lost."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import httpx
import pytest
from support.killable_command import Command, Server

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "logging.md"
LOGROTATE = shutil.which("logrotate", path="/usr/sbin:/usr/bin")


@pytest.mark.skipif(LOGROTATE is None, reason="logrotate is not installed")
def test_logrotate_moves_the_audit_log_away_and_none_is_lost(tmp_path: Path) -> None:
    found = re.search(r"  # /etc/logrotate.d/killable\n.*?(?=  ```)", PAGE.read_text("utf-8"), re.S)
    assert found is not None
    lines = [line for line in found[0].splitlines() if " su " not in line]  # that user is of the unit
    rules = tmp_path / "rules"
    rules.write_text("\n".join(lines).replace("/srv/killable", str(tmp_path)) + "\n")
    rules.chmod(0o644)
    (tmp_path / "my_jobs.py").write_text("from killable import job\n\n\n@job\ndef none() -> None: ...\n")
    (tmp_path / "killable.toml").write_text(
        '[server]\nport = 0\naudit_log = "audit.log"\n[pools.main]\nmodule = "./my_jobs.py"\n'
    )
    server = Server(Command(tmp_path))
    try:
        for number in range(4):
            if number == 2:
                rotate = [str(LOGROTATE), "--force", "--state", str(tmp_path / "state"), str(rules)]
                subprocess.run(rotate, check=True, capture_output=True, timeout=60)
            httpx.post(f"{server.url}/v1/jobs", json={"type": f"none-{number}"})
    finally:
        server.stop()
    moved, now = ((tmp_path / name).read_text().splitlines() for name in ("audit.log.1", "audit.log"))
    assert moved and now, "a record is written a moment after its answer: those at the rotation may be in either"
    assert [json.loads(line)["number"] for line in moved + now] == list(range(1, len(moved) + len(now) + 1))
