"""What people type: inputs by a schema, tags, limits, names of jobs."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, cast

import click
import pytest

from killable.api.cli.parameters.job_input import kinds_of, parse_value, read_input, read_tags, tag_filter
from killable.api.cli.parameters.job_lookup import Ambiguous, find_job, find_worker, matching
from killable.api.cli.parameters.limit_options import limits_of
from killable.api.cli.parameters.option_values import LimitOption, seconds
from killable.api.client.client import Client
from killable.api.client.input_encoding import forms_of
from killable.workers.authoring.input_types import BYTES
from killable.workers.errors import Refused

SCHEMA = {
    "type": "object",
    "properties": {
        "text": {"type": "string"},
        "n": {"type": "integer", "minimum": 1},
        "ratio": {"type": "number"},
        "loud": {"type": "boolean"},
        "seed": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
        "names": {"type": "array", "items": {"type": "string"}},
        "options": {"$ref": "#/$defs/Options"},
        "mode": {"enum": ["plain", "loud"]},
        "level": {"enum": [1, 2]},
        "either": {"type": ["string", "integer"]},
        "anything": {},
        "blob": BYTES.schema,
        "blob_or_none": {"anyOf": [BYTES.schema, {"type": "null"}]},
        "blob_or_text": {"anyOf": [BYTES.schema, {"type": "string"}]},
        "pydantics": {"type": "string", "format": "binary"},
    },
    "$defs": {"Options": {"type": "object"}, "Loop": {"$ref": "#/$defs/Loop"}},
}


class Server:
    """What of a client these functions ask for."""

    def __init__(self, jobs: tuple[str, ...] = (), workers: tuple[str, ...] = ()) -> None:
        self._jobs, self._workers = jobs, workers

    def types(self) -> list[dict[str, Any]]:
        return [{"name": "split", "operations": ["cut"], "input_schema": SCHEMA}]

    def jobs(self) -> list[dict[str, Any]]:
        return [{"job_id": id} for id in self._jobs]

    def workers(self) -> list[dict[str, Any]]:
        return [{"worker_id": id} for id in self._workers]

    def job(self, id: str) -> str:
        return id


def given(*pairs: str, document: str | None = None, type: str = "split") -> dict[str, Any]:
    return read_input(cast(Client, Server()), type, pairs, document)


def test_values_have_the_types_of_the_schema() -> None:
    pairs = ("text=5", "n=5", "ratio=5", "loud=true", "seed=null", 'names=["a"]', 'options={"a":1}', "mode=loud")
    assert given(*pairs, "level=2", "either=5", "anything=5", "unknown=5") == {
        "text": "5", "n": 5, "ratio": 5.0, "loud": True, "seed": None, "names": ["a"], "options": {"a": 1},
        "mode": "loud", "level": 2, "either": "5", "anything": "5", "unknown": "5",
    }  # fmt: skip
    assert given("n=5", type="cut") == {"n": 5}
    assert given("n=5", type="nobody") == {"n": "5"}


def test_a_value_may_have_equals_signs_and_spaces() -> None:
    assert given("text=a = b") == {"text": "a = b"}
    assert given("text=") == {"text": ""}


def test_every_value_that_does_not_fit_is_named() -> None:
    with pytest.raises(Refused) as caught:
        given("n=x", "n=5", "loud=maybe", "names={}", "ratio=nan")
    assert caught.value.code == "invalid"
    assert {fault["pointer"]: fault["message"] for fault in caught.value.facts["faults"]} == {
        "/n": 'must be a whole number, not "x"',
        "/loud": 'must be true or false, not "maybe"',
        "/names": 'must be a JSON list, not "{}"',
        "/ratio": 'must be a number, not "nan"',
    }


def test_values_and_documents_come_from_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text, document = tmp_path / "text", tmp_path / "document"
    text.write_text("çä\n", "utf-8")
    document.write_text('{"n": 1, "loud": true}')
    assert given(f"text=@{text}", document=f"@{document}") == {"text": "çä\n", "n": 1, "loud": True}
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b'{"n": 2}')))
    assert given("n=3", document="-") == {"n": 3}
    with pytest.raises(Refused, match="no such file"):
        given("text=@/nowhere")
    text.write_bytes(b"\xff")
    with pytest.raises(Refused, match="not UTF-8"):
        given(f"text=@{text}")


@pytest.mark.parametrize(
    ("document", "why"),
    [
        ("{", "not JSON"),
        ("[]", "must be a JSON object, not array"),
        ('{"a":' + "[" * 100_000, "--input is nested too deeply"),
    ],
)
def test_a_document_is_a_json_object(document: str, why: str) -> None:
    with pytest.raises(Refused, match=why):
        given(document=document)


@pytest.mark.parametrize("pair", ["text", "=x", ""])
def test_a_pair_that_is_none_is_a_usage_error(pair: str) -> None:
    with pytest.raises(click.BadParameter):
        given(pair)
    with pytest.raises(click.BadParameter):
        read_tags([pair])


def test_bytes_come_from_a_file_as_they_are_and_from_text_as_typed(tmp_path: Path) -> None:
    blob, text = tmp_path / "blob", tmp_path / "text"
    blob.write_bytes(b"\xff\r\n\x00")
    text.write_bytes(b"a\r\n")
    assert given(f"blob=@{blob}", f"blob_or_none=@{text}", f"blob_or_text=@{blob}", f"pydantics=@{text}") == {
        "blob": {"base64": "/w0KAA=="}, "blob_or_none": {"base64": "YQ0K"}, "blob_or_text": {"base64": "/w0KAA=="},
        "pydantics": "a\r\n",
    }  # fmt: skip
    assert given(f"blob_or_text=@{text}") == {"blob_or_text": "a\n"}
    typed = given("blob=\udcff{}", "blob_or_none=null", "blob_or_text=hi", "pydantics=hi")
    assert typed == {"blob": {"base64": "/3t9"}, "blob_or_none": None, "blob_or_text": "hi", "pydantics": "hi"}
    assert given('blob={"base64": "aGk="}') == {"blob": {"base64": "aGk="}}
    for name, takes in (("text", "takes text here"), ("n", "takes a whole number here")):
        with pytest.raises(Refused, match=rf"blob is not UTF-8 text \(byte 0\), and the job {takes}") as caught:
            given(f"{name}=@{blob}")
        assert f"declare `{name}: bytes` in the job" in caught.value.message
    with pytest.raises(Refused, match="pydantic's bytes travel as text"):
        given(f"pydantics=@{blob}")


def test_kinds_of_odd_schemas() -> None:
    assert kinds_of(forms_of({"const": None}, {})) == {"null"}
    assert kinds_of(forms_of({"anyOf": [{"type": "integer"}, {}]}, {})) == set()
    assert kinds_of(forms_of({"$ref": "#/$defs/Loop"}, SCHEMA)) == set()
    assert parse_value("null", {"string", "null"}) is None


def test_tags() -> None:
    assert read_tags(["team=search", "url=a=b"]) == {"team": "search", "url": "a=b"}
    assert [tag_filter(pair) for pair in ("team=search", "team:search", "url=a:b", None)] == [
        "team:search", "team:search", "url:a:b", None,
    ]  # fmt: skip
    with pytest.raises(click.BadParameter):
        tag_filter("team")


def test_limits() -> None:
    assert (LimitOption("run_s")("5m"), LimitOption("memory_bytes")("1GiB"), LimitOption("ack_s")("none")) == (
        300.0,
        1 << 30,
        "none",
    )
    given = {"run_s": 5.0, "ack_s": "none", "grace_s": None, "queue_s": 0.0, "operation_s": ()}
    assert limits_of(given) == {"run_s": 5.0, "ack_s": None, "queue_s": 0.0}
    times = limits_of({"operation_s": ["load/download=10m", "save=none"]})
    assert times == {"operation_s": {"load/download": 600.0, "save": None}}
    with pytest.raises(click.BadParameter, match="NAME=SECONDS"):
        limits_of({"operation_s": ["10m"]})
    assert (LimitOption("cpu_s")("5m"), LimitOption("files_max")("512"), LimitOption("processes_max")("none")) == (
        300.0,
        512,
        "none",
    )
    assert seconds("250ms") == 0.25
    with pytest.raises(click.BadParameter, match="5m"):
        seconds("soon")
    with pytest.raises(click.BadParameter, match="at least 1"):
        LimitOption("processes_max")("0")


FULL = "job-3f2a91c0-1111-4111-8111-111111111111"
JOBS = (FULL, "job-3f99aaaa-1111-4111-8111-111111111111", "job-4f000000-1111-4111-8111-111111111111")


def found(name: str) -> str:
    return cast(str, find_job(cast(Client, Server(JOBS)), name))


def test_jobs_go_by_unique_prefixes_with_and_without_their_job() -> None:
    assert found("job-3f2") == found("3f2a") == found(FULL) == FULL
    assert matching("", JOBS) == matching("job-", JOBS) == []
    # A full id is not looked up in a list that may be long: the server knows whether it exists.
    assert found(FULL.replace("3f2", "000")) == FULL.replace("3f2", "000")


def test_an_unknown_or_ambiguous_name_is_refused() -> None:
    with pytest.raises(Refused) as unknown:
        found("zz")
    assert unknown.value.code == "unknown_job"
    with pytest.raises(Ambiguous, match="2 ids") as ambiguous:
        found("3f")
    assert ambiguous.value.exit_code == 2
    assert ambiguous.value.facts["matches"] == list(JOBS[:2])


def test_a_worker_goes_by_its_whole_name_as_a_prefix_may_be_that_of_one_that_has_gone() -> None:
    client = cast(Client, Server(workers=("w-12", "w-3")))
    assert find_worker(client, "w-12") == {"worker_id": "w-12"}
    assert [find_worker(client, name) for name in ("w-1", "w-", "w", "")] == [None] * 4
