"""Where `serve` listens, and one clear line for each way in which it cannot."""

from __future__ import annotations

import errno
import os
import socket
import stat
from pathlib import Path

import pytest

from killable.api.cli.server.listener import CannotServe, cannot_listen, listen
from killable.supervisor.configuration.config import ConfigError
from killable.supervisor.http_server_settings import ServerSettings


def test_port_0_is_a_free_one_and_ipv6_has_brackets() -> None:
    with listen(ServerSettings(port=0)) as listener:
        assert listener.url == f"http://127.0.0.1:{listener.socket.getsockname()[1]}"
    for host in ("::1", "[::1]"):
        with listen(ServerSettings(host=host, port=0)) as listener:
            assert listener.url.startswith("http://[::1]:")


def test_a_port_in_use() -> None:
    with listen(ServerSettings(port=0)) as first:
        port = first.socket.getsockname()[1]  # which listens from here on, while its pools get warm
        with pytest.raises(CannotServe, match=rf"port {port} of 127\.0\.0\.1 is in use.*--port") as caught:
            listen(ServerSettings(port=port))
    assert caught.value.exit_code == 71


def test_a_port_that_is_not_for_this_user() -> None:
    error = cannot_listen("port 80 of 127.0.0.1", PermissionError(errno.EACCES, "Permission denied"))
    assert "below 1024" in str(error) and "use a higher port" in str(error)


@pytest.mark.parametrize("host", ["no-such-host.invalid", "a..b", "x" * 64 + ".example"])
def test_a_host_that_does_not_resolve_is_a_fault_of_the_configuration(host: str) -> None:
    with pytest.raises(ConfigError, match=r"server\.host: expected an address of this machine.*\(--host\)"):
        listen(ServerSettings(host=host), "--host")


def test_an_address_of_another_machine_is_one_too() -> None:
    with pytest.raises(ConfigError, match=r"ip address.*192\.0\.2\.1"):
        listen(ServerSettings(host="192.0.2.1", port=0))


def test_a_socket_is_for_its_owner_and_goes_with_the_server(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with listen(ServerSettings(uds=str(path))) as listener:
        assert (listener.url, stat.S_IMODE(path.stat().st_mode)) == (f"unix:{path}", 0o600)
        with pytest.raises(CannotServe, match=r"in use.*another path with --uds"):
            listen(ServerSettings(uds=str(path)))
    assert not path.exists()


def test_a_socket_that_is_left_over_is_taken_over_and_a_file_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with listen(ServerSettings(uds=str(path))):
        pass
    path.write_text("precious")
    with pytest.raises(CannotServe, match="not a socket"):
        listen(ServerSettings(uds=str(path)))
    assert path.read_text() == "precious"


def test_a_file_that_was_put_in_the_place_of_its_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with listen(ServerSettings(uds=str(path))):
        (tmp_path / "precious").write_text("precious")
        os.replace(tmp_path / "precious", path)
    assert path.read_text() == "precious"


def test_the_file_of_the_next_server_is_left_to_it(tmp_path: Path) -> None:
    """Which may have begun before this one, that takes nothing any more, has gone."""
    path = tmp_path / "s"
    with listen(ServerSettings(uds=str(path))) as old:
        old.socket.close()
        new = listen(ServerSettings(uds=str(path)))
    with new:
        assert path.exists()
    assert not path.exists()


def test_a_folder_that_is_not_there_or_not_ours_and_a_path_that_is_too_long(tmp_path: Path) -> None:
    with pytest.raises(CannotServe, match="there is no directory"):
        listen(ServerSettings(uds=str(tmp_path / "no" / "s")))
    (tmp_path / "file").write_text("")
    with pytest.raises(CannotServe, match="there is no directory"):
        listen(ServerSettings(uds=str(tmp_path / "file" / "s")))
    with pytest.raises(CannotServe, match="at most 107 bytes"):
        listen(ServerSettings(uds=str(tmp_path / ("x" * 200))))
    denied = cannot_listen("/run/s", OSError(errno.EACCES, os.strerror(errno.EACCES)))
    assert "may not write to /run" in str(denied)
