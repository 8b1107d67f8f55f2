"""Reads a request of Anthropic's Messages API as one of chat.

Runs in: api, and in the processes that check inputs. Pure.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from killable.api.openai.bad_request import MISSING, UNSUPPORTED, WRONG_TYPE, WRONG_VALUE, BadRequest, Faults, wrong
from killable.api.openai.request_inputs import (
    Accepting,
    Asked,
    begin_reading,
    not_json,
    read,
    refuse_others,
    require_texts,
    take_neutral,
    take_tools,
)

Path = list[str | int]
_OF_CHAT = ("stop", "parallel_tool_calls", "logprobs", "response_format")
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "thinking": ({"type": "disabled"},),
    "service_tier": ("auto", "standard_only"),
    "container": (),
    "mcp_servers": ([],),
    "context_management": (),
    "output_config": ({},),
}
_CACHED = "cache_control"
"""What a request or a block says of caches changes no answer."""
_CHOICES = {"auto": "auto", "any": "required", "none": "none"}


def read_messages(body: Any, accepting: Mapping[str, Accepting]) -> Asked:
    """Return the request. Raise BadRequest."""
    given, model = begin_reading("messages", body, accepting)
    faults = Faults(wrong([name], "is not of this API", UNSUPPORTED) for name in _OF_CHAT if name in given)
    if "max_tokens" not in given:
        faults.append(wrong(["max_tokens"], "is required", MISSING))
    take_neutral(given, _NEUTRAL, faults)
    given.pop(_CACHED, None)
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
        raise BadRequest(faults)
    return read("messages", {**given, "messages": messages, "model": model}, accepting)


def _messages_of(message: Any, path: Path, faults: Faults) -> list[dict[str, Any]]:
    """Return the messages of a chat that one stands for: results of tools are messages of their own there."""
    if not isinstance(message, dict):
        faults.append(wrong(path, "must be an object", WRONG_TYPE))
        return []
    faults += refuse_others(message, {"role", "content"}, path)
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
                calls.append(_call(block, place, faults))
            case "tool_result" if role == "user":
                results.append(_result(block, place, faults))
            case _:
                texts.append(_block(block, place, faults))
    if calls:
        return [{"role": role, "content": "".join(texts), "tool_calls": calls}]
    return [*results, *([{"role": role, "content": "".join(texts)}] if texts else [])]


def _call(block: dict[str, Any], path: Path, faults: Faults) -> dict[str, Any]:
    faults += refuse_others(block, {"type", "id", "name", "input", _CACHED}, path)
    faults += require_texts(block, ("id", "name"), path)
    input = block.get("input", {})
    if not isinstance(input, dict):
        faults.append(wrong([*path, "input"], "must be an object", WRONG_TYPE))
    elif why := not_json(input):
        faults.append(wrong([*path, "input"], why))
    function = {"name": block.get("name"), "arguments": "" if faults else json.dumps(input)}
    return {"id": block.get("id"), "type": "function", "function": function}


def _result(block: dict[str, Any], path: Path, faults: Faults) -> dict[str, Any]:
    """Return the message of a tool's result. One that is an error says so: a chat has no other place for that."""
    faults += refuse_others(block, {"type", "tool_use_id", "content", "is_error", _CACHED}, path)
    faults += require_texts(block, ("tool_use_id",), path)
    text = _text(block.get("content", ""), [*path, "content"], faults)
    if not isinstance(is_error := block.get("is_error", False), bool):
        faults.append(wrong([*path, "is_error"], "must be true or false", WRONG_TYPE))
    content = f"Error: {text}" if is_error else text
    return {"role": "tool", "tool_call_id": block.get("tool_use_id"), "content": content}


def _text(value: Any, path: Path, faults: Faults) -> str:
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        faults.append(wrong(path, "must be a string or a list of blocks", WRONG_TYPE))
        return ""
    return "".join(_block(block, [*path, number], faults) for number, block in enumerate(value))


def _block(block: Any, path: Path, faults: Faults) -> str:
    """Return the text of a block."""
    if not isinstance(block, dict):
        faults.append(wrong(path, "must be an object", WRONG_TYPE))
    elif block.get("type") != "text":
        faults.append(wrong([*path, "type"], "must be text: other blocks are not supported here", UNSUPPORTED))
    elif not isinstance(text := block.get("text"), str):
        faults.append(wrong([*path, "text"], "must be a string", WRONG_TYPE))
    else:
        faults += refuse_others(block, {"type", "text", _CACHED, "citations"}, path)
        return text
    return ""


def _take_tools(given: dict[str, Any], faults: Faults) -> None:
    """Turn tools, and the choice among them, into those of a chat."""
    if (tools := take_tools(given, faults)) is None:
        return
    names = {"name": "name", "description": "description", "input_schema": "parameters", "strict": "strict"}
    for number, tool in enumerate(tools):
        if tool.get("type") not in (None, "custom"):
            faults.append(wrong(["tools", number, "type"], "must be custom: no other is supported", UNSUPPORTED))
        else:
            faults += refuse_others(tool, {"type", _CACHED, *names}, ["tools", number])
        faults += require_texts(tool, ("name",), ["tools", number])
    if tools:
        given["tools"] = [
            {"type": "function", "function": {other: tool[name] for name, other in names.items() if name in tool}}
            for tool in tools
        ]
    choice = given.pop("tool_choice", None)
    if choice is None:
        return
    kind = choice.get("type") if isinstance(choice, dict) else None
    if isinstance(choice, dict):
        known = {"type", "disable_parallel_tool_use", *(("name",) if kind == "tool" else ())}
        faults += refuse_others(choice, known, ["tool_choice"])
    if kind == "tool":
        faults += require_texts(choice, ("name",), ["tool_choice"])
        given["tool_choice"] = {"type": "function", "function": {"name": choice.get("name")}}
    elif isinstance(kind, str) and kind in _CHOICES:
        given["tool_choice"] = _CHOICES[kind]
    else:
        faults.append(wrong(["tool_choice", "type"], "must be auto, any, tool or none", WRONG_VALUE))
    if isinstance(choice, dict) and not isinstance(single := choice.get("disable_parallel_tool_use") or False, bool):
        faults.append(wrong(["tool_choice", "disable_parallel_tool_use"], "must be true or false", WRONG_TYPE))
    elif isinstance(choice, dict) and single:
        given["parallel_tool_calls"] = False
