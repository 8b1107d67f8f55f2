"""`killable check` and `killable config`: what is in force, what is wrong, and nothing left running."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
from support.killable_command import COMMAND, Command

from killable.workers.runtime.sandbox import why_no_network_rule

pytestmark = pytest.mark.row("G11")

JOBS = """
from killable import job, preload


@preload
def words():
    return ["a"]


@job(run_s=60, grace_s=2)
def split(text: str) -> int:
    return len(text.split())


@job
def spin() -> None: ...
"""
FILE = """\
[server]
port = 0
[caps]
memory_bytes = "1GiB"
[pools.good]
module = "./my_jobs.py"
env = { HF_TOKEN = "hf_precious" }
[jobs.split.limits]
grace_s = 3
"""


@pytest.fixture
def command(tmp_path: Path) -> Command:
    (tmp_path / "my_jobs.py").write_text(JOBS)
    (tmp_path / "killable.toml").write_text(FILE)
    return Command(tmp_path)


def run(command: Command, *args: str, **options: Any) -> tuple[subprocess.CompletedProcess[str], list[psutil.Process]]:
    """Run the command, and return what of it is still there: this process adopts no orphans, so look for its folder."""
    done = command.run(*args, **options)
    return done, [process for process in psutil.process_iter() if is_in(process, command.folder)]


def is_in(process: psutil.Process, folder: Path) -> bool:
    try:
        return process.cwd() == str(folder)
    except psutil.Error:
        return False


# ── check ──


def test_what_is_right_is_a_table_and_0_and_leaves_nothing(command: Command) -> None:
    done, left = run(command, "check")
    assert (done.returncode, left) == (0, []), done.stderr
    pools, types = done.stdout.split("\n\n")
    assert pools.splitlines()[1].split()[:2] == ["good", "ready"]
    rows = {line.split()[0]: " ".join(line.split()) for line in types.splitlines()}
    assert rows["split"] == "split good 5m 1m 1m 3 s 0.5 s 1.0 GiB 64 MiB"
    assert rows["spin"].startswith("spin good 5m 1m 10m 5 s")
    assert done.stderr.splitlines()[-1] == "ok: 1 pool, 2 job types; `killable serve` can start"
    named, _ = run(command, "check", "my_jobs.py")
    assert named.stderr.splitlines()[-1].endswith("`killable serve my_jobs.py` can start")


WITHOUT_LANDLOCK = """
import sys
from killable.workers.runtime import landlock, process_setup, seccomp
process_setup.forbid_new_privileges()
seccomp.install([landlock.CREATE_RULESET])
from killable.api.cli import main
sys.exit(main())
"""


@pytest.mark.skipif(bool(why_no_network_rule()), reason=why_no_network_rule())
def test_a_sandbox_is_shown_and_refused_where_the_kernel_has_none(command: Command) -> None:
    """A filter of seccomp makes this kernel one without Landlock."""
    with (command.folder / "killable.toml").open("a") as file:
        file.write("[pools.good.sandbox]\nwrite = []\nnetwork = false\n")
    shown, _ = run(command, "check")
    assert "sandbox good: no network; writes nothing" in shown.stderr, shown.stderr
    without = Command(command.folder, program=[sys.executable, "-c", WITHOUT_LANDLOCK])
    done, left = run(without, "check")
    assert (done.returncode, left) == (78, [])
    said = " ".join(done.stderr.split())
    assert "pools.good.sandbox.write: expected no list, or a machine that can keep it; found the kernel has no" in said
    assert "pools.good.sandbox.network:" not in said
    told, _ = run(without, "doctor")
    assert "sandbox files warn" in " ".join(told.stdout.split()), told.stdout


def test_everything_that_is_wrong_is_said_at_once(command: Command) -> None:
    folder = command.folder
    (folder / "missing.py").write_text("import no_such_package\n")
    (folder / "declared.py").write_text("from killable import job\n\n@job\nasync def f() -> None: ...\n")
    (folder / "preloads.py").write_text(
        "from killable import job, preload\n\n@preload(each_worker=True)\ndef model():\n"
        "    raise OSError('no weights')\n\n@job\ndef g() -> None: ...\n"
    )
    (folder / "lacks.py").write_text(
        "from killable import job\n\n@job(requires={'no_such': 'pip install no-such'})\ndef h() -> None: ...\n"
    )
    text = "[server]\nprot = 1\n[limits]\nrun_s = '2h'\n[caps]\nrun_s = '1h'\n[pools.good]\nmodule = './my_jobs.py'\n"
    for name in ("missing", "declared", "preloads", "lacks"):
        text += f"[pools.{name}]\nmodule = './{name}.py'\n"
    text += "[pools.twice]\nmodule = './my_jobs.py'\n"
    text += "[jobs.f.limits]\nrun_s = 1\n"  # it may well be in a pool that is broken
    (folder / "killable.toml").write_text(text)
    done, left = run(command, "check", "--json", env={"KILLABLE_API_KEY": "short"})
    document = json.loads(done.stdout)
    assert (done.returncode, left, document["ok"]) == (78, [], False)
    found: dict[str, list[str]] = {}
    for fault in document["faults"]:
        found.setdefault(fault["key"], []).append(f"{fault['expected']}; {fault['found']} ({fault['source']})")
    assert set(found) == {
        "server.prot", "limits.run_s", "KILLABLE_API_KEY", "pools.missing", "pools.declared", "pools.preloads",
        "pools.twice", "h",
    }  # fmt: skip
    assert "ModuleNotFoundError: No module named 'no_such_package' (killable.toml:10)" in found["pools.missing"][0]
    assert "async def" in found["pools.declared"][0]
    assert "no weights" in found["pools.preloads"][0]
    assert len(found["pools.twice"]) == 2 and "split" in str(found["pools.twice"]) and "good" in found["pools.twice"][0]
    assert "pip install no-such" in found["h"][0]
    details = {pool["name"]: pool["detail"] for pool in document["pools"]}
    assert "Traceback" in details["missing"] and "missing.py" in details["missing"]
    for_people, _ = run(command, "check")
    assert for_people.returncode == 78
    assert "Traceback" in for_people.stderr and "8 faults:" in for_people.stderr


@pytest.mark.row("C4")
def test_only_a_cap_of_the_operator_lowers_a_decorator_and_says_so(command: Command) -> None:
    (command.folder / "my_jobs.py").write_text(JOBS.replace("run_s=60", "run_s=90000"))
    done, _ = run(command, "check")
    assert done.returncode == 0 and "note" not in done.stderr
    rows = {line.split()[0]: " ".join(line.split()) for line in done.stdout.splitlines() if line}
    assert rows["split"].startswith("split good 5m 1m 25h")
    (command.folder / "killable.toml").write_text(FILE + "[jobs.split.caps]\nrun_s = '2h'\n")
    done, _ = run(command, "check")
    assert done.returncode == 0 and "split note: jobs.split.caps.run_s lowers its run_s to 2h" in done.stderr


def test_settings_for_job_types_that_there_are_not(command: Command) -> None:
    (command.folder / "killable.toml").write_text(FILE + "[jobs.spilt.limits]\nrun_s = 1\n")
    done, _ = run(command, "check")
    assert done.returncode == 78
    assert "jobs.spilt: there is no such job type (there are spin, split) (killable.toml:11)" in done.stderr


def test_a_command_with_a_fault_is_the_only_fault(command: Command) -> None:
    """Its pool has no module that could have forgotten a job."""
    (command.folder / "killable.toml").write_text("[commands.bad]\nargv = []\n")
    done, _ = run(command, "check")
    assert done.returncode == 78
    assert "1 fault:\n  commands.bad.argv: expected a list of texts" in done.stderr, done.stderr


def test_a_file_that_is_no_toml_is_the_only_fault(command: Command) -> None:
    (command.folder / "killable.toml").write_text("[server\n")
    done, _ = run(command, "check", "--json")
    assert done.returncode == 78
    assert json.loads(done.stdout)["error"]["code"] == "configuration"


def test_a_type_of_the_built_in_pools_that_lacks_something_is_no_fault(tmp_path: Path) -> None:
    program = "import sys\nsys.argv = ['killable', 'check', '--json']\nfrom killable.api.cli import main\nmain()\n"
    blocker = tmp_path / "site" / "sitecustomize.py"
    blocker.parent.mkdir()
    blocker.write_text("import sys\nsys.modules['xllamacpp'] = None\n")
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env={"PYTHONPATH": str(blocker.parent)}, capture_output=True,
        text=True, timeout=60,
    )  # fmt: skip
    document = json.loads(done.stdout)
    types = {job_type["name"]: job_type for job_type in document["job_types"]}
    assert not types["generate"]["available"] and "pip install" in types["generate"]["unavailable_reason"]
    assert (done.returncode, document["faults"]) == (0, [])


# ── config ──


def test_every_value_has_its_source(command: Command) -> None:
    done, left = run(command, "config", "--json", env={"KILLABLE_SERVER__KEEP_JOBS": "5", "KILLABLE_API_KEY": "x" * 20})
    assert (done.returncode, left) == (0, []), done.stderr
    document = json.loads(done.stdout)
    values = {value["key"]: (value["value"], value["source"]) for value in document["values"] + document["job_types"]}
    assert values["server.port"] == (0, "killable.toml:2")
    assert values["server.host"] == ("127.0.0.1", "default")
    assert values["server.keep_jobs"] == (5, "KILLABLE_SERVER__KEEP_JOBS")
    assert values["limits.memory_bytes"] == (1 << 30, "default, lowered to caps.memory_bytes")
    assert values["split.run_s"] == (60.0, "decorator")
    assert values["split.grace_s"] == (3.0, "killable.toml:9")
    assert values["spin.run_s"] == (600.0, "default")
    assert document["api_keys"] == [{"name": "default", "role": "operate", "source": "KILLABLE_API_KEY"}]
    assert document["file"] == str(command.folder / "killable.toml")
    assert "hf_precious" not in done.stdout and "xxxx" not in done.stdout


def test_the_table_groups_them(command: Command) -> None:
    done, _ = run(command, "config")
    lines = [line.rstrip() for line in done.stdout.splitlines()]
    groups = [line for line in lines if line.startswith("[")]
    assert groups == [
        "[server]",
        "[cluster]",
        "[webhooks]",
        "[telemetry]",
        "[limits]",
        "[caps]",
        "[pools.good]",
        "[pools.good.env]",
        "[jobs.split.limits]",
    ]
    assert any(line.split() == ["run_s", '"1m"', "decorator"] for line in lines)
    assert lines[-1] == "same as [limits]: spin"
    assert "hf_precious" not in done.stdout


def test_no_import_imports_nothing_and_a_broken_pool_is_said(command: Command) -> None:
    (command.folder / "my_jobs.py").write_text("raise RuntimeError('imported')\n")
    done, _ = run(command, "config", "--no-import", "--json")
    assert done.returncode == 0 and "job_types" not in json.loads(done.stdout) and "imported" not in done.stderr
    done, _ = run(command, "config")
    assert done.returncode == 0 and "pool good is broken: `killable check` shows why" in done.stderr
    done, _ = run(command, "config", "check")  # which is not `killable check`
    assert done.returncode == 78 and "pool check is broken: `killable check check` shows why" in done.stderr


def test_what_cannot_be_used_is_not_shown_but_said(command: Command) -> None:
    done, _ = run(command, "config", env={"KILLABLE_SERVER__PORT": "many", "KILLABLE_SERVER__HOST": "0.0.0.0"})
    assert (done.returncode, done.stdout) == (78, "")
    assert "KILLABLE_SERVER__PORT" in done.stderr and "server.host" in done.stderr and "KILLABLE_API_KEY" in done.stderr


def test_the_example_can_be_served_and_the_schema_is_one(command: Command) -> None:
    (command.folder / "killable.toml").write_text(command.ok("config", "--example"))
    assert command.run("check").returncode == 0
    assert json.loads(command.ok("config", "--schema"))["properties"].keys() >= {"server", "limits", "caps", "pools"}
    assert subprocess.run([*COMMAND, "config", "--help"], capture_output=True, timeout=60).returncode == 0
