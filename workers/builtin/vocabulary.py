"""The job types that answer OpenAI-compatible servers' `/tokenize` and `/detokenize` with the vocabulary of `tokenize`.

Runs in: worker (the fork pool of `tokenize`, whose memory they share).
"""

from __future__ import annotations

from typing import Annotated, Any

from killable import job
from killable.workers.builtin.tokenize import REQUIRES, tokenizer

MODEL = "deepseek"
VOCABULARY = 1 << 18
"""More than it has; an id beyond it is none of any text."""


@job("text-tokenize", requires=REQUIRES, grace_s=0, openai="tokenize", openai_model=MODEL)
def tokens_of(content: str, add_special: bool = False, with_pieces: bool = False) -> dict[str, Any]:
    """Split a text into the tokens of DeepSeek's vocabulary."""
    encoded = tokenizer().encode(content, add_special_tokens=add_special)
    if with_pieces:
        pieces = zip(encoded.ids, encoded.offsets, strict=True)
        return {"tokens": [{"id": id, "piece": content[start:end]} for id, (start, end) in pieces]}
    return {"tokens": encoded.ids}


@job("text-detokenize", requires=REQUIRES, grace_s=0, openai="detokenize", openai_model=MODEL)
def text_of(tokens: list[Annotated[int, range(VOCABULARY)]]) -> dict[str, Any]:
    """Join tokens of DeepSeek's vocabulary to a text."""
    return {"content": tokenizer().decode(tokens, skip_special_tokens=False)}
