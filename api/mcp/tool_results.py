"""The result of a tool call: content for the model and the person, structured content for the program.

Runs in: api. Pure.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from mcp_types import (
    BlobResourceContents,
    CallToolResult,
    ContentBlock,
    EmbeddedResource,
    ImageContent,
    ResourceLink,
    TextContent,
)

from killable.api.explanation.remedies import remedy_for
from killable.api.http.joined_output import decoded
from killable.supervisor.models import JobEvent
from killable.workers.error_codes import CODES
from killable.workers.errors import Refused
from killable.workers.protocol.messages import dump_json

JOB_ID = "killable/job_id"
"""Member of `_meta` with the job of a call: for `killable explain`."""
_IMAGES = (
    (b"\x89PNG\r\n\x1a\n", "image/png"), (b"\xff\xd8\xff", "image/jpeg"), (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
)  # fmt: skip
"""How images begin that clients can show."""


class CallOutput:
    """What a job has streamed in its latest attempt, up to a size."""

    def __init__(self, bytes_max: int) -> None:
        self.is_cut = False
        self.is_bytes = False
        self.content = bytearray()
        self._bytes_max = bytes_max

    def add(self, batch: Sequence[JobEvent]) -> None:
        """Take the tokens of events."""
        if any(event.name == "retrying" for event in batch):
            last = max(place for place, event in enumerate(batch) if event.name == "retrying")
            self.is_cut = self.is_bytes = False
            self.content.clear()
            batch = batch[last + 1 :]
        tokens = [event.data for event in batch if event.name == "token"]
        if not tokens:
            return
        self.is_bytes = self.is_bytes or any(token.startswith(b'{"base64"') for token in tokens)
        for piece in () if self.is_cut else decoded(tokens):
            self.content += piece
            if len(self.content) > self._bytes_max:
                self.is_cut = True
                del self.content[self._bytes_max :]
                return


class CallEnding:
    """The end of a job, as its terminal event says it."""

    def __init__(self, data: bytes, job: Mapping[str, Any], address: str) -> None:
        """`job`: its type and limits. `address`: of the job, for what is too large to be in the answer."""
        self.data: dict[str, Any] = readable(json.loads(data))
        self._job = job
        self._address = address

    def answer(self, output: CallOutput) -> CallToolResult:
        """Return the answer to the call."""
        job_id, state = str(self.data["job_id"]), self.data["state"]
        content = _streamed(output, f"{self._address}/output")
        meta = {JOB_ID: job_id}
        if state != "completed":
            error = self._error()
            content.append(TextContent(text=_told(error)))
            structured = {"error": error, "partial": self.data["partial"], "certificate": self.data["certificate"]}
            return CallToolResult(content=content, structured_content=structured, is_error=True, _meta=meta)
        result = self.data["result"]
        if result == {"$ref": f"/v1/jobs/{job_id}/result"}:
            link = f"{self._address}/result"
            content += [TextContent(text=f"The result is too large for this answer: {link}"), _link(link, "result")]
            return CallToolResult(content=content, structured_content={"$ref": link}, _meta=meta)
        if result is None and content:
            return CallToolResult(content=content, _meta=meta)
        content.append(_value(result, f"{self._address}/result"))
        structured = result if isinstance(result, dict) else {"result": result}
        return CallToolResult(content=content, structured_content=structured, _meta=meta)

    def _error(self) -> dict[str, Any]:
        remedy = remedy_for({**self._job, **self.data})
        return {
            **(self.data["error"] or {"code": self.data["state"], "message": "", "retryable": False}),
            "remedy": remedy.words,
            "setting": remedy.setting,
            "job_id": self.data["job_id"],
        }


def refused(error: Refused) -> CallToolResult:
    """Return the answer to a call for which there is no job."""
    row = CODES[error.code]
    facts = {name: value for name, value in error.facts.items() if _is_json(value)}
    told = {"code": error.code, "message": error.message or row.title, "retryable": row.retryable, **facts}
    faults = error.facts.get("faults")
    if faults:
        told["message"] = "; ".join(f"{_field(each['pointer'])} {each['message']}" for each in faults)
        told["remedy"] = "Correct the arguments: the tool's inputSchema says what it accepts."
    elif row.retryable:
        wait_s = error.facts.get("retry_after_s")
        told["remedy"] = "Call again later." if wait_s is None else f"Call again in {wait_s:g} s."
    told = readable(told)
    return CallToolResult(content=[TextContent(text=_told(told))], structured_content={"error": told}, is_error=True)


def readable(value: Any) -> Any:
    """Return a value with half characters replaced (lone surrogates): JSON of a job has them, and UTF-8 has none."""
    match value:
        case str():
            return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
        case list():
            return [readable(each) for each in value]
        case dict():
            return {readable(name): readable(each) for name, each in value.items()}
        case _:
            return value


def _field(pointer: str) -> str:
    """Return the name of an argument: `items/0/name`, or `arguments` for all of them."""
    return pointer.removeprefix("/arguments").lstrip("/").replace("~1", "/").replace("~0", "~") or "arguments"


def _told(error: Mapping[str, Any]) -> str:
    lines = [f"{error['code']}: {error['message']}"]
    lines += [f"{name}: {error[name]}" for name in ("remedy", "job_id") if error.get(name)]
    return "\n".join(lines)


def _is_json(value: Any) -> bool:
    return isinstance(value, (str, int, float, bool, list, dict)) or value is None


def _streamed(output: CallOutput, link: str) -> list[ContentBlock]:
    if not output.content:
        return []
    if output.is_bytes:
        found: list[ContentBlock] = [_link(link, "output")] if output.is_cut else [_blob(bytes(output.content), link)]
        return found
    text: ContentBlock = TextContent(text=output.content.decode("utf-8", "ignore" if output.is_cut else "replace"))
    if not output.is_cut:
        return [text]
    return [text, TextContent(text=f"The output is longer: {link}"), _link(link, "output")]


def _value(result: Any, link: str) -> ContentBlock:
    if isinstance(result, str):
        return TextContent(text=result)
    if isinstance(result, dict) and set(result) == {"base64"} and isinstance(result["base64"], str):
        with suppress(ValueError):  # an object of the job's own, such as one with base64url
            return _blob(base64.b64decode(result["base64"], validate=True), link)
    return TextContent(text=dump_json(result).decode())


def _blob(content: bytes, link: str) -> ContentBlock:
    data = base64.b64encode(content).decode()
    for begin, media_type in _IMAGES:
        if content.startswith(begin):
            return ImageContent(data=data, mime_type=media_type)
    resource = BlobResourceContents(uri=link, blob=data, mime_type="application/octet-stream")
    return EmbeddedResource(resource=resource)


def _link(link: str, name: str) -> ContentBlock:
    return ResourceLink(uri=link, name=name)
