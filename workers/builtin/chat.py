"""The job types that answer OpenAI's requests with the model of `generate`: chat, completions, its vocabulary.

Runs in: worker (the spawn pool of `generate`).

Their parameters are the members of OpenAI's requests that this engine has. `grace_s` is 0: there is nothing to clean
up, and a client that leaves gives its processor to the next one at once.
"""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Annotated, Any, Literal

from killable import Context, InputRefused, job
from killable.workers.builtin.generate import CONTEXT_TOKENS, REQUIRES, ask_engine, stream

if TYPE_CHECKING:
    from collections.abc import Generator

MODEL = "smollm2-135m-instruct"
Penalty = float
Tokens = Annotated[int, range(1, 1 << 31)]
TopK = Annotated[int, range(-1, 1 << 31)]
"""-1, as 0, is all of them."""
VOCABULARY = 49152
TOKEN_CHARS = 10


@job(requires=REQUIRES, grace_s=0, openai="chat", openai_model=MODEL)
def chat(
    messages: list[dict[str, Any]],
    max_tokens: Tokens | None = None,
    temperature: float | None = None,
    top_p: float | None = None,
    top_k: TopK | None = None,
    min_p: float | None = None,
    stop: list[str] | None = None,
    seed: int | None = None,
    presence_penalty: Penalty | None = None,
    frequency_penalty: Penalty | None = None,
    repeat_penalty: Penalty | None = None,
    logit_bias: dict[str, float] | None = None,
    logprobs: bool | None = None,
    top_logprobs: Annotated[int, range(21)] | None = None,
    response_format: dict[str, Any] | None = None,
    tools: list[dict[str, Any]] | None = None,
    tool_choice: str | dict[str, Any] | None = None,
    parallel_tool_calls: bool | None = None,
    *,
    ctx: Context,
) -> Generator[str | dict[str, Any], None, dict[str, Any]]:
    """Answer a conversation with a small language model, token by token."""
    request = _request(
        messages=messages, max_tokens=max_tokens, temperature=temperature, top_p=top_p, top_k=top_k, min_p=min_p,
        stop=stop, seed=seed, presence_penalty=presence_penalty, frequency_penalty=frequency_penalty,
        repeat_penalty=repeat_penalty, logit_bias=logit_bias, logprobs=logprobs, top_logprobs=top_logprobs,
        response_format=response_format, tools=tools, tool_choice=tool_choice,
        parallel_tool_calls=parallel_tool_calls,
    )  # fmt: skip
    if tools and not ask_engine("/props")["chat_template_caps"]["supports_tools"]:
        raise InputRefused("the chat template of this model has no tools", "tools", code="unsupported_parameter")
    run = _Run("messages", ctx)
    with closing(run.chunks(request)) as chunks:
        for chunk in chunks:
            for choice in run.choices_of(chunk):
                delta = choice["delta"]
                if logprobs := choice.get("logprobs"):
                    yield {"content": delta.get("content") or "", "logprobs": _without_ids(logprobs)}
                elif content := delta.get("content"):
                    yield content
                if more := {name: delta[name] for name in ("tool_calls", "reasoning_content") if delta.get(name)}:
                    yield more
    return run.result


@job(requires=REQUIRES, grace_s=0, openai="completions", openai_model=MODEL)
def complete(
    prompt: str,
    max_tokens: Tokens = 16,
    temperature: float | None = None,
    top_p: float | None = None,
    top_k: TopK | None = None,
    min_p: float | None = None,
    stop: list[str] | None = None,
    seed: int | None = None,
    presence_penalty: Penalty | None = None,
    frequency_penalty: Penalty | None = None,
    repeat_penalty: Penalty | None = None,
    logit_bias: dict[str, float] | None = None,
    logprobs: Annotated[int, range(1, 6)] | None = None,
    *,
    ctx: Context,
) -> Generator[str | dict[str, Any], None, dict[str, Any]]:
    """Continue a text with a small language model, token by token."""
    request = _request(
        prompt=prompt, max_tokens=max_tokens, temperature=temperature, top_p=top_p, top_k=top_k, min_p=min_p,
        stop=stop, seed=seed, presence_penalty=presence_penalty, frequency_penalty=frequency_penalty,
        repeat_penalty=repeat_penalty, logit_bias=logit_bias, logprobs=logprobs,
    )  # fmt: skip
    run, offset = _Run("prompt", ctx), len(prompt)
    with closing(run.chunks(request, "handle_completions")) as chunks:
        for chunk in chunks:
            for choice in run.choices_of(chunk):
                if found := choice.get("logprobs"):
                    yield {"text": choice["text"], "logprobs": _as_columns(found["content"], offset)}
                elif choice["text"]:
                    yield choice["text"]
                offset += len(choice["text"])
    return run.result


