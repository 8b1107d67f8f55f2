"""What SIGHUP does where the machine gives no thread for it: that once, and not the next time."""

from __future__ import annotations

import logging
import os
import signal
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support.waiting import until_async

from killable.api.cli.server import sighup
from killable.api.cli.server.configuration import InForce
from killable.api.cli.server.service_manager import ServiceManager
from killable.api.http.api_keys import ApiKey
from killable.supervisor.configuration.config import examine

KEY = ApiKey("first", "read", "0123456789abcdef")


def refuse(thread: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


class Parts:
    """What a hang-up reloads, and what it has reloaded."""

    def __init__(self) -> None:
        self.troubles: list[Any] = []
        self.server_files: list[Any] = []
        self.reloaded: list[str] = []

    def replace_keys(self, keys: Any) -> tuple[list[str], list[str]]:
        self.reloaded.append("keys")
        return [], ["first"]

    def replace(self, senders: Any) -> None:
        self.reloaded.append("secrets")

    async def reload(self) -> None:
        self.reloaded.append("pools")

    def reopen(self) -> None:
        pass

    def write(self, event: str, **fields: Any) -> None:
        pass


@pytest.mark.row("A25")
async def test_a_thread_that_cannot_be_started_costs_one_reload(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "killable.server")
    parts: Any = Parts()
    config: Any = SimpleNamespace(
        server=SimpleNamespace(api_keys_file=""),
        webhooks=SimpleNamespace(secrets_file="", allow=()),
        settings=SimpleNamespace(tenants={}),
        file=None,
    )
    in_force = InForce(config, (KEY,))
    monkeypatch.setattr(sighup, "senders_of", lambda config: {})
    before = signal.getsignal(signal.SIGHUP)
    hang_up = sighup.HangUp(in_force, parts, ServiceManager(), parts, parts, parts)

    def told() -> list[str]:
        return [each() for each in parts.troubles if each()]

    async def reloaded() -> list[str]:
        parts.reloaded.clear()
        os.kill(os.getpid(), signal.SIGHUP)
        await until_async(lambda: "pools" in parts.reloaded, "all is reloaded")
        return list(parts.reloaded)

    hang_up.start()
    try:
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refuse)
            assert await reloaded() == ["pools"]
        assert [each.partition(" stay")[0] for each in told()] == ["the keys", "the secrets of webhooks"]
        with monkeypatch.context() as patch:
            patch.setattr(parts, "reopen", None)
            os.kill(os.getpid(), signal.SIGHUP)
            await until_async(lambda: "not_reloaded" in caplog.messages, "it is told")
        assert await reloaded() == ["keys", "secrets", "pools"] and not told()
    finally:
        hang_up.close()
        signal.signal(signal.SIGHUP, before)


async def test_settings_that_were_changed_since_they_were_read_are_told_of_also_if_it_was_during_the_start(
    tmp_path: Path,
) -> None:
    (file := tmp_path / "killable.toml").write_bytes(b"[server]\r\nqueue_jobs_max = 5\r\n")
    config, faults = examine(file, {}, {}, None)
    assert faults == [] and config.written == file.read_bytes()
    for written, told in ((config.written, []), (b"[server]\nqueue_jobs_max = 6\n", [str(file)])):
        file.write_bytes(written)
        parts: Any = Parts()
        hang_up = sighup.HangUp(InForce(config, ()), parts, ServiceManager(), parts)
        await hang_up.read_again()
        assert [text for text in hang_up.not_read() if all(path in text for path in told)] == list(hang_up.not_read())
        assert bool(hang_up.not_read()) == bool(told)
