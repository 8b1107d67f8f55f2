"""The API keys of a server, checked together with its configuration."""

from __future__ import annotations

from pathlib import Path

import pytest

from killable.api.cli.server.configuration import examine, load, reread_keys
from killable.supervisor.configuration.config import ConfigError

KEY = "0123456789abcdef"
OTHER = "fedcba9876543210"

pytestmark = [pytest.mark.row("A25"), pytest.mark.row("G11")]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_keys(*lines: str, mode: int = 0o600) -> None:
    Path("keys").write_text("".join(f"{line}\n" for line in lines))
    Path("keys").chmod(mode)
    Path("killable.toml").write_text("[server]\napi_keys_file = 'keys'\n")


def faults(environ: dict[str, str] | None = None, **flags: str) -> list[tuple[str, str]]:
    given = {f"server.{name}": value for name, value in flags.items()}
    return [(fault.key, str(fault)) for fault in examine(None, environ or {}, given, None)[1]]


def test_keys_come_from_the_file_and_from_the_environment_which_then_has_none() -> None:
    write_keys(f"ci submit {OTHER}")
    environ = {"KILLABLE_API_KEY": KEY, "HOME": "/"}
    in_force = load(None, environ, {}, None)
    assert [(key.name, key.role, key.key) for key in in_force.keys] == [
        ("ci", "submit", OTHER), ("default", "operate", KEY),
    ]  # fmt: skip
    assert environ == {"HOME": "/"}


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.7", "box.local"])
def test_an_address_beyond_this_machine_needs_a_key(host: str) -> None:
    ((key, text),) = faults(host=host)
    assert key == "server.host"
    assert "KILLABLE_API_KEY or server.api_keys_file" in text and "stay on 127.0.0.1" in text and "--host" in text
    assert faults({"KILLABLE_API_KEY": KEY}, host=host) == []


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "[::1]", "127.8.8.8", "LOCALHOST"])
def test_loopback_needs_none(host: str) -> None:
    assert faults(host=host) == []


def test_a_unix_socket_needs_none() -> None:
    Path("killable.toml").write_text("[server]\nhost = '0.0.0.0'\n")
    assert faults(uds="socket") == []


@pytest.mark.parametrize(
    ("key", "found"), [("short", "5 characters"), ("", "an empty value"), ("with spaces in the key", "22 characters")]
)
def test_a_key_of_the_environment_that_is_none_is_refused_and_not_shown(key: str, found: str) -> None:
    ((name, text),) = faults({"KILLABLE_API_KEY": key}, host="0.0.0.0")
    assert name == "KILLABLE_API_KEY" and f"found {found}" in text and "openssl rand" in text
    assert not key or key not in text


def test_what_is_wrong_with_the_file_stands_beside_what_else_is_wrong() -> None:
    write_keys("ci boss 0123", f"x operate {KEY} more")
    found = faults({"KILLABLE_LIMITS__RUN_S": "soon"}, host="0.0.0.0")
    assert found[0][0] == "limits.run_s"
    assert {key for key, _ in found[1:]} == {"server.api_keys_file"} and len(found) >= 4
    assert all("killable.toml:2" in text and KEY not in text for _, text in found[1:])


def test_a_file_that_others_can_read_is_refused() -> None:
    write_keys(f"ci submit {KEY}", mode=0o644)
    ((key, text),) = faults()
    assert key == "server.api_keys_file" and "chmod 600" in text


def test_a_name_may_not_come_from_both() -> None:
    write_keys(f"default submit {OTHER}")
    ((key, text),) = faults({"KILLABLE_API_KEY": KEY})
    assert key == "KILLABLE_API_KEY" and KEY not in text


def test_a_key_that_the_file_has_is_a_client_s_in_the_environment_and_may_what_its_line_says() -> None:
    write_keys(f"ci submit {KEY}")
    in_force = load(None, {"KILLABLE_API_KEY": KEY}, {}, None)
    assert [(key.name, key.role) for key in in_force.keys] == [("ci", "submit")] and in_force.own is None
    write_keys(f"later submit {OTHER}")
    assert [key.name for key in reread_keys(in_force)] == ["later"], "and is gone with its line"
    both = load(None, {"KILLABLE_API_KEY": KEY}, {}, None)
    write_keys(f"later submit {KEY}")
    assert [(key.name, key.role) for key in reread_keys(both)] == [("later", "submit")]


def test_all_faults_are_one_error() -> None:
    Path("killable.toml").write_text("[server]\nhost = '0.0.0.0'\nprot = 1\n")
    with pytest.raises(ConfigError, match="2 faults") as caught:
        load(None, {}, {}, None)
    assert {fault["key"] for fault in caught.value.facts["faults"]} == {"server.host", "server.prot"}
