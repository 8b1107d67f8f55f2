"""`server.mcp` without the package that it needs, or with another release of it, is refused with what to install."""

from __future__ import annotations

from importlib import metadata
from typing import Any

import pytest

from killable.api.cli.server import configuration


@pytest.mark.parametrize(
    ("installed", "said"),
    [
        (None, "no such package"),
        ("1.30.0", "mcp 1.30.0"),
        ("2.2.9", "mcp 2.2.9"),
        ("3.0.0", "mcp 3.0.0"),
        ("nonsense", "mcp nonsense"),
        ("2.3.0", None),
        ("2.10.0rc1", None),
    ],
)
def test_the_package_has_to_fit(monkeypatch: pytest.MonkeyPatch, installed: str | None, said: str | None) -> None:
    def version(name: str) -> str:
        assert name == "mcp"
        if installed is None:
            raise metadata.PackageNotFoundError(name)
        return installed

    monkeypatch.setattr(configuration.metadata, "version", version)
    flags: dict[str, Any] = {"server.mcp": True}
    _, faults = configuration.examine(None, {}, flags, None)
    told = [str(fault) for fault in faults if fault.key == "server.mcp"]
    assert len(told) == (said is not None)
    if said is not None:
        assert said in told[0] and 'pip install "killable[mcp]"' in told[0]


def test_a_server_without_tools_needs_no_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(configuration.metadata, "version")
    assert configuration.examine(None, {}, {}, None)[1] == []
