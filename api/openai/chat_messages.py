"""Reads the messages of a conversation: what a chat template can render.

Runs in: api, and in the processes that check inputs. Pure.
"""

from __future__ import annotations

from typing import Any

from killable.api.http.request_faults import cut
from killable.api.openai.bad_request import WRONG_VALUE, Faults, wrong

ROLES = ("system", "developer", "user", "assistant", "tool")
MEMBERS = frozenset({"role", "content", "name", "tool_calls", "tool_call_id", "refusal", "audio", "function_call"})
TEXT_PARTS = ("text", "input_text", "output_text", "refusal")
PART_MEMBERS = frozenset({"type", "annotations", "logprobs", "prompt_cache_breakpoint", "cache_control"})
"""Of a part beside its text: what it says of itself, as one of an earlier answer, and of caches. No answer changes."""


class MessageReader:
    """Collects the faults of one request."""

    def __init__(self) -> None:
        self.faults = Faults()

    def wrong(self, path: list[str | int], message: str, code: str = WRONG_VALUE) -> None:
        """Note a fault. Raise BadRequest: there are too many."""
        self.faults.append(wrong(path, message, code))

    def messages(self, value: Any, name: str = "messages") -> list[dict[str, Any]]:
        """Return the messages, with the text of each in one string."""
        if not isinstance(value, list):
            self.wrong([name], "must be a list", "invalid_type")
            return []
        if not value:
            self.wrong([name], "must not be empty")
        return [self._message(each, [name, number]) for number, each in enumerate(value)]

    def _message(self, message: Any, path: list[str | int]) -> dict[str, Any]:
        if not isinstance(message, dict):
            self.wrong(path, "must be an object", "invalid_type")
            return {}
        read = {name: value for name, value in message.items() if value is not None}
        if "role" not in read:
            self.wrong([*path, "role"], "is required", "missing_required_parameter")
        elif read["role"] not in ROLES:
            self.wrong([*path, "role"], f"must be one of {', '.join(ROLES)}")
        for name in read.keys() - MEMBERS | read.keys() & {"audio", "function_call"}:
            self.wrong([*path, cut(name)], "is not supported", "unsupported_parameter")
        if "content" in read:
            read["content"] = self.text(read["content"], [*path, "content"])
        elif not (read.get("role") == "assistant" and ("tool_calls" in read or "refusal" in read)):
            self.wrong([*path, "content"], "is required", "missing_required_parameter")
        else:
            read["content"] = ""  # of a call of a tool: whoever reads messages finds a text in each
        for name in ("name", "tool_call_id"):
            if not isinstance(read.get(name, ""), str):
                self.wrong([*path, name], "must be a string", "invalid_type")
        if read.get("role") == "tool" and "tool_call_id" not in read:
            self.wrong([*path, "tool_call_id"], "is required", "missing_required_parameter")
        if read.get("role") == "developer":
            read["role"] = "system"  # its newer name, which templates do not know
        if "refusal" in read:
            read["content"] = str(read.pop("refusal"))
        calls = read.get("tool_calls", [])
        if not isinstance(calls, list) or not all(isinstance(each, dict) for each in calls):
            self.wrong([*path, "tool_calls"], "must be a list of objects", "invalid_type")
        else:
            for number, call in enumerate(calls):
                self._call(call, [*path, "tool_calls", number])
        return read

    def _call(self, call: dict[str, Any], path: list[str | int]) -> None:
        """Look at a call of a tool: templates and engines take for granted what it has."""
        if call.get("type") != "function":
            self.wrong([*path, "type"], "must be function")
        if not isinstance(call.get("id", ""), str):
            self.wrong([*path, "id"], "must be a string", "invalid_type")
        function = call.get("function")
        if not isinstance(function, dict):
            self.wrong([*path, "function"], "must be an object", "invalid_type")
            return
        for name in ("name", "arguments"):
            if not isinstance(function.get(name), str):
                self.wrong([*path, "function", name], "must be a string", "invalid_type")

    def text(self, content: Any, path: list[str | int]) -> str:
        """Return the text of a message, which may be in parts."""
        if isinstance(content, str):
            return content
        if not isinstance(content, list):
            self.wrong(path, "must be a string or a list of parts", "invalid_type")
            return ""
        return "".join(self._part(part, [*path, number]) for number, part in enumerate(content))

    def _part(self, part: Any, path: list[str | int]) -> str:
        kind = part.get("type") if isinstance(part, dict) else None
        name = "refusal" if kind == "refusal" else "text"
        if not isinstance(part, dict):
            self.wrong(path, "must be an object", "invalid_type")
        elif kind not in TEXT_PARTS:
            self.wrong([*path, "type"], "must be text: other parts are not supported", "unsupported_parameter")
        elif not isinstance(text := part.get(name), str):
            self.wrong([*path, name], "must be a string", "invalid_type")
        else:
            for other in part.keys() - PART_MEMBERS - {name}:
                if part[other] is not None:
                    self.wrong([*path, cut(other)], "is not supported", "unsupported_parameter")
            return text
        return ""