@job("llm-tokenize", requires=REQUIRES, grace_s=0, openai="tokenize", openai_model=MODEL)
def tokens_of(
    content: str, add_special: bool = False, parse_special: bool = True, with_pieces: bool = False
) -> dict[str, Any]:
    """Split a text into the tokens of the language model."""
    asked = {"content": content, "add_special": add_special, "parse_special": parse_special, "with_pieces": with_pieces}
    return {"tokens": ask_engine("/tokenize", asked)["tokens"], "max_model_len": CONTEXT_TOKENS}


@job("llm-detokenize", requires=REQUIRES, grace_s=0, openai="detokenize", openai_model=MODEL)
def text_of(tokens: list[Annotated[int, range(VOCABULARY)]]) -> dict[str, Any]:
    """Join tokens of the language model to a text."""
    return {"content": ask_engine("/detokenize", {"tokens": tokens})["content"]}


class _Run:
    """One answer of the engine: what it counts, and how it ends."""

    def __init__(self, source: Literal["messages", "prompt"], ctx: Context) -> None:
        self._source = source
        self._ctx = ctx
        self._usage: dict[str, Any] = {}
        self._finish_reason: str | None = None

    def chunks(
        self,
        request: dict[str, Any],
        call: Literal["handle_chat_completions", "handle_completions"] = "handle_chat_completions",
    ) -> Generator[dict[str, Any], None, None]:
        """Yield the engine's chunks. Raise InputRefused for what the model does not have."""
        if foreign := [token for token in request.get("logit_bias", ()) if not _is_token(token)]:
            raise InputRefused(f"{foreign[0][:TOKEN_CHARS]} is no token of this model", "logit_bias")
        has_begun = False
        try:
            with closing(stream(request, call)) as chunks:
                for chunk in chunks:
                    has_begun = True
                    yield chunk
        except (ValueError, RuntimeError) as error:
            if has_begun:
                raise
            # The engine has read the request, and says why it is none; how it fails later, its chunks say.
            raise InputRefused(f"the engine refuses the request: {error}") from error

    def choices_of(self, chunk: dict[str, Any]) -> list[dict[str, Any]]:
        """Return what a chunk adds to the answer. Raise InputRefused for what the engine refuses."""
        if "error" in chunk:
            raise self._refusal(chunk["error"])
        if progress := chunk.get("prompt_progress"):
            if not self._usage:  # kept as `partial`, should the job be killed
                self._usage = {"prompt_tokens": progress["total"]}
                self._ctx.checkpoint({"usage": self._usage})
            return []
        if usage := chunk.get("usage"):
            self._usage = usage
        choices: list[dict[str, Any]] = chunk["choices"]
        for choice in choices:
            self._finish_reason = choice["finish_reason"] or self._finish_reason
        return choices

    @property
    def result(self) -> dict[str, Any]:
        return {"finish_reason": self._finish_reason, "usage": self._usage}

    def _refusal(self, error: dict[str, Any]) -> Exception:
        if error.get("type") == "exceed_context_size_error":
            prompt, room = error["n_prompt_tokens"], error["n_ctx"]
            return InputRefused(
                f"the context of this model has {room} tokens, and the {self._source} take {prompt}",
                self._source,
                code="context_length_exceeded",
                prompt_tokens=prompt,
                context_tokens=room,
            )
        if error.get("code") == 400:
            return InputRefused(f"the engine refuses the request: {error.get('message')}")
        return RuntimeError(f"the engine failed: {error.get('message')}")


def _is_token(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= TOKEN_CHARS and int(text) < VOCABULARY


def _request(**members: Any) -> dict[str, Any]:
    """Return the request for the engine: the members that were given, streamed, with their counts."""
    given = {name: value for name, value in members.items() if value is not None}
    return {**given, "stream": True, "stream_options": {"include_usage": True}, "return_progress": True}


def _without_ids(logprobs: dict[str, Any]) -> dict[str, Any]:
    """Return log probabilities as OpenAI has them: the engine adds the numbers of its tokens."""
    return {"content": [_entry(each) for each in logprobs["content"]], "refusal": None}


def _entry(token: dict[str, Any]) -> dict[str, Any]:
    kept = {name: token[name] for name in ("token", "logprob", "bytes")}
    return (
        kept | {"top_logprobs": [_entry(each) for each in token["top_logprobs"]]} if "top_logprobs" in token else kept
    )


def _as_columns(tokens: list[dict[str, Any]], offset: int) -> dict[str, Any]:
    """Return log probabilities as completions have them; the first token begins at `offset`."""
    offsets = []
    for each in tokens:
        offsets.append(offset)
        offset += len(each["token"])
    return {
        "tokens": [each["token"] for each in tokens],
        "token_logprobs": [each["logprob"] for each in tokens],
        "top_logprobs": [{top["token"]: top["logprob"] for top in each["top_logprobs"]} for each in tokens],
        "text_offset": offsets,
    }
