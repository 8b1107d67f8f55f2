"""Reads a request of the Responses API as one of chat.

Runs in: api, and in the processes that check inputs. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from killable.api.openai.bad_request import MISSING, UNSUPPORTED, WRONG_TYPE, WRONG_VALUE, BadRequest, Faults, wrong
from killable.api.openai.chat_messages import MessageReader
from killable.api.openai.request_inputs import (
    Accepting,
    Asked,
    begin_reading,
    read,
    refuse_others,
    require_texts,
    take_neutral,
    take_tools,
)
from killable.workers.protocol.messages import dump_json

KEPT = "is not supported: the answer is kept as that of any job (server.keep_s)"
_OF_CHAT = ("messages", "max_tokens", "max_completion_tokens", "response_format", "logprobs")
TOLD: dict[str, Any] = {
    "background": False,
    "instructions": None,
    "max_output_tokens": None,
    "parallel_tool_calls": True,
    "temperature": None,
    "text": {"format": {"type": "text"}},
    "tool_choice": "auto",
    "tools": [],
    "top_p": None,
}
"""What a response repeats of its request, and what it says of a member that was not set."""
_OF_ITEMS = ("type", "id", "status")
"""What an item says of itself, as one of an earlier answer: it changes no other."""
_OF_TOOLS = ("name", "description", "parameters", "strict")
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "truncation": ("disabled",),
    "reasoning": ({}, {"effort": None}),
    "service_tier": ("auto", "default"),
    "max_tool_calls": (),
    "prompt": (),
}
UNKNOWN_STATE = "is not supported: send the whole conversation as input"


def read_response(body: Any, accepting: Mapping[str, Accepting]) -> Asked:
    """Return the request. Raise BadRequest."""
    given, model = begin_reading("responses", body, accepting)
    faults = Faults(wrong([name], "is not of this API", UNSUPPORTED) for name in _OF_CHAT if name in given)
    instructions = given.pop("instructions", None)
    if not (instructions is None or isinstance(instructions, str)):
        raise BadRequest([wrong(["instructions"], "must be a string", WRONG_TYPE)])
    given["messages"] = _messages(given, faults)
    for name in ("previous_response_id", "conversation"):
        if name in given:
            faults.append(wrong([name], UNKNOWN_STATE, UNSUPPORTED))
    if given.get("store") is False:
        faults.append(wrong(["store"], KEPT, UNSUPPORTED))
    take_neutral(given, _NEUTRAL, faults)
    _take_text(given, faults)
    _take_tools(given, faults)
    if "top_logprobs" in given or given.get("include"):
        _take_include(given, faults)
    given.pop("include", None)
    if faults:
        raise BadRequest(faults)
    asked = read("responses", {**given, "model": model}, accepting)
    if instructions is not None:  # only now: the items are counted as they stand in the request
        asked.inputs[0]["messages"].insert(0, {"role": "system", "content": instructions})
    return asked._replace(told=_told(body))


def _told(body: Mapping[str, Any]) -> bytes:
    """Return what a response repeats of its request, as members of JSON."""
    told = TOLD | {name: body[name] for name in TOLD if body.get(name) is not None}
    told["text"] = TOLD["text"] | {name: member for name, member in told["text"].items() if member is not None}
    return dump_json(told)[1:-1]


def _messages(given: dict[str, Any], faults: Faults) -> list[Any]:
    input = given.pop("input", None)
    if input is None:
        raise BadRequest([wrong(["input"], "is required", MISSING)])
    if isinstance(input, str):
        return [{"role": "user", "content": input}]
    if not isinstance(input, list) or not input:
        raise BadRequest([wrong(["input"], "must be a string or a list of items", WRONG_TYPE)])
    return [_message(item, ["input", number], faults) for number, item in enumerate(input)]


def _message(item: Any, path: list[str | int], faults: Faults) -> dict[str, Any] | None:
    """Return an item of the input as a message of a chat; None, if it has a fault."""
    if not isinstance(item, dict):
        faults.append(wrong(path, "must be an object", WRONG_TYPE))
        return None
    match item.get("type", "message"):
        case "message":
            if "role" not in item or "content" not in item:
                faults.append(wrong([*path, "role" if "role" not in item else "content"], "is required", MISSING))
                return None
            faults += refuse_others(item, {"role", "content", "phase", *_OF_ITEMS}, path)
            return {"role": item["role"], "content": item["content"]}
        case "function_call":
            names = ("call_id", "name", "arguments")
            faults += refuse_others(item, {*names, *_OF_ITEMS}, path) + require_texts(item, names, path)
            function = {name: item.get(name) for name in ("name", "arguments")}
            call = {"id": item.get("call_id"), "type": "function", "function": function}
            return {"role": "assistant", "content": "", "tool_calls": [call]}
        case "function_call_output":
            faults += refuse_others(item, {"call_id", "output", *_OF_ITEMS}, path)
            faults += require_texts(item, ("call_id",), path)
            reader = MessageReader()
            text = reader.text(item.get("output"), [*path, "output"])
            faults += reader.faults
            return {"role": "tool", "tool_call_id": item.get("call_id"), "content": text}
        case _:
            faults.append(wrong([*path, "type"], "is not supported", UNSUPPORTED))
            return None


def _take_text(given: dict[str, Any], faults: Faults) -> None:
    text = given.pop("text", None)
    if text is None:
        return
    if not isinstance(text, dict):
        faults.append(wrong(["text"], "must be an object", WRONG_TYPE))
        return
    faults += refuse_others(text, {"format", "verbosity"}, ["text"])
    if text.get("verbosity") not in (None, "medium"):
        faults.append(wrong(["text", "verbosity"], "is not supported", UNSUPPORTED))
    format = text.get("format")
    if format is None or format == {"type": "text"}:
        return
    kind = format.get("type") if isinstance(format, dict) else None
    if kind == "json_object":
        given["response_format"] = format
    elif kind == "json_schema":
        schema = {name: member for name, member in format.items() if name != "type"}
        given["response_format"] = {"type": kind, "json_schema": schema}
    else:
        faults.append(wrong(["text", "format"], "must be of type text, json_object or json_schema", WRONG_VALUE))


def _take_tools(given: dict[str, Any], faults: Faults) -> None:
    if (tools := take_tools(given, faults)) is None:
        return
    for number, tool in enumerate(tools):
        if tool.get("type") != "function":
            faults.append(wrong(["tools", number, "type"], "must be function: no other is supported", UNSUPPORTED))
        else:
            faults += refuse_others(tool, {"type", *_OF_TOOLS}, ["tools", number])
    if tools:
        functions = [{name: tool[name] for name in _OF_TOOLS if tool.get(name) is not None} for tool in tools]
        given["tools"] = [{"type": "function", "function": function} for function in functions]
    choice = given.get("tool_choice")
    if isinstance(choice, dict) and choice.get("type") == "function":
        given["tool_choice"] = {"type": "function", "function": {"name": choice.get("name")}}


def _take_include(given: dict[str, Any], faults: Faults) -> None:
    include = given.get("include", [])
    for number, each in enumerate(include if isinstance(include, list) else [None]):
        if each != "message.output_text.logprobs":
            faults.append(wrong(["include", number], "is not supported", UNSUPPORTED))
        else:
            given["logprobs"] = True
