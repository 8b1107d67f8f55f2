"""Reads the body of an OpenAI request into the inputs of jobs. Nothing is ignored: what no job type takes is a fault.

Runs in: api, and in the processes that check inputs. Pure.

    body ──► fields of the server (model, stream, n, limits, …) ──► Asked
         └─► fields of the model (messages, temperature, …) ──► an input for each job: one for each prompt and answer
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from killable.api.http.request_faults import FAULTS_MAX, cut
from killable.api.openai.bad_request import (
    MISSING,
    UNSUPPORTED,
    WRONG_TYPE,
    WRONG_VALUE,
    BadRequest,
    Faults,
    wrong,
)
from killable.api.openai.chat_messages import MessageReader
from killable.workers.named_tuples import NamedTuple

ANSWERS_MAX = 16
"""Jobs of one request: its prompts, each `n` times."""
TOOLS_MAX = 128
STOPS_MAX = 16
NO_MODEL = "model_not_found"


class Asked(NamedTuple):
    """One request, read."""

    job_type: str
    """Name of the job type that answers it."""
    model: str
    stream: bool
    include_usage: bool
    options: dict[str, Any]
    """`limits` and `priority` of the jobs, as `POST /v1/jobs` has them; `tags`."""
    background: bool
    n: int
    """Answers to each prompt."""
    inputs: list[dict[str, Any]]
    """Of each job, in the order of the choices."""
    told: bytes = b""
    """What a response repeats of its request, as members of JSON."""


class Accepting(NamedTuple):
    """What a job type takes."""

    job_type: str
    members: Sequence[str] | None
    """The names of its parameters; None: any."""


def refuse_others(members: dict[str, Any], known: Collection[str], path: list[str | int]) -> list[dict[str, str]]:
    """Return a fault for each member that is not known. One that is null asks for nothing."""
    others = sorted(name for name in members.keys() - known if members[name] is not None)
    return [wrong([*path, cut(name)], "is not supported", UNSUPPORTED) for name in others[:FAULTS_MAX]]


def take_neutral(given: dict[str, Any], neutral: Mapping[str, Sequence[Any]], faults: Faults) -> None:
    """Take the fields that no model is asked for; a value that is not listed here as neutral asks for something."""
    for name, values in neutral.items():
        if name in given and given.pop(name) not in values:
            faults.append(wrong([name], "is not supported", UNSUPPORTED))


def take_tools(given: dict[str, Any], faults: Faults) -> list[dict[str, Any]] | None:
    """Take the tools, each an object of whatever members; None: they have a fault."""
    tools = given.pop("tools", [])
    if isinstance(tools, list) and all(isinstance(each, dict) for each in tools):
        return tools
    faults.append(wrong(["tools"], "must be a list of objects", WRONG_TYPE))
    return None


def require_texts(members: dict[str, Any], names: Sequence[str], path: list[str | int]) -> list[dict[str, str]]:
    """Return a fault for each of these members that is no text."""
    return [
        wrong([*path, name], "must be a string", WRONG_TYPE) for name in names if not isinstance(members.get(name), str)
    ]


def not_json(value: Any) -> str:
    """Return why a value that was parsed cannot be written again: Python takes NaN, and a number that is too large."""
    try:
        json.dumps(value, allow_nan=False)
    except (ValueError, RecursionError):
        return "has a number that is not finite, or is nested too deeply"
    return ""


Check = Callable[[Any], str]
"""Returns why a value is wrong; empty: it is right."""


def _code(why: str) -> str:
    return WRONG_TYPE if why.startswith(("must be a ", "must be an ", "must be true")) else WRONG_VALUE


def _text(value: Any) -> str:
    return "" if isinstance(value, str) else "must be a string"


def _flag(value: Any) -> str:
    return "" if isinstance(value, bool) else "must be true or false"


def _object(value: Any) -> str:
    return "" if isinstance(value, dict) else "must be an object"


def _list(value: Any) -> str:
    return "" if isinstance(value, list) else "must be a list"


def _whole(least: int, most: int) -> Check:
    def check(value: Any) -> str:
        if isinstance(value, bool) or not isinstance(value, int):
            return "must be an integer"
        return "" if least <= value <= most else f"must be from {least} to {most}"

    return check


def _number(least: float, most: float) -> Check:
    def check(value: Any) -> str:
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            return "must be a number"
        return "" if least <= value <= most else f"must be from {least:g} to {most:g}"

    return check


def _one_of(*choices: str) -> Check:
    def check(value: Any) -> str:
        return "" if value in choices and isinstance(value, str) else f"must be one of {', '.join(choices)}"

    return check


def _stop(value: Any) -> str:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(each, str) for each in texts):
        return "must be a string or a list of strings"
    if len(texts) > STOPS_MAX:
        return f"must have at most {STOPS_MAX} items"
    return "" if all(texts) else "must not be empty"


_TOKEN = re.compile("[0-9]{1,10}")


def _bias(value: Any) -> str:
    if not isinstance(value, dict) or len(value) > 1024:
        return "must be an object with at most 1024 members"
    fits = all(_TOKEN.fullmatch(name) and not _number(-100, 100)(each) for name, each in value.items())
    return "" if fits else "must have ids of tokens as names and numbers from -100 to 100 as values"


def _tools(value: Any) -> str:
    if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
        return "must be a list of objects"
    if len(value) > TOOLS_MAX:
        return f"must have at most {TOOLS_MAX} items"
    if not all(each.get("type") == "function" for each in value):
        return "must be tools of the type function"
    functions = [each.get("function") for each in value]
    is_named = all(isinstance(each, dict) and isinstance(each.get("name"), str) for each in functions)
    return "" if is_named else "must have functions with names"


def _format(value: Any) -> str:
    if not isinstance(value, dict):
        return "must be an object"
    if value.get("type") not in ("text", "json_object", "json_schema"):
        return "must be of the type text, json_object or json_schema"
    if value["type"] == "json_schema" and not isinstance(value.get("json_schema"), dict):
        return "must have a json_schema"
    return ""


def _tool_choice(value: Any) -> str:
    return (
        ""
        if value in ("none", "auto", "required") or isinstance(value, dict)
        else ("must be none, auto, required or an object")
    )


_TOKENS = _whole(1, 2**31 - 1)
SAMPLING: dict[str, Check] = {
    "max_tokens": _TOKENS,
    "temperature": _number(0, 2),
    "top_p": _number(0, 1),
    "stop": _stop,
    "seed": _whole(-(2**63), 2**63 - 1),
    "presence_penalty": _number(-2, 2),
    "frequency_penalty": _number(-2, 2),
    "logit_bias": _bias,
    "top_k": _whole(-1, 2**31 - 1),
    "min_p": _number(0, 1),
    "repeat_penalty": _number(0.01, 100),
}
"""How a model draws its tokens. The last three are of llama.cpp's servers, -1 or 0 of `top_k` is all tokens."""
_OF_ANSWERS: dict[str, Check] = {
    "logprobs": _flag,
    "top_logprobs": _whole(0, 20),
    "response_format": _format,
    "tools": _tools,
    "tool_choice": _tool_choice,
    "parallel_tool_calls": _flag,
}
"""Of those that an assistant answers: chats and responses."""
FIELDS: dict[str, dict[str, Check]] = {
    "chat": {
        **SAMPLING,
        **_OF_ANSWERS,
        "max_completion_tokens": _TOKENS,
        "reasoning_effort": _text,
    },
    "responses": {
        **{name: SAMPLING[name] for name in ("temperature", "top_p")},
        **_OF_ANSWERS,
        "max_output_tokens": _TOKENS,
    },
    "messages": {
        **{name: SAMPLING[name] for name in ("max_tokens", "top_p", "stop")},
        **{name: _OF_ANSWERS[name] for name in ("tools", "tool_choice", "parallel_tool_calls")},
        "temperature": _number(0, 1),
        "top_k": SAMPLING["top_k"],
    },
    "completions": {**SAMPLING, "logprobs": _whole(0, 5), "echo": _flag, "suffix": _text},
    "embeddings": {"encoding_format": _one_of("float", "base64"), "dimensions": _whole(1, 1 << 20)},
    "tokenize": {"add_special": _flag, "parse_special": _flag, "with_pieces": _flag},
    "detokenize": {},
}
"""What the model is asked for, by kind. A type may take more; those that no API has are checked by its schema only."""
ALIASES = {
    "chat": {"max_completion_tokens": "max_tokens"},
    "responses": {"max_output_tokens": "max_tokens"},
    "messages": {"stop_sequences": "stop"},
    "tokenize": {"prompt": "content", "text": "content", "add_special_tokens": "add_special"},
    "detokenize": {"ids": "tokens"},
}
"""Other names of the same; those of vLLM's `/tokenize` among them."""
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "temperature": (1,),
    "top_p": (1,),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "logit_bias": ({},),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "response_format": ({"type": "text"},),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "parallel_tool_calls": (True,),
    "stop": ([],),
    "top_k": (-1, 0),
    "min_p": (0,),
    "repeat_penalty": (1,),
    "echo": (False,),
    "suffix": ("",),
    "best_of": (1,),
    "service_tier": ("auto", "default"),
    "modalities": (["text"],),
    "verbosity": ("medium",),
    "functions": ([],),
    "add_special": (False,),
    "with_pieces": (False,),
    "encoding_format": ("float",),
}
"""Values that ask for nothing. A type that does not take the field answers them all the same."""
IDENTIFYING = ("user", "safety_identifier", "prompt_cache_key")
"""They change no answer. The job has them as tags."""
TAG_CHARS_MAX = 256
PLACES: dict[tuple[str, str], list[str | int]] = {
    ("responses", "response_format"): ["text", "format"],
    ("responses", "logprobs"): ["include"],
    ("messages", "parallel_tool_calls"): ["tool_choice", "disable_parallel_tool_use"],
}
"""Of fields that stand elsewhere in their requests."""


