"""`killable.toml`: where it is searched, what wins, and that everything wrong is said at once."""

from __future__ import annotations

import itertools
import os
import re
import sys
import tempfile
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jsonschema
import psutil
import pytest
from support.loaded_config import load

from killable.supervisor.configuration.config import Config, ConfigError
from killable.supervisor.configuration.example import example
from killable.supervisor.configuration.schema import json_schema
from killable.supervisor.http_server_settings import ServerSettings
from killable.supervisor.jobs.tenants import Tenants
from killable.supervisor.linux import memory_size
from killable.supervisor.settings import SandboxSpec, Settings, TenantSettings, usable_cores, usable_processors
from killable.workers.authoring.limits_and_caps import DEFAULT_LIMITS

pytestmark = pytest.mark.row("G11")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Tests run where there is no killable.toml."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def read(
    text: str | None = None,
    environ: Mapping[str, str] | None = None,
    flags: Mapping[str, Any] | None = None,
    target: str | None = None,
) -> Config:
    path = None
    if text is not None:
        path = Path("given.toml")
        path.write_text(text)
    return load(path, environ or {}, flags or {}, target)


def faults(*args: Any, **options: Any) -> dict[str, dict[str, str]]:
    with pytest.raises(ConfigError) as caught:
        read(*args, **options)
    assert caught.value.exit_code == 78
    listed = caught.value.facts["faults"]
    assert all(str(fault["key"]) in caught.value.message for fault in listed)
    return {fault["key"]: fault for fault in listed}


def test_without_a_file_there_are_the_built_in_pools() -> None:
    config = read()
    assert [(pool.name, pool.modules, pool.start_method) for pool in config.settings.pools] == [
        ("text", ("killable.workers.builtin.tokenize", "killable.workers.builtin.vocabulary"), "fork"),
        ("embeddings", ("killable.workers.builtin.embed",), "fork"),
        ("llm", ("killable.workers.builtin.generate", "killable.workers.builtin.chat"), "spawn"),
    ]
    assert (config.server.host, config.server.port, config.server.uds) == ("127.0.0.1", 7833, "")
    assert config.settings.limits == DEFAULT_LIMITS
    assert config.settings.caps == {}
    assert config.file is None


def test_a_file_without_pools_keeps_the_built_in_ones() -> None:
    config = read("[server]\nport = 1\n")
    assert [pool.name for pool in config.settings.pools] == ["text", "embeddings", "llm"]


def test_a_value_for_a_built_in_pool_does_not_remove_the_other() -> None:
    config = read(environ={"KILLABLE_POOLS__LLM__WORKERS": "1"})
    assert {pool.name: pool.workers for pool in config.settings.pools} == {
        "text": usable_cores(),
        "embeddings": usable_cores(),
        "llm": 1,
    }


