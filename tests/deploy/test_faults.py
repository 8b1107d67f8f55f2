"""docs/how-to/trouble.md: what is broken is told where the page says, in these words, under a real systemd."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.waiting import until
from systemd_machine import JOBS, ROOT, TOML, Machine

pytestmark = pytest.mark.systemd
PAGE = (ROOT / "docs" / "how-to" / "trouble.md").read_text("utf-8")
SUPERVISOR = "^killable: supervisor"
OVERRIDE = "/run/systemd/system/killable.service.d/test.conf"


def told(words: str, by: str) -> bool:
    """Return whether what a machine says has these words, which are those of the page."""
    assert words in PAGE, "the page has the sentence"
    return words in by


def killed(machine: Machine, title: str) -> str:
    """SIGKILL the process of this title while a job runs; return the job."""
    job_id = machine.killable("submit", "nap", "-i", "clean_up_s=0", "--detach").split()[0]
    until(lambda: "started" in machine.log(f"JOB_ID={job_id}"), "the job runs")
    machine("pkill", "-KILL", "--oldest", "--full", title)
    until(lambda: "failed" in machine.log(f"JOB_ID={job_id}"), "the job has failed")
    until(lambda: machine.show("ActiveState") == "active", "the server is there, or there again")
    return job_id


@contextmanager
def overridden(machine: Machine, line: str) -> Iterator[None]:
    """Have the service with another line in its unit."""
    write = f"mkdir -p $(dirname {OVERRIDE}); printf '[Service]\n{line}\n' > {OVERRIDE}; systemctl daemon-reload"
    machine("bash", "-c", write)
    try:
        yield
    finally:
        machine("bash", "-c", f"rm {OVERRIDE}; systemctl daemon-reload")


def test_a_worker_that_was_killed_is_told_by_ps_and_explain(service: Machine) -> None:
    job_id = killed(service, "^killable: worker .* nap")
    assert told("killed_externally", service.killable("ps", "-a"))
    assert told("SIGKILL from outside ended its process: this server did not send it", flat(service, job_id))


@pytest.mark.parametrize(
    ("title", "ending"),
    [("^killable: zygote", "signal 9"), ("^killable: guard", "with its guard: signal 9")],
)
def test_a_zygote_or_guard_that_was_killed_is_told_by_log_and_explain(
    title: str, ending: str, service: Machine
) -> None:
    job_id = killed(service, title)
    assert told("worker_lost", service.killable("ps", "-a"))
    assert told("its log says which (`zygote_gone`)", flat(service, job_id))
    until(lambda: f'ending="{ending}"' in service.log("KILLABLE_EVENT=zygote_gone"), "the log")
    assert ending in PAGE


def flat(machine: Machine, job_id: str) -> str:
    """Return a job's story without its line breaks."""
    return re.sub(r"\s+", " ", machine.killable("explain", job_id))


def test_a_server_that_was_killed_is_told_by_the_log_of_the_next(service: Machine) -> None:
    job_id = killed(service, SUPERVISOR)
    assert told("the server died while the job was running", flat(service, job_id))
    assert "lost=1" in service.log("KILLABLE_EVENT=restored")


@contextmanager
def journal_on_a_small_disk(machine: Machine) -> Iterator[None]:
    machine("bash", "-c", "mkdir -p /srv/killable/disk; mount -t tmpfs -o size=12m,uid=987,gid=987 tmpfs $_")
    settings = machine.srv / "killable.toml"
    settings.write_text(TOML.replace("jobs.journal", "disk/jobs.journal"))
    try:
        machine("systemctl", "start", "killable")
        yield
    finally:
        machine("systemctl", "stop", "killable")
        machine("systemctl", "reset-failed", "killable", code=None)
        settings.write_text(TOML)
        machine("umount", "/srv/killable/disk")


def test_a_full_disk_is_told_by_ps_readyz_status_and_metrics(machine: Machine) -> None:
    with journal_on_a_small_disk(machine):
        machine("bash", "-c", "dd if=/dev/zero of=/srv/killable/disk/x bs=64k", code=1)
        assert "journal_failed" in machine("bash", "-c", KILLABLE + "submit nap -i clean_up_s=0 2>&1", code=None)
        told_by_all(machine, "journal: database or disk is full")
        assert "killable_journal_failing 1.0" in machine.killable("metrics", "--text")
        machine("rm", "/srv/killable/disk/x")
        until(lambda: "journal_works" in machine.log("KILLABLE_EVENT=journal_works"), "it works again")


