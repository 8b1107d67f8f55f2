"""Bytes, dataclasses, enums and models as inputs: both clients and the command, with a real server."""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from pydantic import BaseModel, ConfigDict
from support.blocking_client import BlockingClient, OneClient
from support.killable_command import Command

from killable import Client, Refused

JOBS = """
import enum, hashlib
from dataclasses import dataclass
from pydantic import BaseModel, ConfigDict
from killable import job

class Mode(enum.Enum):
    FAST = "fast"
    SLOW = "slow"

@dataclass
class Picture:
    name: str
    content: bytes
    mode: Mode = Mode.SLOW

class Model(BaseModel):
    model_config = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")
    content: bytes

@job
def digest(data: bytes, also: list[bytes] | None = None) -> list:
    return [hashlib.sha256(part).hexdigest() for part in (data, *(also or ()))]

@job
def look(picture: Picture) -> str:
    return f"{picture.name} {picture.mode.name} {picture.content!r}"

@job
def read(model: Model) -> bytes:
    return model.content

@job
def shout(text: str) -> str:
    return text.upper()
"""
BLOB = bytes(range(256)) + b"\r\n"
DIGESTS = {part: hashlib.sha256(part).hexdigest() for part in (BLOB, b"x")}


class Mode(enum.Enum):
    FAST = "fast"


@dataclass
class Picture:
    name: str
    content: bytes
    mode: Mode


class Model(BaseModel):
    model_config = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")
    content: bytes


@pytest.fixture(params=[Client, BlockingClient], ids=["Client", "AsyncClient"])
def client(request: pytest.FixtureRequest, url: str) -> Iterator[OneClient]:
    with request.param(url) as one:
        yield one


def test_a_client_sends_values_of_python(client: OneClient) -> None:
    assert client.run("digest", {"data": b"x", "also": [BLOB]}) == [DIGESTS[b"x"], DIGESTS[BLOB]]
    assert client.submit("digest", {"data": bytearray(BLOB)}).result() == [DIGESTS[BLOB]]
    assert client.run("look", {"picture": Picture("a", b"\xff", Mode.FAST)}) == r"a FAST b'\xff'"
    assert client.run("read", {"model": Model(content=BLOB)}) == BLOB
    assert client.run("read", {"model": {"content": BLOB}}) == BLOB


def test_bytes_are_refused_where_the_job_takes_none(client: OneClient) -> None:
    for timeout_s in (None, 60):
        with pytest.raises(Refused, match=r"takes text here: send value\.decode\(\)") as caught:
            client.run("shout", {"text": b"x"}, timeout_s=timeout_s)
        assert (caught.value.code, caught.value.facts["faults"][0]["pointer"]) == ("invalid", "/text")
    with pytest.raises(Refused) as unknown:
        client.run("no-such", {"data": b"x"})
    assert unknown.value.code == "unknown_job_type"
    with pytest.raises(Refused, match="object has no JSON form"):
        client.submit("shout", {"text": object()})
    assert list(client.jobs(type="shout")) == []


def test_the_command_takes_a_file_of_any_content(command: Command, tmp_path: Path) -> None:
    blob = tmp_path / "blob"
    blob.write_bytes(BLOB)
    assert DIGESTS[BLOB] in command.ok("submit", "digest", "-i", f"data=@{blob}")
    assert DIGESTS[b"x"] in command.ok("submit", "digest", "data=x")
    wrong = command.run("submit", "shout", "-i", f"text=@{blob}")
    assert wrong.returncode == 65
    assert "blob is not UTF-8 text (byte 128), and the job takes text here" in " ".join(wrong.stderr.split())
    assert "declare `text: bytes` in the job" in " ".join(wrong.stderr.split())
    assert "data: bytes" in command.ok("types")
    (member,) = [line for line in command.ok("types", "digest").splitlines() if line.startswith("data")]
    assert member.split() == ["data", "bytes", "required", "-"]
