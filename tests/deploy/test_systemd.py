"""contrib/systemd: the unit is one that systemd takes, shuts jobs in, and under which a server does what the page says.

Those marked `systemd` boot the machine's own systemd in namespaces of its own (`machine.sh`). `test_faults.py` breaks
what runs there.
"""

from __future__ import annotations

import configparser
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support.waiting import until
from systemd_machine import PREPARE, ROOT, TOML, UNIT, Machine

INSTALLED = "/etc/systemd/system/killable.service"
EXPOSURE_MAX = 2.0
"""`systemd-analyze security` calls 0 safe and 10 unsafe; most units of Debian are above 9."""


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("this machine has no systemd-analyze")
    return subprocess.run([program, *arguments], capture_output=True, text=True, timeout=60, check=False)


def test_the_unit_of_the_page_is_the_one_that_is_delivered() -> None:
    assert UNIT.read_text().startswith(f"# {INSTALLED}\n")
    assert f"```ini\n{UNIT.read_text()}```" in (ROOT / "docs/how-to/systemd.md").read_text()


def test_the_environment_is_of_an_interpreter_that_the_unit_does_not_hide() -> None:
    """`python3` may be one below /root or /home: `ProtectHome`, and the service's user, have no such file."""
    makes = "/usr/bin/python3 -m venv /srv/killable/.venv"
    assert makes in PREPARE and f"sudo {makes}\n" in (ROOT / "docs/how-to/systemd.md").read_text()


def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    program = tmp_path / "srv" / ".venv" / "bin" / "killable"
    program.parent.mkdir(parents=True)
    program.symlink_to(sys.executable)
    file = tmp_path / "killable.service"
    file.write_text(UNIT.read_text().replace("/srv/killable", str(tmp_path / "srv")))
    read = configparser.ConfigParser(interpolation=None)
    read.optionxform = str  # type: ignore[assignment,method-assign]
    read.read(file)
    service = dict(read["Service"])
    assert (service["Type"], service["KillMode"], service["Restart"]) == ("notify-reload", "mixed", "on-failure")
    assert (service["Delegate"], service["DelegateSubgroup"]) == ("yes", "server") and int(service["WatchdogSec"]) > 1
    done = analyze("--man=no", "verify", str(file))
    said = [line for line in done.stderr.splitlines() if "killable.service" in line]
    assert (done.returncode, said) == (0, []), done.stderr


def test_systemd_calls_the_unit_safe() -> None:
    done = analyze("security", "--offline=yes", f"--threshold={EXPOSURE_MAX * 10:.0f}", "--no-pager", str(UNIT))
    assert done.returncode == 0, done.stdout[-2000:]


# ── under a real systemd ──


def begun(machine: Machine, clean_up_s: int) -> str:
    job_id = machine.killable("submit", "nap", "-i", f"clean_up_s={clean_up_s}", "--detach").split()[0]
    until(lambda: "started" in machine.log(f"JOB_ID={job_id}"), "the job runs, and the journal says so by its id")
    return job_id


@pytest.mark.systemd
def test_workers_have_groups_beside_the_server_s_and_records_their_fields(service: Machine) -> None:
    job_id = begun(service, 0)
    tree = service("systemd-cgls", "--no-pager", "--unit", "killable.service")
    assert "server" in tree and "killable-" in tree and "w-1" in tree
    assert service.show("StatusText").startswith("listening on http://127.0.0.1:7833")
    until(lambda: "1 job: 1 running" in service.show("StatusText"), "the status counts")
    service.killable("kill", job_id)
    assert "cancelled" in service.log(f"JOB_ID={job_id}", "KILLABLE_CODE=cancelled")
    service("systemctl", "reload", "killable")
    until(
        lambda: "pools_reloaded" in service.log("KILLABLE_EVENT=pools_reloaded"), "the record of it is in the journal"
    )


@pytest.mark.systemd
def test_a_server_that_is_killed_is_back_and_knows_what_it_had(service: Machine) -> None:
    job_id = begun(service, 0)
    service("systemctl", "kill", "--signal=KILL", "--kill-whom=main", "killable")
    until(lambda: "supervisor_lost" in service.log(f"JOB_ID={job_id}"), "the next server tells what became of it")
    assert service.show("NRestarts") == "1"


@pytest.mark.systemd
def test_a_loop_that_stands_still_is_ended_by_the_watchdog(service: Machine) -> None:
    job_id = begun(service, 0)
    main = int(service.show("MainPID"))
    service("kill", f"-{signal.SIGSTOP:d}", str(main))
    until(lambda: service.show("MainPID") not in ("0", str(main)) and service.show("ActiveState") == "active",
        "another one runs", timeout_s=120)  # fmt: skip
    assert "Fatal Python error: Aborted" in service.log("--unit=killable")
    assert "supervisor_lost" in service.log(f"JOB_ID={job_id}")


@pytest.mark.systemd
def test_a_stop_waits_for_a_clean_up_longer_than_the_unit_says(service: Machine) -> None:
    job_id = begun(service, 32)  # TimeoutStopSec is 30
    service("systemctl", "stop", "killable")
    assert service.show("Result") == "success"
    assert "kill_sent" not in service.log(f"JOB_ID={job_id}") and "cancelled" in service.log(f"JOB_ID={job_id}")


@pytest.mark.systemd
def test_a_fault_in_the_configuration_is_told_in_status_and_log_and_not_tried_again(machine: Machine) -> None:
    file = machine.srv / "killable.toml"
    file.write_text(TOML.replace("drain_s = 5", 'drain_s = "soon"'))
    machine("systemctl", "start", "killable", code=1)
    file.write_text(TOML)
    assert (machine.show("ExecMainStatus"), machine.show("ActiveState")) == ("78", "failed")
    assert "server.drain_s" in machine.show("StatusText")
    assert "server.drain_s" in machine.log("--unit=killable", "--priority=err")
    machine("systemctl", "reset-failed", "killable")