def test_a_server_that_dies_on_a_full_disk_is_back_when_there_is_room(machine: Machine) -> None:
    with journal_on_a_small_disk(machine):
        machine("bash", "-c", "dd if=/dev/zero of=/srv/killable/disk/x bs=4k", code=1)
        machine("systemctl", "kill", "--signal=KILL", "--kill-whom=main", "killable")
        words = "cannot be opened and written: database or disk is full"
        until(lambda: told(words, machine.log("--unit=killable", "--priority=err")), "the next start says why")
        machine("rm", "/srv/killable/disk/x")
        until(lambda: machine.show("ActiveState") == "active", "and one of the next ones succeeds")


@pytest.mark.parametrize(
    ("given_away", "words"),
    [
        pytest.param("jobs.journal", "jobs.journal belongs to user 0, and this server runs as user 987", id="journal"),
        *(
            pytest.param(f"jobs.journal.files/{name}", "the folder of files cannot be used", id=name)
            for name in ("lock", "incoming", "staging", "saved", "about", "about/*", "uploaded", "uploaded/*/*")
        ),
    ],
)
def test_what_was_restored_by_another_user_is_told_by_name_and_stays(
    machine: Machine, given_away: str, words: str
) -> None:
    machine("systemctl", "start", "killable")
    upload = "curl -s --data-binary @/etc/hostname http://127.0.0.1:7833/v1/files | grep -o 'file-[0-9a-f]*'"
    file_id = machine("bash", "-c", upload).strip()
    machine("systemctl", "stop", "killable")
    paths = machine("bash", "-c", f"ls -d /srv/killable/{given_away}").split()
    machine("chown", "root", *paths)
    try:
        machine("systemctl", "start", "killable", code=1)
        status = machine.show("StatusText")
        assert told(words, status) and any(path in status for path in paths)
        assert machine.show("ExecMainStatus") == "78"
    finally:
        machine("chown", "killable", *paths)
        machine("systemctl", "reset-failed", "killable", code=None)
    machine("systemctl", "start", "killable")
    assert machine("curl", "-s", f"http://127.0.0.1:7833/v1/files/{file_id}/content") == machine("cat", "/etc/hostname")
    machine("systemctl", "stop", "killable")


def test_logs_on_a_disk_that_has_become_read_only_are_told(machine: Machine) -> None:
    """Broken as the kernel does it: `errors=remount-ro`, by the file that ext4 has to try that."""
    image, disk, error = machine.srv / "disk.img", "/srv/killable/disk", "/sys/fs/ext4/{}/trigger_fs_error"
    subprocess.run(["truncate", "--size=16M", image], check=True)
    subprocess.run(["mkfs.ext4", "-q", "-E", "root_owner=987:987", image], check=True)
    loop = subprocess.run(["losetup", "--find", "--show", image], check=True, capture_output=True, text=True)
    device = Path(loop.stdout.strip())
    settings = machine.srv / "killable.toml"
    settings.write_text(TOML.replace("drain_s = 5", 'drain_s = 5\naudit_log = "disk/audit.log"'))
    number = device.stat().st_rdev
    node = f"mknod /dev/own b {os.major(number)} {os.minor(number)}; mkdir -p {disk}"
    try:
        machine("bash", "-c", f"{node}; mount -t ext4 -o errors=remount-ro /dev/own {disk}")
        with overridden(machine, f"StandardError=append:{disk}/server.log"):
            machine("systemctl", "start", "killable")
            Path(error.format(device.name)).write_text("1")
            machine("systemctl", "reload", "killable")
            machine("bash", "-c", KILLABLE + "submit nap -i clean_up_s=0 --detach")
            status = lambda: machine.show("StatusText")  # noqa: E731
            until(lambda: told("the log cannot be written: read-only file system", status()), "the log")
            until(lambda: told("audit.log cannot be written: read-only file system", status()), "the audit log")
            machine("systemctl", "stop", "killable")
    finally:
        machine("bash", "-c", f"umount {disk}; rm /dev/own", code=None)
        subprocess.run(["losetup", "--detach", device], check=True)
        settings.write_text(TOML)


KILLABLE = "/srv/killable/.venv/bin/killable "


def told_by_all(machine: Machine, words: str) -> None:
    """Assert that ps, /readyz, the metrics and at last `systemctl status` tell these words of the page."""
    assert told(words, machine("bash", "-c", KILLABLE + "ps 2>&1"))
    assert told(words, machine("bash", "-c", "curl -s http://127.0.0.1:7833/readyz"))
    assert "killable_degraded 0.0" not in machine.killable("metrics", "--text")
    until(lambda: told(words, machine.show("StatusText")), "systemctl status")


