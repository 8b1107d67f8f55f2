"""Every value in force and who said so."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from support.loaded_config import load

from killable.supervisor.configuration.config import Config
from killable.supervisor.configuration.schema import PoolTable
from killable.supervisor.configuration.secret_settings import NOT_SHOWN
from killable.supervisor.configuration.values_in_force import Setting, limits_in_force, settings_in_force, spelled
from killable.supervisor.http_server_settings import (
    ClusterSettings,
    ServerSettings,
    TelemetrySettings,
    WebhookSettings,
)
from killable.supervisor.jobs import effective_limits
from killable.supervisor.models import JobType
from killable.workers.authoring.limits_and_caps import LIMITS

pytestmark = pytest.mark.row("G11")

FILE = """\
[server]
port = 1
[limits]
queue_s = "1m"
[caps]
run_s = 40
[pools.a]
module = "m"
env = { OMP_NUM_THREADS = "2", MODEL = "x", PIN_KEY = "12", EMPTY = "" }
[jobs.split.limits]
grace_s = 3
[jobs.split.caps]
output_bytes = "1MiB"
[pools.a.sandbox]
write = ["out"]
[tenants.dashboard]
queue_bytes_max = "1MiB"
submissions_per_s = 0.5
priority_max = "none"
[tenants.dashboard.caps]
run_s = 60
"""


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    monkeypatch.chdir(tmp_path)
    Path("out").mkdir()
    Path("killable.toml").write_text(FILE)
    environ = {"KILLABLE_LIMITS__START_S": "30s", "KILLABLE_LIMITS__PROCESSES_MAX": "100"}
    return load(None, environ, {"server.log_level": "debug"}, None)


def by_key(settings: Any) -> dict[str, Setting]:
    return {setting.key: setting for setting in settings}


def test_nothing_that_is_in_force_is_left_out(config: Config) -> None:
    found = by_key(settings_in_force(config))
    expected = {f"server.{field.name}" for field in fields(ServerSettings)}
    expected |= {f"cluster.{field.name}" for field in fields(ClusterSettings)}
    expected |= {f"webhooks.{field.name}" for field in fields(WebhookSettings)}
    expected |= {f"telemetry.{field.name}" for field in fields(TelemetrySettings)}
    expected |= {f"{table}.{name}" for table in ("limits", "caps") for name in LIMITS}
    expected |= {f"pools.a.{name}" for name in PoolTable.model_fields if name not in ("env", "sandbox")}
    expected |= {"pools.a.sandbox.write"}
    expected |= {f"pools.a.env.{name}" for name in ("OMP_NUM_THREADS", "MODEL", "PIN_KEY", "EMPTY")}
    expected |= {"jobs.split.limits.grace_s", "jobs.split.caps.output_bytes"}
    expected |= {
        f"tenants.dashboard.{name}" for name in ("queue_bytes_max", "submissions_per_s", "priority_max", "caps.run_s")
    }
    assert set(found) == expected


@pytest.mark.parametrize(
    ("key", "text", "source"),
    [
        ("server.host", '"127.0.0.1"', "default"),
        ("server.port", "1", "killable.toml:2"),
        ("server.log_level", '"debug"', "--log-level"),
        ("server.redact", "false", "default"),
        ("server.keep_s", '"1h"', "default"),
        ("server.keep_bytes", '"512MiB"', "default"),
        ("limits.queue_s", '"1m"', "killable.toml:4"),
        ("limits.start_s", "30", "KILLABLE_LIMITS__START_S"),
        ("limits.run_s", "40", "default, lowered to caps.run_s"),
        ("caps.grace_s", '"1m"', "default"),
        ("caps.ack_s", '"none"', "default"),
        ("caps.memory_bytes", '"2GiB"', "default"),
        ("caps.processes_max", "100", "KILLABLE_LIMITS__PROCESSES_MAX"),
        ("pools.a.module", '["m"]', "killable.toml:8"),
        ("pools.a.env.OMP_NUM_THREADS", '"2"', "killable.toml:9"),
        ("pools.a.env.EMPTY", '""', "killable.toml:9"),
        ("pools.a.env.MODEL", NOT_SHOWN, "killable.toml:9"),
        ("pools.a.env.PIN_KEY", NOT_SHOWN, "killable.toml:9"),
        ("jobs.split.caps.output_bytes", '"1MiB"', "killable.toml:13"),
        ("tenants.dashboard.queue_bytes_max", '"1MiB"', "killable.toml:17"),
        ("tenants.dashboard.submissions_per_s", "0.5", "killable.toml:18"),
        ("tenants.dashboard.priority_max", '"none"', "killable.toml:19"),
        ("tenants.dashboard.caps.run_s", '"1m"', "killable.toml:21"),
    ],
)
def test_a_value_as_the_file_spells_it_and_who_wrote_it(config: Config, key: str, text: str, source: str) -> None:
    setting = by_key(settings_in_force(config))[key]
    assert (setting.spelled, setting.source) == (text, source)


def test_the_number_of_cores_says_that_it_is_one(config: Config) -> None:
    assert by_key(settings_in_force(config))["pools.a.workers"].source == "default (number of cores)"


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("run_s", 90.0, "90"),
        ("run_s", 120.0, '"2m"'),
        ("ack_s", 0.5, "0.5"),
        ("run_s", 0.0, "0"),
        ("run_s", None, '"none"'),
        ("x_bytes", 1536, "1536"),
        ("x_bytes", 3 << 30, '"3GiB"'),
        ("body_bytes_max", 64 << 10, '"64KiB"'),
        ("nice", 5, "5"),
    ],
)
def test_what_is_spelled_can_be_read_again(name: str, value: Any, text: str) -> None:
    assert spelled(name, value) == text


DECLARED: Mapping[str, Any] = {"run_s": 60.0, "grace_s": 2.0, "memory_bytes": 1 << 20}


def job_type(config: Config, name: str) -> JobType:
    settings = config.settings
    return JobType(
        name=name, description="", input_schema={}, pool="a", codec="json",
        limits=effective_limits.limits_of_type(settings, name, DECLARED),
        caps=effective_limits.caps_of_type(settings, name, DECLARED),
        limit_sources=effective_limits.sources_of_type(settings, name, DECLARED),
    )  # fmt: skip


def test_the_limits_of_a_type_say_who_set_them(config: Config) -> None:
    found = {
        setting.name: (setting.spelled, setting.source)
        for setting in limits_in_force(config, job_type(config, "split"))
    }
    defaults = {name: (spelled(name, limit.default), "default") for name, limit in LIMITS.items()}
    assert found == defaults | {
        "total_s": ('"none"', "default"),
        "queue_s": ('"1m"', "killable.toml:4"),
        "start_s": ("30", "KILLABLE_LIMITS__START_S"),
        "first_token_s": ('"none"', "default"),
        "idle_s": ('"none"', "default"),
        "run_s": ("40", "lowered to caps.run_s (killable.toml:6)"),
        "operation_s": ("{}", "default"),
        "grace_s": ("3", "killable.toml:11"),
        "ack_s": ("0.5", "default"),
        "memory_bytes": ('"1MiB"', "decorator"),
        "cpu_s": ('"none"', "default"),
        "processes_max": ("100", "KILLABLE_LIMITS__PROCESSES_MAX"),
        "threads_max": ("1000", "default"),
        "files_max": ('"none"', "default"),
        "tmp_bytes": ('"8GiB"', "default"),
        "output_bytes": ('"1MiB"', "lowered to jobs.split.caps.output_bytes (killable.toml:13)"),
        "attempts_max": ("1", "default"),
        "backoff_s": ("1", "default"),
    }
    other = {setting.name: setting.source for setting in limits_in_force(config, job_type(config, "other"))}
    assert (other["grace_s"], other["output_bytes"]) == ("decorator", "default")
