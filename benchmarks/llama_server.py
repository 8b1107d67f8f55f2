"""llama.cpp's own HTTP server with the built-in model, to measure beside killable's.

Runs in: a process of its own (`python llama_server.py THREADS SLOTS`), until its stdin is closed. It prints its port,
and its key is `benchmark`.
"""

from __future__ import annotations

import sys
from typing import Any
from urllib.parse import urlsplit

from killable.workers.builtin.generate import CONTEXT_TOKENS, model_path

KEY = "benchmark"


def engine(threads: int, slots: int) -> Any:
    """Load the model into an engine as that of the built-in job types, but for these."""
    import xllamacpp  # type: ignore[import-not-found, import-untyped, unused-ignore]

    params = xllamacpp.CommonParams()
    params.model.path = str(model_path())
    params.n_ctx = CONTEXT_TOKENS * slots  # each slot has its share
    params.n_parallel = slots
    params.cpuparams.n_threads = threads
    params.verbosity = 1
    params.api_keys = [KEY]
    return xllamacpp.Server(params)


def main(threads: str, slots: str) -> None:
    server = engine(int(threads), int(slots))
    print(urlsplit(server.listening_address).port, flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main(*sys.argv[1:])