def test_every_key_of_the_manual_is_taken(folder: Path) -> None:
    (folder / "my_jobs.py").write_text("")
    (folder / "venv" / "bin").mkdir(parents=True)
    (folder / "venv" / "bin" / "python").symlink_to(sys.executable)
    config = read(
        """
        [server]
        host = "127.0.0.1"
        port = 7834
        body_bytes_max = "16MiB"
        queue_jobs_max = 10
        queue_bytes_max = "64MiB"
        keep_jobs = 5
        keep_bytes = "512KiB"
        keep_s = "1h"
        allowed_hosts = ["box.local"]
        api_keys_file = "keys"
        connections_max = 100
        header_timeout_s = 5
        drain_s = "30s"
        log_format = "json"
        log_level = "warning"
        redact = true
        [limits]
        queue_s = 300
        run_s = "10m"
        grace_s = 5
        ack_s = 0.5
        memory_bytes = "2GiB"
        output_bytes = "64MiB"
        [caps]
        run_s = 3600
        grace_s = "1m"
        [pools.text]
        module = ["./my_jobs.py", "other.jobs"]
        workers = 2
        spares = 0
        jobs_per_worker_max = 0
        start_method = "spawn"
        python = "./venv/bin/python"
        nice = 0
        env = { OMP_NUM_THREADS = "1" }
        [jobs.split.limits]
        run_s = 30
        [jobs.split.caps]
        run_s = "2m"
        """
    )
    pool = config.settings.pools[0]
    assert pool.modules == (str(folder / "my_jobs.py"), "other.jobs")
    assert (pool.workers, pool.spares, pool.jobs_per_worker_max, pool.nice) == (2, 0, 0, 0)
    assert pool.python == str(folder / "venv/bin/python")
    assert pool.env == {"OMP_NUM_THREADS": "1"}
    assert pool.folder == str(folder)
    settings = config.settings
    assert (settings.queue_jobs_max, settings.queue_bytes_max, settings.keep_bytes) == (10, 64 << 20, 512 << 10)
    assert settings.keep_s == 3600.0
    assert settings.limits["run_s"] == 600.0
    assert settings.jobs["split"].limits == {"run_s": 30.0}
    assert settings.jobs["split"].caps == {"run_s": 120.0}
    assert config.server.body_bytes_max == 16 << 20
    server = config.server
    assert (server.allowed_hosts, server.api_keys_file) == (("box.local",), str(folder / "keys"))
    assert (server.connections_max, server.header_timeout_s, server.drain_s) == (100, 5.0, 30.0)
    assert (server.log_format, server.log_level, server.redact) == ("json", "warning", True)


def test_flag_over_environment_over_file() -> None:
    text = "[server]\nport = 1\nqueue_jobs_max = 1\nkeep_jobs = 1\n"
    environ = {"KILLABLE_SERVER__PORT": "2", "KILLABLE_SERVER__QUEUE_JOBS_MAX": "2"}
    config = read(text, environ, {"server.port": 3, "server.host": None})
    assert (config.server.port, config.server.queue_jobs_max, config.server.keep_jobs) == (3, 2, 1)
    assert config.server.host == "127.0.0.1"
    assert config.sources["server.port"] == "--port"
    assert config.sources["server.queue_jobs_max"] == "KILLABLE_SERVER__QUEUE_JOBS_MAX"
    assert config.sources["server.keep_jobs"] == "given.toml:4"
    assert "server.host" not in config.sources


def test_the_file_is_searched(folder: Path) -> None:
    (folder / "killable.toml").write_text("[server]\nport = 1\n")
    (folder / "env.toml").write_text("[server]\nport = 2\n")
    (folder / "flag.toml").write_text("[server]\nport = 3\n")
    assert load(None, {}, {}, None).server.port == 1
    environ = {"KILLABLE_CONFIG": "env.toml"}
    assert load(None, environ, {}, None).server.port == 2
    assert load(Path("flag.toml"), environ, {}, None).server.port == 3


def test_the_environment_has_numbers_text_lists_and_durations() -> None:
    config = read(
        environ={
            "KILLABLE_SERVER__HOST": "127.0.0.1",
            "KILLABLE_SERVER__ALLOWED_HOSTS": '["a", "b"]',
            "KILLABLE_LIMITS__RUN_S": "5m",
            "KILLABLE_LIMITS__ACK_S": "none",
            "KILLABLE_POOLS__TEXT__ENV__OMP_NUM_THREADS": "4",
            "KILLABLE_URL": "http://elsewhere",
        }
    )
    assert config.server.allowed_hosts == ("a", "b")
    assert (config.settings.limits["run_s"], config.settings.limits["ack_s"]) == (300.0, None)
    assert config.settings.pools[0].env == {"OMP_NUM_THREADS": "4"}