def read(kind: str, body: Any, accepting: Mapping[str, Accepting]) -> Asked:
    """Return a request of one kind; `accepting` has the types that answer it, by model. Raise BadRequest."""
    given, model = begin_reading(kind, body, accepting)
    reader = MessageReader()
    taken = accepting[model]
    server = _server_fields(kind, given, reader.faults)
    input = _model_fields(kind, given, taken, reader)
    inputs = _inputs(kind, given, input, server["n"], reader)
    if reader.faults:
        raise BadRequest(reader.faults)
    options: dict[str, Any] = {name: given[name] for name in ("limits", "priority") if name in given}
    options["tags"] = _tags(given)
    return Asked(
        job_type=taken.job_type,
        model=model,
        stream=server["stream"],
        include_usage=server["include_usage"],
        options=options,
        background=server["background"],
        n=server["n"],
        inputs=inputs,
    )


def begin_reading(kind: str, body: Any, accepting: Mapping[str, Accepting]) -> tuple[dict[str, Any], str]:
    """Return the given fields (one that is null is not given), and the model, which is taken from them. Raise
    BadRequest.
    """
    if not isinstance(body, dict):
        raise BadRequest([wrong([], "must be an object", WRONG_TYPE)])
    given = {name: value for name, value in body.items() if value is not None}
    model = given.pop("model", None)
    if model is None and kind in ("tokenize", "detokenize"):  # llama.cpp's servers have one, which has no name
        model = next(iter(accepting), "")
    if model is None:
        raise BadRequest([wrong(["model"], "is required", MISSING)])
    if not isinstance(model, str):
        raise BadRequest([wrong(["model"], "must be a string", WRONG_TYPE)])
    if model not in accepting:
        known = ", ".join(accepting) or "none"
        raise BadRequest([wrong(["model"], f"is none of the models for this address; there are: {known}", NO_MODEL)])
    return given, model


