"""A server without tools imports nothing of MCP: that takes a second and 30 MB."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("imported", "found"),
    [
        ("killable.api.cli.server.http_server", "set()"),
        ("killable.api.cli.commands.serve", "set()"),
        ("killable.api.mcp.endpoint", "{'mcp'}"),
    ],
)
def test_without_tools_nothing_of_mcp_is_imported(imported: str, found: str) -> None:
    """And who imports it is seen."""
    program = f"import sys, {imported}; print({{'mcp'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == f"{found}\n"
