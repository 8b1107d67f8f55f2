"""Reads a request of Anthropic's Messages API as one of chat.

Runs in: api, and in the processes that check inputs. Pure.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from killable.api.openai.request_inputs import (
    MISSING,
    UNSUPPORTED,
    WRONG_TYPE,
    WRONG_VALUE,
    Accepting,
    Asked,
    BadRequest,
    model_of,
    read,
    wrong,
)

Path = list[str | int]
Faults = list[dict[str, str]]
_OF_CHAT = ("stop", "parallel_tool_calls", "logprobs", "response_format")
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "thinking": ({"type": "disabled"},),
    "service_tier": ("auto", "standard_only"),
    "container": (),
    "mcp_servers": ([],),
    "context_management": (),
    "output_config": ({},),
}
_CHOICES = {"auto": "auto", "any": "required", "none": "none"}


def read_messages(body: Any, accepting: Mapping[str, Accepting]) -> Asked:
    """Return the request. Raise BadRequest."""
    if not isinstance(body, dict):
        raise BadRequest(wrong([], "must be an object", WRONG_TYPE))
    given = {name: value for name, value in body.items() if value is not None}
    model = model_of("messages", given, accepting)
    faults = [wrong([name], "is not of this API", UNSUPPORTED) for name in _OF_CHAT if name in given]
    if "max_tokens" not in given:
        faults.append(wrong(["max_tokens"], "is required", MISSING))
    for name, neutral in _NEUTRAL.items():
        if name in given and given.pop(name) not in neutral:
            faults.append(wrong([name], "is not supported", UNSUPPORTED))
    system = given.pop("system", None)
    messages = [] if system is None else [{"role": "system", "content": _text(system, ["system"], faults)}]
    found = given.pop("messages", None)
    if not isinstance(found, list) or not found:
        faults.append(wrong(["messages"], "must be a list of messages", WRONG_TYPE if found else MISSING))
    else:
        for number, message in enumerate(found):
            messages += _messages_of(message, ["messages", number], faults)
    _take_tools(given, faults)
    if faults:
        raise BadRequest(*faults)
    return read("messages", {**given, "messages": messages, "model": model}, accepting)


def _messages_of(message: Any, path: Path, faults: Faults) -> list[dict[str, Any]]:
    """Return the messages of a chat that one stands for: results of tools are messages of their own there."""
    if not isinstance(message, dict):
        faults.append(wrong(path, "must be an object", WRONG_TYPE))
        return []
    if (role := message.get("role")) not in ("user", "assistant"):
        faults.append(wrong([*path, "role"], "must be user or assistant"))
        return []
    content = message.get("content")
    if isinstance(content, str):
        return [{"role": role, "content": content}]
    if not isinstance(content, list) or not content:
        faults.append(wrong([*path, "content"], "must be a string or a list of blocks", WRONG_TYPE))
        return []
    texts: list[str] = []
    calls: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for number, block in enumerate(content):
        place = [*path, "content", number]
        match block.get("type") if isinstance(block, dict) else None:
            case "tool_use" if role == "assistant":
                function = {"name": block.get("name"), "arguments": json.dumps(block.get("input", {}))}
                calls.append({"id": block.get("id"), "type": "function", "function": function})
            case "tool_result" if role == "user":
                said = block.get("content", "")
                text = said if isinstance(said, str) else _text(said, [*place, "content"], faults)
                results.append({"role": "tool", "tool_call_id": block.get("tool_use_id"), "content": text})
            case _:
                texts.append(_block(block, place, faults))
    if calls:
        return [{"role": role, "content": "".join(texts), "tool_calls": calls}]
    return [*results, *([{"role": role, "content": "".join(texts)}] if texts else [])]


def _text(value: Any, path: Path, faults: Faults) -> str:
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        faults.append(wrong(path, "must be a string or a list of blocks", WRONG_TYPE))
        return ""
    return "".join(_block(block, [*path, number], faults) for number, block in enumerate(value))


def _block(block: Any, path: Path, faults: Faults) -> str:
    """Return the text of a block. What it says of caches changes no answer."""
    if not isinstance(block, dict):
        faults.append(wrong(path, "must be an object", WRONG_TYPE))
    elif block.get("type") != "text":
        faults.append(wrong([*path, "type"], "must be text: other blocks are not supported here", UNSUPPORTED))
    elif not isinstance(text := block.get("text"), str):
        faults.append(wrong([*path, "text"], "must be a string", WRONG_TYPE))
    elif unknown := sorted(block.keys() - {"type", "text", "cache_control", "citations"}):
        faults.append(wrong([*path, unknown[0]], "is not supported", UNSUPPORTED))
    else:
        return text
    return ""


def _take_tools(given: dict[str, Any], faults: Faults) -> None:
    """Turn tools, and the choice among them, into those of a chat."""
    tools = given.pop("tools", [])
    if not isinstance(tools, list) or not all(isinstance(each, dict) for each in tools):
        faults.append(wrong(["tools"], "must be a list of objects", WRONG_TYPE))
        return
    for number, tool in enumerate(tools):
        if tool.get("type") not in (None, "custom"):
            faults.append(wrong(["tools", number, "type"], "must be custom: no other is supported", UNSUPPORTED))
        if not isinstance(tool.get("name"), str):
            faults.append(wrong(["tools", number, "name"], "must be a string", WRONG_TYPE))
    if tools:
        names = {"name": "name", "description": "description", "input_schema": "parameters", "strict": "strict"}
        given["tools"] = [
            {"type": "function", "function": {other: tool[name] for name, other in names.items() if name in tool}}
            for tool in tools
        ]
    choice = given.pop("tool_choice", None)
    if choice is None:
        return
    kind = choice.get("type") if isinstance(choice, dict) else None
    if kind == "tool":
        given["tool_choice"] = {"type": "function", "function": {"name": choice.get("name")}}
    elif isinstance(kind, str) and kind in _CHOICES:
        given["tool_choice"] = _CHOICES[kind]
    else:
        faults.append(wrong(["tool_choice", "type"], "must be auto, any, tool or none", WRONG_VALUE))
    if isinstance(choice, dict) and choice.get("disable_parallel_tool_use"):
        given["parallel_tool_calls"] = False