def _server_fields(kind: str, given: dict[str, Any], faults: Faults) -> dict[str, Any]:
    """Take what is the server's from the given fields."""
    found: dict[str, Any] = {"stream": False, "n": 1, "include_usage": False, "background": False}
    checks: dict[str, Check] = {}
    if kind == "messages":
        checks = {"stream": _flag}
    elif kind == "responses":
        checks = {"stream": _flag, "background": _flag, "store": _flag, "stream_options": _object}
    elif kind in ("chat", "completions"):
        checks = {"stream": _flag, "n": _whole(1, ANSWERS_MAX), "stream_options": _object, "store": _flag}
    for name, check in checks.items():
        if name in given:
            value = given.pop(name)
            if why := check(value):
                faults.append(wrong([name], why, _code(why)))
            else:
                found[name] = value
    if found.pop("store", False) and kind != "responses":
        faults.append(wrong(["store"], "is not supported: answers are not stored", UNSUPPORTED))
    for name, value in found.pop("stream_options", {}).items():
        if name == "include_usage" and isinstance(value, bool) and kind != "responses":
            found["include_usage"] = value
        elif not (name == "include_obfuscation" and value is False):
            faults.append(wrong(["stream_options", name], "is not supported", UNSUPPORTED))
    if found["include_usage"] and not found["stream"]:
        faults.append(wrong(["stream_options"], "is for streams only"))
    return found


_CONTENT = {
    "chat": "messages",
    "responses": "messages",
    "messages": "messages",
    "completions": "prompt",
    "embeddings": "input",
    "tokenize": "content",
}
_CONTENT |= {"detokenize": "tokens"}
_OPTIONS = frozenset({"limits", "priority", "metadata", *IDENTIFYING})