@pytest.mark.parametrize(
    ("name", "before", "after", "event", "words"),
    [
        pytest.param(
            *("my_jobs.py", JOBS, JOBS + "import nosuch\n", "reload_failed"),
            "the code from before goes on: pool main: ModuleNotFoundError",
            id="code that does not import",
        ),
        pytest.param(
            *("killable.toml", TOML, TOML.replace("drain_s = 5", "drain_s = 6"), "settings_changed"),
            "the settings stay as they are: a start reads /srv/killable/killable.toml",
            id="settings, which only a start reads",
        ),
    ],
)
def test_what_a_reload_does_not_put_in_force_is_told(
    service: Machine, name: str, before: str, after: str, event: str, words: str
) -> None:
    file = service.srv / name
    file.write_text(after)
    try:
        service("systemctl", "reload", "killable")
        until(lambda: event in service.log(f"KILLABLE_EVENT={event}"), "the log")
        told_by_all(service, words)
    finally:
        file.write_text(before)


def test_code_that_does_not_import_is_told_at_a_start(machine: Machine) -> None:
    file = machine.srv / "my_jobs.py"
    file.write_text(JOBS + "import nosuch\n")
    try:
        machine("systemctl", "start", "killable", code=1)
        assert told("no pool can start a job", machine.show("StatusText"))
        assert machine.show("ExecMainStatus") == "78"
        assert "No module named 'nosuch'" in machine.log("--unit=killable", "--priority=err")
    finally:
        file.write_text(JOBS)
        machine("systemctl", "reset-failed", "killable")


def test_keys_that_are_gone_are_told(machine: Machine) -> None:
    keys = machine.srv / "keys"
    settings = machine.srv / "killable.toml"
    settings.write_text(TOML.replace("drain_s = 5", 'drain_s = 5\napi_keys_file = "keys"'))
    (secret,) = machine.killable("keys", "make", "oncall", "--role", "operate", "--file", "/srv/killable/keys").split()
    try:
        machine("systemctl", "start", "killable")
        keys.rename(machine.srv / "keys.away")
        machine("systemctl", "reload", "killable")
        assert told(
            "the keys stay as they are: API keys in",
            machine("bash", "-c", f"KILLABLE_API_KEY={secret} {KILLABLE}ps 2>&1"),
        )
        until(lambda: told("the keys stay as they are: API keys in", machine.show("StatusText")), "systemctl status")
        (machine.srv / "keys.away").rename(keys)
        machine("systemctl", "reload", "killable")
        until(lambda: "degraded" not in machine.show("StatusText"), "and no more when they are there")
    finally:
        machine("systemctl", "stop", "killable")
        settings.write_text(TOML)


def test_too_few_descriptors_are_told(machine: Machine) -> None:
    with overridden(machine, "LimitNOFILE=24"):
        machine("systemctl", "start", "killable")
        until(
            lambda: told("pool main is broken: a worker cannot be started: [Errno 24]", machine.show("StatusText")),
            "it",
        )
        assert told("connections_max_lowered", machine.log("KILLABLE_EVENT=connections_max_lowered"))
        machine("systemctl", "stop", "killable")


def test_a_unit_without_delegation_is_told_by_the_log_of_the_start(machine: Machine) -> None:
    with overridden(machine, "Delegate=no\\nDelegateSubgroup="):
        machine("systemctl", "start", "killable")
        assert told("no writable cgroup", machine.log("--unit=killable", f"_PID={machine.show('MainPID')}"))
        machine("systemctl", "stop", "killable")


def test_groups_that_are_taken_away_are_told_with_the_reason(service: Machine) -> None:
    service("chown", "-R", "root", "/sys/fs/cgroup/system.slice/killable.service")
    service("pkill", "-KILL", "--full", "^killable: worker")
    words = "pool main is broken: a worker cannot be started: [Errno 13] Permission denied"
    until(lambda: words in service("bash", "-c", "curl -s http://127.0.0.1:7833/readyz"), "/readyz", timeout_s=90)
    told_by_all(service, words)


def test_a_folder_that_the_unit_does_not_let_it_write_is_told(machine: Machine) -> None:
    with overridden(machine, "ReadWritePaths=\\nRestart=no"):
        machine("systemctl", "start", "killable", code=1)
        words = "the journal /srv/killable/jobs.journal cannot be opened and written: Read-only file system"
        assert told(words, machine.show("StatusText"))
        assert machine.show("ExecMainStatus") == "78"
        machine("systemctl", "reset-failed", "killable")


def test_starts_by_hand_count_until_they_are_forgotten(machine: Machine) -> None:
    machine("systemctl", "reset-failed", "killable", code=None)
    for _ in range(5):
        machine("systemctl", "restart", "killable")
    machine("systemctl", "restart", "killable", code=1)
    assert told("start-limit-hit", machine.show("Result"))
    assert told("systemctl reset-failed killable", "systemctl reset-failed killable")
    machine("systemctl", "reset-failed", "killable")
    machine("systemctl", "start", "killable")
    machine("systemctl", "stop", "killable")
