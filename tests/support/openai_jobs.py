"""Job types that answer OpenAI's requests without a model: what they are told, word by word, or what goes wrong."""

from __future__ import annotations

import base64
import os
import time
from array import array
from collections.abc import Generator, Iterator
from typing import Annotated, Any, Literal

from killable import Context, InputRefused, job

NOT_FOR_PARROTS = "these words are not for parrots"
Refuse = Literal["", "refuse"]


@job(openai="chat", openai_model="parrot", grace_s=0)
def parrot(
    messages: list[dict[str, Any]],
    max_tokens: Annotated[int, range(1, 10_001)] = 1000,
    seed: int = 0,
    temperature: float = 1.0,
    stop: list[str] | None = None,
    gate: str = "",
    then: Literal["", "raise", "refuse", "hang", "exit", "nonsense"] = "",
    refused: str = "messages.0.content",
    *,
    ctx: Context,
) -> Generator[str | dict[str, Any] | int, None, dict[str, Any]]:
    """Say the last message again, word by word; then wait for a gate, and go on as `then` says."""
    words = messages[-1]["content"].split()
    ctx.checkpoint({"usage": {"prompt_tokens": len(words)}})
    stopped_at = None
    for number, word in enumerate(words[:max_tokens]):
        if stop and word in stop:
            stopped_at = word
            break
        yield (" " if number else "") + word + (f"#{seed}" if seed else "")
    if gate:
        open(gate, "rb").close()
    match then:
        case "raise":
            raise ValueError("no more words")
        case "refuse":
            raise InputRefused(NOT_FOR_PARROTS, refused, code="unspeakable")
        case "hang":
            while True:
                pass
        case "exit":
            os._exit(3)
        case "nonsense":
            yield 7
    reason = "length" if len(words) > max_tokens else "a reason of its own"
    said = min(len(words), max_tokens)
    usage = {"prompt_tokens": len(words), "completion_tokens": said}
    return {"finish_reason": reason, "usage": usage, "stop_sequence": stopped_at}


@job("conversation", openai="chat", openai_model="echo", grace_s=0)
def conversation(messages: list[dict[str, Any]], max_tokens: int = 1000) -> Iterator[str]:
    """Say the whole conversation again, as the model has it."""
    said = []
    for message in messages:
        calls = (call["function"] for call in message.get("tool_calls", ()))
        said.append(
            " ".join(
                [
                    f"{message['role']}: {message['content']}",
                    *(f"{call['name']}({call['arguments']})" for call in calls),
                ]
            )
        )
    yield " | ".join(said)


@job("complete", openai="completions", openai_model="parrot", grace_s=0)
def complete(
    prompt: str, max_tokens: int = 16, seed: int = 0, echo: bool = False, then: Refuse = "", refused: str = ""
) -> Iterator[str]:
    """Say a text again, backwards; it counts nothing."""
    yield from (prompt if echo else "") + prompt[::-1][:max_tokens]
    if then:
        raise InputRefused(NOT_FOR_PARROTS, refused, code="unspeakable")


@job(openai="chat", openai_model="caller", grace_s=0)
def caller(
    messages: list[dict[str, Any]],
    tools: list[dict[str, Any]] | None = None,
    logprobs: bool = False,
    max_tokens: int = 1000,
) -> Generator[dict[str, Any], None, dict[str, Any]]:
    """Call the first tool with arguments that come in pieces, or say a word with its log probability."""
    if tools:
        name = tools[0]["function"]["name"]
        yield {"tool_calls": [{"index": 0, "id": "call_1", "type": "function", "function": {"name": name}}]}
        for piece in ('{"city":', ' "Paris"}')[:max_tokens]:
            yield {"tool_calls": [{"index": 0, "function": {"arguments": piece}}]}
        reason = "length" if max_tokens < 2 else "tool_calls"
        return {"finish_reason": reason, "usage": {"prompt_tokens": 3, "completion_tokens": 2}}
    entry = {"token": "yes", "logprob": -0.5, "bytes": [121, 101, 115], "top_logprobs": []}
    yield {"content": "yes", "logprobs": {"content": [entry], "refusal": None} if logprobs else None}
    return {"finish_reason": "stop"}


@job(openai="embeddings", openai_model="lengths", grace_s=0)
def lengths(
    input: list[str], encoding_format: Literal["float", "base64"] = "float", then: Refuse = "", refused: str = ""
) -> Iterator[Any]:
    """Turn each text into a vector of two numbers."""
    if then:
        raise InputRefused(NOT_FOR_PARROTS, refused, code="unspeakable")
    for text in input:
        vector = [float(len(text)), 0.5]
        yield base64.b64encode(array("f", vector).tobytes()).decode() if encoding_format == "base64" else vector
    return {"usage": {"prompt_tokens": len(input), "total_tokens": len(input)}}


@job("letters", openai="tokenize", openai_model="parrot")
def letters(content: str) -> dict[str, Any]:
    """Split a text into letters."""
    return {"tokens": list(map(ord, content))}


@job("text", openai="detokenize", openai_model="parrot")
def text(tokens: list[int]) -> dict[str, Any]:
    """Join letters."""
    return {"content": "".join(map(chr, tokens))}


@job(openai="chat", openai_model="again", attempts_max=2, grace_s=0)
def again(messages: list[dict[str, Any]], late: bool = False, *, ctx: Context) -> Iterator[str]:
    """Lose the process of the first attempt, before its first word or `late`."""
    if late and ctx.attempt == 1:
        yield "first"
        time.sleep(0.001)
    if ctx.attempt == 1:
        os.kill(os.getpid(), 9)
    yield "second"


@job(openai="chat", openai_model="anew", retry_on=ConnectionError, attempts_max=2, backoff_s=0, grace_s=0)
def anew(messages: list[dict[str, Any]], max_tokens: int = 1000, gate: str = "", *, ctx: Context) -> Iterator[str]:
    """Say which attempt it is and wait for a gate. The first one fails then, and is followed by another."""
    yield "first" if ctx.attempt == 1 else "second"
    open(gate, "rb").close()
    if ctx.attempt == 1:
        raise ConnectionError


@job
def plain(text: str) -> Iterator[str]:
    """Answer no request of OpenAI's."""
    yield text
