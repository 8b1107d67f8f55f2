"""One machine with systemd for all tests that are marked so, and its service for each."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from package_source import copy_package_source
from systemd_machine import JOBS, MACHINE, PREPARE, TOML, UNIT, USER, Machine, booted


@pytest.fixture(scope="session")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    if os.geteuid() != 0 or not Path("/lib/systemd/systemd").exists():
        pytest.skip("it takes root, and a machine with systemd")
    srv = tmp_path_factory.mktemp("srv")
    copy_package_source(srv / "source")
    (srv / "prepare.sh").write_text(PREPARE)
    (srv / "killable.toml").write_text(TOML)
    (srv / "my_jobs.py").write_text(JOBS)
    shutil.copy(UNIT, srv)
    os.chown(srv, USER, USER)
    srv.chmod(0o755)
    subprocess.run(["bash", MACHINE, "prepare", srv], check=True, timeout=600)
    with booted(srv) as one:
        yield one


@pytest.fixture
def service(machine: Machine) -> Iterator[Machine]:
    machine("systemctl", "start", "killable")
    yield machine
    machine("systemctl", "stop", "killable", code=None)
    machine("systemctl", "reset-failed", "killable", code=None)
