"""`killable.toml`: where it is searched, what wins, and that everything wrong is said at once."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from killable.supervisor.config import Config, ConfigError, load
from killable.supervisor.job import Limits
from killable.supervisor.settings import usable_cores

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
        ("text", ("killable.workers.builtin.tokenize",), "fork"),
        ("llm", ("killable.workers.builtin.generate",), "spawn"),
    ]
    assert (config.server.host, config.server.port, config.server.uds) == ("127.0.0.1", 7833, "")
    assert config.settings.limits == Limits()
    assert config.settings.caps == {"run_s": 3600.0, "grace_s": 60.0}
    assert config.file is None


def test_a_file_without_pools_keeps_the_built_in_ones() -> None:
    config = read("[server]\nport = 1\n")
    assert [pool.name for pool in config.settings.pools] == ["text", "llm"]


def test_a_value_for_a_built_in_pool_does_not_remove_the_other() -> None:
    config = read(environ={"KILLABLE_POOLS__LLM__WORKERS": "1"})
    assert {pool.name: pool.workers for pool in config.settings.pools} == {"text": usable_cores(), "llm": 1}


def test_every_key_of_the_manual_is_taken(folder: Path) -> None:
    (folder / "my_jobs.py").write_text("")
    config = read(
        """
        [server]
        host = "127.0.0.1"
        port = 7834
        body_bytes_max = "16MiB"
        queue_jobs_max = 10
        queue_bytes_max = "1MiB"
        keep_jobs = 5
        keep_bytes = "512KiB"
        keep_s = "1h"
        allowed_hosts = ["box.local"]
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
    assert (settings.queue_jobs_max, settings.queue_bytes_max, settings.keep_bytes) == (10, 1 << 20, 512 << 10)
    assert settings.keep_s == 3600.0
    assert settings.limits.run_s == 600.0
    assert settings.jobs["split"].limits == {"run_s": 30.0}
    assert settings.jobs["split"].caps == {"run_s": 120.0}
    assert config.server.body_bytes_max == 16 << 20
    assert config.server.allowed_hosts == ("box.local",)


def test_flag_over_environment_over_file() -> None:
    text = "[server]\nport = 1\nqueue_jobs_max = 1\nkeep_jobs = 1\n"
    environ = {"KILLABLE_SERVER__PORT": "2", "KILLABLE_SERVER__QUEUE_JOBS_MAX": "2"}
    config = read(text, environ, {"server.port": 3, "server.host": None})
    assert (config.server.port, config.server.queue_jobs_max, config.server.keep_jobs) == (3, 2, 1)
    assert config.server.host == "127.0.0.1"
    assert config.sources["server.port"] == "--port"
    assert config.sources["server.queue_jobs_max"] == "KILLABLE_SERVER__QUEUE_JOBS_MAX"
    assert config.sources["server.keep_jobs"] == "given.toml"
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
    assert (config.settings.limits.run_s, config.settings.limits.ack_s) == (300.0, None)
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
    assert config.settings.limits.run_s == 7.0


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
        [pools.Text]
        module = 3
        [pools.a]
        workers = 0
        start_method = "exec"
        spare = 2
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
        "limits.run_s", "limits.grace_s", "limits.memory_bytes", "pools.Text", "pools.Text.module", "pools.a.module",
        "pools.a.workers", "pools.a.start_method", "pools.a.spare", "pools.a.env.OMP_NUM_THREADS", "jobs.split.limit",
        "jobs.split.limits.run", "KILLABLE_PROOF",
    }  # fmt: skip
    assert "did you mean port?" in found["server.prot"]["expected"]
    assert found["server.port"] == {
        "key": "server.port", "expected": "expected a whole number", "found": '"7833"', "source": "given.toml",
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
    found = faults("[limits]\nrun_s = '2h'\n[jobs.x]\nlimits = { run_s = '20m' }\ncaps = { run_s = 60 }\n")
    assert set(found) == {"limits.run_s", "jobs.x.limits.run_s"}
    assert faults("[limits]\nrun_s = 'none'")["limits.run_s"]["found"] == '"none"'
    settings = read("[caps]\nrun_s = 10\ngrace_s = 'none'\n").settings
    assert (settings.limits.run_s, settings.caps) == (10.0, {"run_s": 10.0})


def test_proof_can_be_forced() -> None:
    assert read(environ={"KILLABLE_PROOF": "descendants"}).settings.proof == "descendants"
    assert read().settings.proof == ""
