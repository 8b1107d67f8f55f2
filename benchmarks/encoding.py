"""A real native call that holds the GIL and hears no signal: Hugging Face's `encode` of 4.7 million characters.

Runs in: worker | a child of `raw` | a child of `cooperative`. Needs the extra `models`; without it the benchmark takes
the standard library's `native_loop` for it.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator

from killable import job, preload
from killable.workers.builtin import tokenize

IS_INSTALLED = all(importlib.util.find_spec(name) is not None for name in tokenize.REQUIRES)


@preload(requires=tokenize.REQUIRES)
def corpus() -> str:
    """Read the text once, in the zygote."""
    return tokenize.corpus_text()


@job(requires=tokenize.REQUIRES)
def encode() -> Iterator[str]:
    """Encode the same text for ever, 4.5 s a call."""
    encode_text, text = tokenize.tokenizer().encode, corpus()
    yield "in"
    while True:
        encode_text(text)
