"""The pools of a server without any: the built-in job types.

Runs in: supervisor, before it starts. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

BUILTIN_POOLS: Mapping[str, Mapping[str, Any]] = {
    "text": {"module": ["killable.workers.builtin.tokenize", "killable.workers.builtin.vocabulary"]},
    "embeddings": {"module": "killable.workers.builtin.embed"},
    # llama.cpp starts threads when it loads: such a process must not be forked from.
    "llm": {"module": ["killable.workers.builtin.generate", "killable.workers.builtin.chat"], "start_method": "spawn"},
}