@pytest.mark.parametrize(
    ("target", "name", "module", "folder_name"),
    [
        ("jobs/my_jobs.py", "my_jobs", "{tmp}/jobs/my_jobs.py", "jobs"),
        ("./jobs/My-Jobs2.py", "my-jobs2", "{tmp}/jobs/My-Jobs2.py", "jobs"),
        ("package.more_jobs", "more_jobs", "package.more_jobs", "."),
    ],
)
def test_a_target_is_the_only_pool(folder: Path, target: str, name: str, module: str, folder_name: str) -> None:
    (folder / "jobs").mkdir()
    for file in ("my_jobs.py", "My-Jobs2.py"):
        (folder / "jobs" / file).write_text("")
    (folder / "killable.toml").write_text('[pools.other]\nmodule = "x"\n[limits]\nrun_s = 7\n')
    config = load(None, {}, {}, target)
    (pool,) = config.settings.pools
    assert (pool.name, pool.modules) == (name, (module.format(tmp=folder),))
    assert Path(pool.folder) == (folder / folder_name).resolve()
    assert config.settings.limits["run_s"] == 7.0


def test_what_is_written_for_the_targets_pool_holds() -> None:
    Path("my_jobs.py").write_text("")
    config = read('[pools.my_jobs]\nmodule = "other"\nworkers = 7\n', target="my_jobs.py")
    (pool,) = config.settings.pools
    assert pool.workers == 7
    assert pool.modules[0].endswith("my_jobs.py")


def test_everything_wrong_is_said_at_once_with_key_expectation_and_finding() -> None:
    found = faults(
        """
        cap = 3
        [server]
        prot = 1
        port = "7833"
        host = 5
        body_bytes_max = "16 elephants"
        [limits]
        run_s = "soon"
        grace_s = -1
        memory_bytes = true
        processes_max = 0
        files_max = "many"
        [pools.Text]
        module = 3
        [pools.a]
        workers = 0
        start_method = "exec"
        spare = 2
        affinity = ["0"]
        user = true
        env = { OMP_NUM_THREADS = 1 }
        [jobs.split]
        limit = {}
        [jobs.split.limits]
        run = 3
        """,
        environ={"KILLABLE_SERVER__KEEP_JOBS": "many", "KILLABLE_PROOF": "hope"},
    )
    assert set(found) == {
        "cap", "server.prot", "server.port", "server.host", "server.body_bytes_max", "server.keep_jobs",
        "limits.run_s", "limits.grace_s", "limits.memory_bytes",
        "limits.processes_max", "limits.files_max", "pools.Text", "pools.Text.module", "pools.a.module",
        "pools.a.workers", "pools.a.start_method", "pools.a.spare", "pools.a.affinity",
        "pools.a.user", "pools.a.env.OMP_NUM_THREADS", "jobs.split.limit",
        "jobs.split.limits.run", "KILLABLE_PROOF",
    }  # fmt: skip
    assert "did you mean port?" in found["server.prot"]["expected"]
    assert found["server.port"] == {
        "key": "server.port", "expected": "expected a whole number", "found": '"7833"', "source": "given.toml:5",
    }  # fmt: skip
    assert found["server.keep_jobs"]["source"] == "KILLABLE_SERVER__KEEP_JOBS"
    assert '"5m"' in found["limits.run_s"]["expected"]
    assert found["limits.run_s"]["found"] == '"soon"'
    assert found["pools.a.module"]["expected"] == "missing; it is required"
    assert found["pools.a.start_method"]["expected"] == 'expected "fork" or "spawn"'
    assert "did you mean run_s?" in found["jobs.split.limits.run"]["expected"]
    assert "did you mean caps?" in found["cap"]["expected"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("server = 3", "a table"),
        ("[server\n", "TOML"),
        ("[server]\nallowed_hosts = 'a'", "list"),
        ("[server]\ntrusted_proxies = ['10.0.0.0/8', '10.0.0.1/8']", "IP addresses or networks"),
        ("pools = []", "table"),
    ],
)
def test_a_wrong_shape_is_a_fault_too(text: str, expected: str) -> None:
    (fault,) = faults(text).values()
    assert expected in fault["expected"]


