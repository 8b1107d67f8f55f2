"""The OpenAI requests that a job type can answer (`@job(openai="chat")`), and what each demands of the function.

Runs in: any. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Collection

from killable.workers.named_tuples import NamedTuple

MODEL_NAME = r"[A-Za-z0-9][A-Za-z0-9._:/+-]{0,127}"
MODEL_NAME_RULE = "a letter or digit, then at most 127 letters, digits and . _ : / + -"


class OpenAIKind(NamedTuple):
    """One kind of request."""

    parameters: tuple[str, ...]
    """What the function must take. Everything else that it takes needs a default: clients leave it out."""
    streams: bool
    """Whether the function is a generator."""


KINDS: dict[str, OpenAIKind] = {
    "chat": OpenAIKind(("messages",), True),
    "completions": OpenAIKind(("prompt",), True),
    "embeddings": OpenAIKind(("input", "encoding_format"), True),
    "tokenize": OpenAIKind(("content",), False),
    "detokenize": OpenAIKind(("tokens",), False),
}


def why_not(
    kind: object, model: object, *, takes: Collection[str], needs: Collection[str], streams: bool, codec: str
) -> str:
    """Return why a function cannot answer requests of this kind under this model's name; empty: it can.

    `takes` are its parameters, `needs` those without a default.
    """
    if not isinstance(kind, str) or kind not in KINDS:
        return f"openai is {', '.join(KINDS)}, not {kind!r}"
    if not isinstance(model, str) or not re.fullmatch(MODEL_NAME, model):
        return f"openai_model is the name of a model ({MODEL_NAME_RULE}), not {model!r}"
    wanted = KINDS[kind]
    if codec != "json":
        return f'openai="{kind}" needs the codec json'
    if lacking := [name for name in wanted.parameters if name not in takes]:
        return f'openai="{kind}" needs the parameter {", ".join(lacking)}'
    if beyond := sorted(set(needs) - set(wanted.parameters)):
        return f'openai="{kind}": {", ".join(beyond)} needs a default, since clients may leave it out'
    if streams != wanted.streams:
        return (
            f'openai="{kind}" needs a function that {"yields its answer" if wanted.streams else "returns its answer"}'
        )
    return ""
