"""A real native call that holds the GIL and handles no signal: Hugging Face's `encode` of 4.7 million characters.

Runs in: worker | a child of `raw_kill` | a child of `cooperative_cancel`. Needs the extra `models`; without it only
`native_loop` of `jobs` is measured. A module of its own: its preload runs in every pool that imports it.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Iterator

from killable import job, preload
from killable.workers.builtin import tokenize

IS_INSTALLED = all(importlib.util.find_spec(name) is not None for name in tokenize.REQUIRES)


@preload(requires=tokenize.REQUIRES)
def corpus() -> str:
    """Read the text once, in the zygote."""
    return tokenize.corpus_text()


@job(requires=tokenize.REQUIRES)
def encode() -> Iterator[float]:
    """Encode the same text for ever, 4.5 s per call."""
    encode_text, text = tokenize.tokenizer().encode, corpus()
    yield time.monotonic()
    while True:
        encode_text(text)