def test_files_that_are_not_there_are_named(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.toml"):
        load(Path("nowhere.toml"), {}, {}, None)
    (folder / "latin.toml").write_bytes(b'[server]\nhost = "\xe9"\n')
    with pytest.raises(ConfigError, match="UTF-8"):
        load(Path("latin.toml"), {}, {}, None)
    assert "no such file" in faults(target="nowhere.py")["pools.nowhere.module"]["found"]
    assert "a-b" in faults('[pools.x]\nmodule = "a-b"')["pools.x.module"]["found"]


def test_a_default_over_its_cap_is_refused_and_an_unwritten_one_is_lowered() -> None:
    capped = "[caps]\nrun_s = '1h'\n"
    jobs = "[jobs.x]\nlimits = { run_s = '20m' }\ncaps = { run_s = 60 }\n"
    found = faults(f"{capped}[limits]\nrun_s = '2h'\n{jobs}")
    assert set(found) == {"limits.run_s", "jobs.x.limits.run_s"}
    assert faults(f"{capped}[limits]\nrun_s = 'none'")["limits.run_s"]["found"] == '"none"'
    settings = read("[caps]\nrun_s = 10\ngrace_s = 'none'\n").settings
    assert (settings.limits["run_s"], settings.caps) == (10.0, {"run_s": 10.0, "grace_s": None})


def test_a_limit_of_the_file_may_be_over_a_cap_that_nobody_set() -> None:
    settings = read("[limits]\nrun_s = '2h'\nmemory_bytes = 'none'\n[jobs.x.caps]\nrun_s = '3h'\n").settings
    assert (settings.limits["run_s"], settings.limits["memory_bytes"]) == (7200.0, None)
    assert settings.caps == {} and settings.jobs["x"].caps == {"run_s": 10800.0}


def test_one_job_may_not_take_a_small_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("killable.supervisor.linux.memory_size.usable_memory", lambda: 1 << 30)
    found = read("")
    assert found.settings.limits["memory_bytes"] == 768 << 20
    assert found.sources["limits.memory_bytes"] == "default, lowered to three quarters of this machine's memory"
    assert read("[limits]\nmemory_bytes = '2GiB'\n").settings.limits["memory_bytes"] == 2 << 30
    assert read("[caps]\nmemory_bytes = '1GiB'\n").sources["limits.memory_bytes"].endswith("caps.memory_bytes")


def test_the_memory_of_the_machine_and_of_the_groups_above(tmp_path: Path) -> None:
    group = tmp_path / "a" / "b"
    group.mkdir(parents=True)
    (group / "memory.max").write_text("max\n")
    (group.parent / "memory.max").write_text("5000000\n")
    (tmp_path / "memory.limit_in_bytes").write_text("7000000\n")
    assert list(memory_size._limits_above(group)) == [5000000, 7000000]
    assert 0 < memory_size.usable_memory() <= psutil.virtual_memory().total


def test_what_the_rest_contradicts_is_said_together_with_what_is_wrong() -> None:
    found = faults(
        """
        [server]
        prot = 1
        [limits]
        run_s = "2h"
        grace_s = "2m"
        [caps]
        run_s = "1h"
        grace_s = "soon"
        [pools.a]
        workers = 0
        module = "./nowhere.py"
        [pools.b]
        spares = 2
        """
    )
    # limits.grace_s may well be below the cap that was meant
    assert set(found) == {
        "server.prot", "limits.run_s", "caps.grace_s", "pools.a.workers", "pools.a.module", "pools.b.module",
    }  # fmt: skip


def test_a_types_cap_over_the_servers_would_never_hold() -> None:
    of_all = "[caps]\nrun_s = '1h'\ngrace_s = '1m'\n"
    found = faults(f"{of_all}[jobs.x.caps]\nrun_s = '2h'\ngrace_s = 'none'\nmemory_bytes = '1GiB'\n")
    assert set(found) == {"jobs.x.caps.run_s", "jobs.x.caps.grace_s"}
    assert "raise caps.run_s too" in found["jobs.x.caps.run_s"]["expected"]


def test_a_tenants_table_is_read_and_its_faults_are_said() -> None:
    settings = read(
        """
        [tenants.default]
        running_max = 2
        caps = { run_s = "1m", grace_s = 2 }
        [tenants."team.A"]
        queue_jobs_max = "none"
        keep_bytes = "1MiB"
        caps = { run_s = "none" }
        """
    ).settings
    tenants = Tenants(settings.tenants, queue_jobs_max=1000, queue_bytes_max=1 << 20)
    everybody, own, alone = tenants.bounds("x"), tenants.bounds("team.A"), tenants.bounds("default")
    assert (everybody.queue_jobs_max, everybody.queue_bytes_max, everybody.running_max) == (500, 1 << 19, 2)
    assert everybody.caps == {"run_s": 60.0, "grace_s": 2.0}
    assert (own.queue_jobs_max, own.queue_bytes_max, own.running_max) == (None, 1 << 19, 2)
    assert (own.keep_bytes, own.caps) == (1 << 20, {"grace_s": 2.0})
    assert (alone.queue_jobs_max, alone.running_max) == (None, 2), "without keys there is nobody to share with"
    assert tenants.bounds("x", operator=True) == TenantSettings()
    assert tenants.bounds("team.A", operator=True) == own
    found = faults(
        "[tenants.'a b']\nrunning_max = 1\n[tenants.a]\nrunning_max = 0\nsubmissions_per_s = 0\n"
        "priority_max = 1001\nqueue_max = 3\n"
    )
    assert "name of an API key" in found["tenants.a b"]["expected"]
    assert "did you mean queue_jobs_max?" in found["tenants.a.queue_max"]["expected"]
    for key in ("running_max", "submissions_per_s", "priority_max"):
        assert found[f"tenants.a.{key}"]["source"].startswith("given.toml:")


def test_the_paths_of_a_sandbox_are_from_the_files_folder_and_there(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    Path("out").mkdir()
    table = f"[pools.a.sandbox]\nnetwork = false\nwrite = ['./out', '{tmp_path}/other']\nread = ['.']\n"
    config = read(f"[pools.a]\nmodule = 'a'\n{table}")
    (pool,) = config.settings.pools
    assert pool.sandbox == SandboxSpec(
        network=False, write=(str(Path.cwd() / "out"), str(tmp_path / "other")), read=(str(Path.cwd()),)
    )  # fmt: skip
    assert read("[pools.a]\nmodule = 'a'\nsandbox = { network = true }\n").settings.pools[0].sandbox == SandboxSpec()
    found = faults(
        "[pools.a]\nmodule = 'a'\n[pools.a.sandbox]\nnetwork = 'no'\nwrite = 'out'\nreed = []\nread = ['gone']\n"
    )
    assert {name: fault["expected"] for name, fault in found.items()} == {
        "pools.a.sandbox.network": "expected true or false",
        "pools.a.sandbox.write": 'expected a list of paths, like ["./out"]',
        "pools.a.sandbox.reed": "unknown key (did you mean read?)",
        "pools.a.sandbox.read": "expected paths that exist",
    }
    for path in (".", "..", "/"):
        found = faults(f"[pools.a]\nmodule = 'a'\nsandbox.write = ['./out', '{path}']\n")
        assert set(found) == {"pools.a.sandbox.write"}
        assert f"that jobs may write, without {tmp_path} in them" in found["pools.a.sandbox.write"]["expected"]
    server = f"[server]\napi_keys_file = '{tmp_path}/other/keys'\njournal = 'out/journal'\naudit_log = 'more/audit'\n"
    server += "files_folder = 'uploads'\n[webhooks]\nsecrets_file = 'hooks/secrets'\n"
    for name in ("more", "uploads", "hooks"):
        Path(name).mkdir()
    for list_, path in itertools.product(("write", "read"), ("out", "more", "other", "uploads", "hooks")):
        found = faults(f"{server}[pools.a]\nmodule = 'a'\nsandbox.{list_} = ['{path}']\n")
        assert [(name, fault["found"]) for name, fault in found.items()] == [(f"pools.a.sandbox.{list_}", f'"{path}"')]
    pool = f"[pools.a]\nmodule = 'a'\nsandbox.read = ['{tempfile.gettempdir()}']\n"
    assert set(faults(pool)) == {"pools.a.sandbox.read"}  # uploads are there
    read(f"[server]\nfiles_folder = '/nowhere/uploads'\n{pool}")
    read(f"[server]\nfiles_bytes_max = 0\n{pool}")


def test_a_pools_processors_and_accounts_are_those_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    first = min(usable_processors())
    config = read(f"[pools.a]\nmodule = 'a'\naffinity = [{first}, {first}]\nuser = 'nobody'\n")
    (pool,) = config.settings.pools
    assert (pool.workers, pool.affinity, pool.user, pool.group) == (1, (first,), "nobody", "")
    found = faults(
        """
        [pools.a]
        module = "a"
        affinity = [100000]
        user = "nobody at all"
        [pools.b]
        module = "b"
        group = "no group at all"
        [pools.c]
        module = "c"
        user = 3999999999
        """
    )
    assert set(found) == {"pools.a.affinity", "pools.a.user", "pools.b.group", "pools.c.user"}
    assert str(first) in found["pools.a.affinity"]["expected"]
    assert "a group must be set too" in found["pools.c.user"]["found"]
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert "only root" in faults("[pools.a]\nmodule = 'a'\nuser = 'nobody'")["pools.a.user"]["found"]
    assert "only root" in faults("[pools.a]\nmodule = 'a'\ngroup = 0")["pools.a.group"]["found"]


def test_a_node_hears_from_its_head_several_times_within_its_lease() -> None:
    (fault,) = faults("[cluster]\nlease_s = 3").values()
    assert (fault["key"], fault["expected"]) == ("cluster.poll_s", "expected at most a third of cluster.lease_s, 1")


def test_a_body_that_the_queue_can_never_hold_is_refused_or_lowered() -> None:
    (fault,) = faults("[server]\nbody_bytes_max = '1GiB'").values()
    assert (fault["key"], "server.queue_bytes_max" in fault["expected"]) == ("server.body_bytes_max", True)
    config = read("[server]\nqueue_bytes_max = '512KiB'")
    assert config.server.body_bytes_max == 512 << 10
    assert config.sources["server.body_bytes_max"] == "default, lowered to server.queue_bytes_max"


def test_a_socket_and_a_port_exclude_each_other_in_one_layer_and_the_later_layer_wins() -> None:
    (fault,) = faults("[server]\nport = 1\nuds = '/tmp/x'").values()
    assert (fault["key"], "server.port" in fault["expected"]) == ("server.uds", True)
    assert set(faults(flags={"server.uds": "x", "server.port": 1})) == {"server.uds"}
    assert read("[server]\nport = 1", flags={"server.uds": "/tmp/x"}).server.uds == "/tmp/x"
    over = read("[server]\nuds = '/tmp/x'", {"KILLABLE_SERVER__PORT": "2"})
    assert (over.server.uds, over.server.port) == ("", 2)
    assert "server.uds" not in over.sources


def test_paths_of_the_file_are_from_its_folder_and_others_from_here(folder: Path) -> None:
    (folder / "etc").mkdir()
    (folder / "etc" / "k.toml").write_text("[server]\napi_keys_file = 'keys'\n")
    assert load(Path("etc/k.toml"), {}, {}, None).server.api_keys_file == str(folder / "etc" / "keys")
    assert load(Path("etc/k.toml"), {}, {"server.uds": "s"}, None).server.uds == str(folder / "s")
    (folder / "etc" / "k.toml").write_text("[server]\njournal = 'state/jobs'\n")
    config = load(Path("etc/k.toml"), {}, {}, None)
    assert config.server.journal == config.settings.journal == str(folder / "etc" / "state" / "jobs")
    assert load(Path("etc/k.toml"), {}, {"server.journal": "j"}, None).settings.journal == str(folder / "j")
    assert load(None, {}, {}, None).settings.journal == ""


def test_a_home_that_nobody_has_is_a_fault(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = ("uds", "api_keys_file", "audit_log", "operator_socket", "journal", "files_folder")
    found = faults(
        "[server]\n"
        + "".join(f"{name} = '~nobody at all/x'\n" for name in paths)
        + "[webhooks]\nsecrets_file = '~nobody at all/x'\n"
        "[pools.a]\nmodule = '~nobody at all/x.py'\npython = '~nobody at all/python'\n"
        "sandbox.read = ['~nobody at all/x']\n[commands.c]\nargv = ['~nobody at all/x']\n"
    )
    keys = {f"server.{name}" for name in paths} | {"webhooks.secrets_file", "commands.c.argv"}
    assert set(found) == keys | {"pools.a.module", "pools.a.python", "pools.a.sandbox.read"}
    assert "in the home of a user" in found["server.uds"]["expected"]
    assert found["server.journal"]["source"] == "given.toml:6"
    monkeypatch.setenv("HOME", str(folder))
    (folder / "mine.py").touch()
    config = read("[server]\njournal = '~/j'\n[pools.a]\nmodule = '~/mine.py'\n")
    assert (config.server.journal, config.settings.pools[0].modules) == (f"{folder}/j", (f"{folder}/mine.py",))


def test_what_no_file_user_or_variable_can_be_called_is_a_fault() -> None:
    found = faults(
        '[server]\njournal = "a\\u0000"\n'
        "[pools.a]\nmodule = 'a'\nuser = \"\\u0000\"\ngroup = \"\\u0000\"\nenv = { 'A=B' = 'x', C = \"\\u0000\" }\n"
        "[commands.c]\nargv = ['true']\nenv = { '' = 'x' }\n",
        environ={"KILLABLE_POOLS__A__ENV": "x"},
    )
    assert set(found) == {
        "server.journal", "pools.a.user", "pools.a.group",
        "pools.a.env.A=B", "pools.a.env.C", "pools.a.env.", "commands.c.env.",
    }  # fmt: skip
    assert (found["pools.a.env."]["source"], found["pools.a.env."]["found"]) == (
        "KILLABLE_POOLS__A__ENV", "a value that is not shown",
    )  # fmt: skip


def test_an_interpreter_that_is_not_there_is_a_fault() -> None:
    found = faults('[pools.x]\nmodule = "m"\npython = "./no/python"\n[pools.y]\nmodule = "m"\npython = "no-python"')
    assert "no such program" in found["pools.x.python"]["found"]
    assert "not on PATH" in found["pools.y.python"]["found"]
    assert read('[pools.x]\nmodule = "m"\npython = "python3"').settings.pools[0].python == "python3"


@pytest.mark.parametrize("text", ["8000", ""])
def test_a_variable_with_one_underscore_would_set_nothing(text: str) -> None:
    (fault,) = faults(environ={"KILLABLE_SERVER_PORT": text}).values()
    assert "KILLABLE_SERVER__PORT" in fault["expected"]
    # Kubernetes sets this one for a service that is called killable-server; the others are nothing of ours
    read(environ={"KILLABLE_SERVER_PORT": "tcp://10.0.0.1:80", "KILLABLE_SERVICE_HOST": "10.0.0.1", "KILLABLE_X": ""})


def test_no_fault_shows_a_secret() -> None:
    text = """
        api_keys = ["s3cret"]
        [login]
        with = "s3cret"
        [server]
        api_key = "s3cret"
        api_keys_file = ["s3cret"]
        [pools.a]
        module = "m"
        [pools.a.env]
        PIN = 53
        TOKEN = ["s3cret"]
        """
    found = faults(text)
    assert len(found) == 6
    assert "did you mean api_keys_file?" in found["server.api_key"]["expected"]
    assert "s3cret" not in str(found) and "53" not in str(found["pools.a.env.PIN"]["found"])


@pytest.mark.parametrize(
    ("text", "key", "line"),
    [
        ("# x\n[server]\n\nport = 0 # y", "server.port", 4),
        ("server.port = 0", "server.port", 1),
        ("server = { keep_s = 1,\nport = 0 }", "server.port", 1),
        ('[ pools . "a" ]\nmodule = "m"\n[pools.a.env]\n"A.B" = "1"', "pools.a.env.A.B", 4),
        ("[limits]\n[server]\n  port=0", "server.port", 3),
    ],
)
def test_a_value_has_its_line(text: str, key: str, line: int) -> None:
    if line == 1 and "{" in text:
        text = text.replace("\n", " ")
    assert read(text).sources[key] == f"given.toml:{line}"


def test_proof_can_be_forced() -> None:
    assert read(environ={"KILLABLE_PROOF": "descendants"}).settings.proof == "descendants"
    assert read().settings.proof == ""


# ── the whole file, as it is printed and documented ──


def test_the_example_has_every_key_with_its_default(folder: Path) -> None:
    (folder / "my_jobs.py").write_text("")
    text = "\n".join(example())
    config = read(text)
    assert config.server == ServerSettings()
    assert (config.settings.limits, config.settings.caps) == (DEFAULT_LIMITS, Settings(pools=()).caps)
    pool, of_commands = config.settings.pools
    assert (of_commands.name, [each.name for each in of_commands.commands]) == ("commands", ["sort"])
    assert (pool.spares, pool.jobs_per_worker_max, pool.start_method, pool.nice) == (1, 1, "fork", 5)
    tree = tomllib.loads(text)
    tree["caps"] = tomllib.loads("\n".join(re.findall(r"^# (\w+ = .+)$", text.partition("[caps]\n")[2], re.MULTILINE)))
    for section, table in (("server", "Server"), ("limits", "Limits"), ("caps", "Caps")):
        names = json_schema()["$defs"][f"{table}{'Settings' if table == 'Server' else 'Table'}"]["properties"]
        assert list(tree[section]) == list(names), section
    assert set(tree["tenants"]["dashboard"]) == set(json_schema()["$defs"]["TenantTable"]["properties"])
    others = Tenants(config.settings.tenants, queue_jobs_max=1000, queue_bytes_max=256 << 20).bounds("dashboard")
    built_in = Tenants({}, queue_jobs_max=1000, queue_bytes_max=256 << 20).bounds("dashboard")
    assert others._replace(caps={}) == built_in
    assert set(tree["pools"]["text"]) == set(json_schema()["$defs"]["PoolTable"]["properties"])
    assert set(tree["commands"]["sort"]) == set(json_schema()["$defs"]["CommandTable"]["properties"])
    assert all(len(line) <= 120 for line in text.splitlines())


def test_every_key_is_documented() -> None:
    schema = json_schema()
    silent = [
        f"{name}.{key}"
        for name, table in {**schema["$defs"], "": schema}.items()
        for key, of in table["properties"].items()
        if not of.get("description") and "$ref" not in of
    ]
    assert silent == []


@pytest.mark.parametrize(
    ("text", "fits"),
    [
        ("[limits]\nstart_s = 'none'\nmemory_bytes = '1.5GiB'\nqueue_s = '1h30m'", True),
        ("[pools.a]\nmodule = ['a', 'b']\n[jobs.x.caps]\nrun_s = 3", True),
        ("[tenants.Team-1]\nsubmissions_per_s = 0.5\npriority_max = 'none'\ncaps = { run_s = 'none' }", True),
        ("[tenants.'a b']\nrunning_max = 1", False),
        ("[tenants.a]\nrunning_max = 0", False),
        ("[server]\nprot = 1", False),
        ("[limits]\nrun_s = 'soon'", False),
        ("[limits]\nmemory_bytes = -1", False),
        ("[pools.A]\nmodule = 'a'", False),
        ("[pools.a]\nworkers = 1", False),
    ],
)
def test_an_editor_sees_what_the_server_sees(text: str, fits: bool) -> None:
    validator = jsonschema.Draft202012Validator(json_schema())
    validator.check_schema(json_schema())
    assert validator.is_valid(tomllib.loads(text)) is fits
    if fits:
        read(text)
    else:
        faults(text)


def test_the_schema_takes_the_example() -> None:
    jsonschema.validate(tomllib.loads("\n".join(example())), json_schema())
