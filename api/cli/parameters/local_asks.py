"""Ask a server on this machine without httpx, whose import takes longer than a prompt may: for shell completion.

Runs in: any machine, in the completion that a shell starts.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Mapping
from http.client import HTTPConnection
from typing import Any
from urllib.parse import urlencode, urlsplit

from killable.api.client.addresses import is_loopback, unix_path


def local_asker(address: str, timeout_s: float) -> Callable[[str, Mapping[str, str]], Any] | None:
    """Return what asks that server; None if it may be on another machine, or encrypts: httpx knows proxies and TLS.

    It raises any exception for what is no answer.
    """
    path = unix_path(address)
    parts = urlsplit(address if "://" in address else f"http://{address}")
    if path is None and (parts.scheme != "http" or not is_loopback(parts.hostname or "")):
        return None
    key = os.environ.get("KILLABLE_API_KEY", "").strip()
    headers = {"Authorization": f"Bearer {key}"} if key else {}

    def ask(route: str, query: Mapping[str, str]) -> Any:
        connection = HTTPConnection(parts.hostname or "localhost", parts.port or 80, timeout=timeout_s)
        if path is not None:
            connection.sock = socket.socket(socket.AF_UNIX)
            connection.sock.settimeout(timeout_s)
            connection.sock.connect(path)
        try:
            connection.request("GET", f"{route}?{urlencode(query)}" if query else route, headers=headers)
            answer = connection.getresponse()
            if answer.status != 200:
                raise ValueError(answer.status)
            return json.load(answer)
        finally:
            connection.close()

    return ask