def _model_fields(kind: str, given: dict[str, Any], taken: Accepting, reader: MessageReader) -> dict[str, Any]:
    """Return what the model is asked for, under the names that job types have."""
    faults = reader.faults
    input: dict[str, Any] = {}
    for spelled, value in given.items():
        name = ALIASES.get(kind, {}).get(spelled, spelled)
        if name == _CONTENT[kind]:
            continue
        if name in _OPTIONS and (taken.members is None or name not in taken.members):
            continue
        check = FIELDS[kind].get(spelled) or FIELDS[kind].get(name) or SAMPLING.get(name)
        why = (check(value) if check else "") or not_json(value)
        if why:
            faults.append(wrong([spelled], why, _code(why)))
        elif name in input:
            faults.append(wrong([spelled], f"is another name of {name}: give one of them"))
        elif taken.members is None or name in taken.members:
            input[name] = [value] if name == "stop" and isinstance(value, str) else value
        elif not _asks_for_nothing(name, value, given):
            place = PLACES.get((kind, name), [cut(spelled)])
            faults.append(wrong(place, "is not supported by this model", UNSUPPORTED))
    if input.get("tools") and "tool_choice" not in input and given.get("tool_choice") == "none":
        faults.append(wrong(["tool_choice"], "is not supported by this model: it calls tools as it likes", UNSUPPORTED))
    _check_together(kind, input, faults)
    return input


def _asks_for_nothing(name: str, value: Any, given: dict[str, Any]) -> bool:
    if name == "parallel_tool_calls" and not given.get("tools"):
        return True
    return any((value == each and type(value) is not bool) or value is each for each in NEUTRAL.get(name, ()))


def _check_together(kind: str, input: dict[str, Any], faults: Faults) -> None:
    is_chat = kind in ("chat", "responses", "messages")
    if is_chat and "top_logprobs" in input and not input.get("logprobs"):
        faults.append(wrong(["top_logprobs"], "needs logprobs"))
    if is_chat and "tool_choice" in input and not input.get("tools"):
        if input["tool_choice"] not in ("none", "auto"):
            faults.append(wrong(["tool_choice"], "needs tools"))
        else:
            del input["tool_choice"]
    if is_chat and not input.get("tools"):
        input.pop("parallel_tool_calls", None)
        input.pop("tools", None)
    if kind == "completions" and input.get("logprobs") == 0:
        input["logprobs"] = 1  # that of the token itself, which comes with the first of the alternatives


def _inputs(
    kind: str, given: dict[str, Any], input: dict[str, Any], n: int, reader: MessageReader
) -> list[dict[str, Any]]:
    content = _CONTENT[kind]
    spellings = [name for name in given if ALIASES.get(kind, {}).get(name, name) == content]
    if not spellings:
        reader.faults.append(wrong([content], "is required", MISSING))
        return []
    spelled, *others = spellings
    reader.faults.extend(wrong([other], f"is another name of {spelled}: give one of them") for other in others)
    value = given[spelled]
    contents = [value]
    match kind:
        case "chat" | "responses" | "messages":
            contents = [reader.messages(value, "input" if kind == "responses" else spelled)]
        case "completions":
            contents = value if isinstance(value, list) and value else [value]
            if not all(isinstance(each, str) for each in contents):
                reader.faults.append(wrong([spelled], "must be a string or a list of strings", WRONG_TYPE))
        case "embeddings":
            contents = [value if isinstance(value, list) else [value]]
            if not contents[0] or not all(isinstance(each, str) for each in contents[0]):
                reader.faults.append(wrong([spelled], "must be a string or a list of strings", WRONG_TYPE))
        case "tokenize":
            if why := _text(value):
                reader.faults.append(wrong([spelled], why, WRONG_TYPE))
        case _:
            if why := _list(value):
                reader.faults.append(wrong([spelled], why, WRONG_TYPE))
    if len(contents) * n > ANSWERS_MAX:
        reader.faults.append(wrong(["n"], f"asks for {len(contents) * n} answers; at most {ANSWERS_MAX} are allowed"))
        return []
    seed = input.get("seed")
    if isinstance(seed, int) and (why := SAMPLING["seed"](seed + n - 1)):
        reader.faults.append(wrong(["seed"], f"{why} for each of the answers"))
    return [
        {**input, content: each, **({} if seed is None or n == 1 else {"seed": seed + number})}
        for each in contents
        for number in range(n)
    ]


def _tags(given: dict[str, Any]) -> dict[str, Any]:
    """Return what identifies a request, as tags of its jobs. The tags are checked as those of a submission."""
    tags = given.get("metadata", {})
    if not isinstance(tags, dict):
        raise BadRequest([wrong(["metadata"], "must be an object", WRONG_TYPE)])
    for name in IDENTIFYING:
        if name in given:
            if not isinstance(given[name], str) or len(given[name]) > TAG_CHARS_MAX:
                raise BadRequest([wrong([name], f"must be a string of at most {TAG_CHARS_MAX} characters", WRONG_TYPE)])
            tags = {**tags, name: given[name]}
    return tags
