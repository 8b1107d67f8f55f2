"""The SDK's own client for `/mcp`, and requests of one's own to it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import httpx
from support.late_import import LateImport

if TYPE_CHECKING:
    from mcp.client.client import Client
    from mcp_types import CallToolResult

httpx2, mcp_types, mcp_exceptions = LateImport("httpx2"), LateImport("mcp_types"), LateImport("mcp.shared.exceptions")
sdk_client, sdk_http = LateImport("mcp.client.client"), LateImport("mcp.client.streamable_http")
ACCEPT = {"accept": "application/json, text/event-stream"}
HANDSHAKE = ACCEPT | {"mcp-protocol-version": "2025-11-25"}


@asynccontextmanager
async def connected(url: str, mode: str = "auto", key: str = "", **options: Any) -> AsyncIterator[Client]:
    """Connect the SDK's client. `mode`: "legacy" is the protocol with a handshake, "auto" the one without."""
    headers = {"authorization": f"Bearer {key}"} if key else {}
    async with (
        httpx2.AsyncClient(headers=headers, verify=False, timeout=60) as http,
        sdk_client.Client(
            sdk_http.streamable_http_client(f"{url}/mcp", http_client=http), mode=mode, **options
        ) as client,
    ):
        yield client


async def refusal_of(url: str, mode: str = "auto", key: str = "") -> str:
    """Return the refusal that the SDK's client shows."""
    error: BaseException | None = None
    try:
        async with connected(url, mode, key) as client:
            await client.list_tools()
    except (BaseExceptionGroup, mcp_exceptions.MCPError) as caught:
        error = caught
    while isinstance(error, BaseExceptionGroup):
        (error,) = error.exceptions
    return str(error)


def text_of(result: CallToolResult) -> str:
    """Return all text of an answer."""
    return "".join(block.text for block in result.content if isinstance(block, mcp_types.TextContent))


def message(method: str, id: int | str | None = None, **params: Any) -> dict[str, Any]:
    named = {} if id is None else {"id": id}
    return {"jsonrpc": "2.0", "method": method, **named, "params": params}


def call(tool: str, id: int | str = 1, **arguments: Any) -> dict[str, Any]:
    return message("tools/call", id, name=tool, arguments=arguments)


async def post(
    client: httpx.AsyncClient, content: dict[str, Any] | list[Any] | bytes, session: str = "", **headers: str
) -> httpx.Response:
    """Post one message as a client with a handshake."""
    more = HANDSHAKE | ({"mcp-session-id": session} if session else {}) | headers
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    return await client.post("/mcp", content=body, headers={"content-type": "application/json"} | more)


async def session_of(client: httpx.AsyncClient, **headers: str) -> str:
    """Do the handshake, and return the id of the session."""
    params = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}
    answer = await post(client, message("initialize", 0, **params), **headers)
    assert answer.status_code == 200, answer.text
    assert answered(answer)["result"]["capabilities"]["tools"]["listChanged"] is True
    session: str = answer.headers["mcp-session-id"]
    return session


def answered(answer: httpx.Response) -> dict[str, Any]:
    """Return the message that answers a request: JSON, or the last event of a stream."""
    if answer.headers["content-type"].startswith("application/json"):
        found: dict[str, Any] = answer.json()
        return found
    lines = [line.removeprefix("data:") for line in answer.text.splitlines() if line.startswith("data:")]
    last: dict[str, Any] = json.loads(lines[-1])
    return last
