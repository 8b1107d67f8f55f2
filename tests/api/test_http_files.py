"""Files that clients upload for jobs, and files that jobs save, over HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from api_server import OwnServer, StartServer, problem_of
from support.waiting import Pending, until_async

from killable.api.http import bodies
from killable.api.http.app_settings import HttpSettings
from killable.supervisor.settings import PoolSpec

JOBS = PoolSpec(
    name="files", modules=(str(Path(__file__).parent.parent / "support" / "file_jobs.py"),), workers=2, spares=1
)
CONTENT = bytes(range(256)) * 40
SHA = hashlib.sha256(CONTENT).hexdigest()
PLAIN = {"content-type": "application/octet-stream"}


def serving(start_server: StartServer, **settings: Any) -> Any:
    return start_server(more=(JOBS,), has_files=True, **settings)


@pytest_asyncio.fixture
async def files(start_server: StartServer) -> AsyncIterator[OwnServer]:
    async with serving(start_server) as server:
        yield server


async def upload(server: OwnServer, content: bytes = CONTENT, name: str = "in.bin", **headers: str) -> dict[str, Any]:
    answer = await server.client.post("/v1/files", params={"name": name}, content=content, headers=PLAIN | headers)
    assert answer.status_code == 201, answer.text
    assert answer.headers["location"] == f"/v1/files/{answer.json()['file_id']}"
    record: dict[str, Any] = answer.json()
    return record


async def run(server: OwnServer, type: str, **input: Any) -> dict[str, Any]:
    return await server.record(await server.submit(type, **input), wait_s=30)


def on_disk(server: OwnServer) -> set[str]:
    """Return what is in the folder of files, but for the folders themselves."""
    assert server.supervisor.files is not None
    root = server.supervisor.files.root
    # Not rglob, which raises before Python 3.13 when the server removes a folder between two looks at it.
    found = (os.path.join(folder, name) for folder, _, names in os.walk(root) for name in names if name != "lock")
    return {os.path.relpath(path, root) for path in found}


async def nothing_on_disk(server: OwnServer) -> None:
    await until_async(lambda: not on_disk(server), "nothing is left on the disk")


async def test_an_uploaded_file_is_read_by_a_job(files: OwnServer) -> None:
    record = await upload(files)
    assert (record["name"], record["size"], record["sha256"], record["jobs"]) == ("in.bin", len(CONTENT), SHA, 0)
    done = await run(files, "digest", file=record["file_id"])
    assert done["result"] == {"name": "in.bin", "sha256": SHA}
    (listed,) = (await files.client.get("/v1/files")).json()["files"]
    assert listed == record | {"jobs": 1}
    assert (await files.client.get(f"/v1/files/{record['file_id']}")).json() == listed
    whole = await files.client.get(f"/v1/files/{record['file_id']}/content")
    assert whole.content == CONTENT
    assert whole.headers["content-disposition"] == 'attachment; filename="in.bin"'


async def test_files_are_found_wherever_the_input_has_them(files: OwnServer) -> None:
    ids = [(await upload(files, b"x", name))["file_id"] for name in ("a.png", "b.png", "c.png")]
    done = await run(files, "names", album={"title": "t", "pictures": ids[:2]}, cover=ids[2], text="x" * 20_000)
    assert done["result"] == ["a.png", "b.png", "c.png"]
    assert [each["jobs"] for each in (await files.client.get("/v1/files")).json()["files"]] == [1, 1, 1]


async def test_a_form_has_one_file(files: OwnServer) -> None:
    answer = await files.client.post("/v1/files", files={"file": ("Bild é.png", CONTENT, "image/png")})
    record = answer.json()
    assert (answer.status_code, record["name"], record["content_type"]) == (201, "Bild é.png", "image/png")
    assert (record["size"], record["sha256"]) == (len(CONTENT), SHA)
    renamed = await files.client.post("/v1/files?name=x.png", files={"file": ("../../etc/passwd", b"")})
    assert (renamed.json()["name"], renamed.json()["size"]) == ("x.png", 0)
    stripped = await files.client.post("/v1/files", files={"file": ("../../etc/passwd", b"")})
    assert stripped.json()["name"] == "passwd"


def form(*parts: bytes, end: bytes = b"--B--\r\n") -> bytes:
    return b"".join(b"--B\r\n" + part + b"\r\n" for part in parts) + end


FILE_PART = b'Content-Disposition: form-data; name="file"; filename="a"\r\n\r\nx'
FIELD_PART = b'Content-Disposition: form-data; name="purpose"\r\n\r\nx'


@pytest.mark.parametrize(
    ("content", "boundary", "code"),
    [
        (form(FILE_PART, FILE_PART), "B", "invalid"),
        (form(FIELD_PART, FILE_PART), "B", "invalid"),
        (form(), "B", "invalid"),
        (form(FILE_PART, end=b""), "B", "malformed"),
        (b"nothing of it", "B", "malformed"),
        (form(FILE_PART), "", "malformed"),
        (form(FILE_PART), "B" * 1000, "malformed"),
        (form(b'Content-Disposition: form-data; name="file"; filename="a\x01b"\r\n\r\nx'), "B", "invalid"),
    ],
)
async def test_a_bad_form_leaves_nothing(files: OwnServer, content: bytes, boundary: str, code: str) -> None:
    kind = f"multipart/form-data; boundary={boundary}"
    answer = await files.client.post("/v1/files", content=content, headers={"content-type": kind})
    problem_of(answer, 422 if code == "invalid" else 400, code)
    await nothing_on_disk(files)


@pytest.mark.parametrize("name", ["a/b", "..", "a\nb", "é" * 128])
async def test_a_name_that_no_file_has_is_refused(files: OwnServer, name: str) -> None:
    answer = await files.client.post("/v1/files", params={"name": name}, content=b"x", headers=PLAIN)
    problem = problem_of(answer, 422, "invalid")
    assert problem["faults"][0]["pointer"] == "/name"
    await nothing_on_disk(files)


async def test_a_file_over_its_bound_is_refused_before_it_comes(start_server: StartServer) -> None:
    async with serving(start_server, file_bytes_max=1000) as server:
        exact = await upload(server, b"x" * 1000)
        assert exact["size"] == 1000
        assert (await server.client.post("/v1/files", files={"file": ("a", b"x" * 1000)})).status_code == 201
        before = on_disk(server)
        # Not a byte of the body is sent.
        reader, writer = await server.raw(b"POST /v1/files HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1001\r\n\r\n")
        assert b" 413 " in await reader.readline()
        writer.close()
        assert on_disk(server) == before
        for arguments in ({"content": b"x" * 1001}, {"content": pieces(b"x" * 600, 2)},
                          {"files": {"file": ("a", b"x" * 1001)}}):  # fmt: skip
            problem = problem_of(await server.client.post("/v1/files", **arguments), 413, "too_large")
            assert problem["limit_bytes"] == 1000
        await until_async(lambda: on_disk(server) == before, "nothing of them is left")


async def pieces(piece: bytes, number: int) -> AsyncIterator[bytes]:
    """A body without Content-Length."""
    for _ in range(number):
        yield piece


async def test_a_tenant_has_so_many_bytes_and_files(start_server: StartServer) -> None:
    async with serving(start_server, files_bytes_max=1000, files_max=3) as server:
        first = await upload(server, b"x" * 600)
        problem = problem_of(await server.client.post("/v1/files", content=b"x" * 500), 413, "files_full")
        assert (problem["used_bytes"], problem["retryable"]) == (600, True)
        problem_of(await server.client.post("/v1/files", content=pieces(b"x" * 500, 2)), 413, "files_full")
        # A file that only ended jobs have used makes way.
        await run(server, "digest", file=first["file_id"])
        second = await upload(server, b"y" * 700)
        problem_of(await server.client.get(f"/v1/files/{first['file_id']}"), 404, "unknown_file")
        for _ in range(2):
            await upload(server, b"")
        problem_of(await server.client.post("/v1/files", content=b""), 413, "files_full")
        assert (await server.client.delete(f"/v1/files/{second['file_id']}")).json() == second
        await upload(server, b"z" * 1000)


async def test_a_client_that_leaves_in_the_middle_leaves_nothing(files: OwnServer) -> None:
    head = b"POST /v1/files HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1000000\r\n\r\n"
    _, writer = await files.raw(head + b"x" * 400_000)
    await until_async(lambda: on_disk(files), "the upload has begun")
    writer.transport.abort()
    await nothing_on_disk(files)
    assert (await files.client.get("/v1/files")).json() == {"files": [], "next_cursor": None}


async def test_a_slow_upload_has_a_deadline(start_server: StartServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("killable.api.http.file_uploads.BODY_BYTES_PER_S", 1 << 40)
    assert bodies.BODY_BYTES_PER_S
    async with serving(start_server, http=HttpSettings(body_timeout_s=0.3)) as server:
        reader, writer = await server.raw(b"POST /v1/files HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9\r\n\r\nx")
        assert b" 408 " in await reader.readline()
        writer.close()
        await nothing_on_disk(server)


async def test_a_file_stays_while_a_job_needs_it(files: OwnServer, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    record = await upload(files, b"content", "a.txt")
    address = f"/v1/files/{record['file_id']}"
    first = await files.submit("wait_with", file=record["file_id"], gate=str(gate))
    await files.read(first, until="token")
    second = await files.submit("digest", file=record["file_id"])
    await files.record(second, wait_s=30)
    problem = problem_of(await files.client.delete(address), 409, "file_in_use")
    assert problem["active_jobs"] == 1
    assert (await files.client.get(address)).json() == record | {"jobs": 2, "active_jobs": 1}
    gate.open("wb").close()
    assert (await files.record(first, wait_s=30))["result"] == "content"
    assert (await files.client.delete(address)).status_code == 200
    await nothing_on_disk(files)
    problem_of(await files.client.delete(address), 404, "unknown_file")


async def test_a_file_goes_with_the_last_record_of_its_jobs(start_server: StartServer) -> None:
    async with serving(start_server, keep_jobs=2) as server:
        record = await upload(server)
        for _ in range(2):
            await run(server, "digest", file=record["file_id"])
        await run(server, "save", name="a")
        assert (await server.client.get(f"/v1/files/{record['file_id']}")).json()["jobs"] == 1
        await run(server, "save", name="b")
        problem_of(await server.client.get(f"/v1/files/{record['file_id']}"), 404, "unknown_file")
        await until_async(lambda: len(on_disk(server)) == 2, "the files of two jobs are left")
        await run(server, "names", album={"title": "", "pictures": []})
        await until_async(lambda: {Path(each).name for each in on_disk(server)} == {"b"}, "the older one is gone")


async def test_an_unused_file_is_removed_after_a_while(start_server: StartServer) -> None:
    async with serving(start_server, file_unused_s=0.2) as server:
        await upload(server)
        used = await upload(server)
        job_id = await server.submit("digest", file=used["file_id"])
        await nothing_but(server, 2)
        assert (await server.record(job_id, wait_s=30))["state"] == "completed"
        assert [each["file_id"] for each in (await server.client.get("/v1/files")).json()["files"]] == [used["file_id"]]


async def nothing_but(server: OwnServer, number: int) -> None:
    await until_async(lambda: len(on_disk(server)) == number, f"{number} files are left")


@pytest.mark.parametrize("file_id", ["file-" + "0" * 32, "file-x", "../../etc/passwd", ""])
async def test_a_file_that_there_is_not(files: OwnServer, file_id: str) -> None:
    answer = await files.client.post("/v1/jobs", json={"type": "digest", "input": {"file": file_id}})
    if len(file_id) == 37:
        problem = problem_of(answer, 404, "unknown_file")
        assert problem["file_id"] == file_id
    else:
        problem = problem_of(answer, 422, "invalid")
        assert problem["faults"][0]["message"] == "must be the id of an uploaded file"
    for method in ("GET", "DELETE"):
        answer = await files.client.request(method, f"/v1/files/{file_id or 'x'}")
        assert answer.status_code in (404, 405)


async def test_a_job_cannot_change_what_is_not_its_own(files: OwnServer) -> None:
    """Without a sandbox only the mode protects the file, and root is not held by that."""
    record = await upload(files, b"content", "a.txt")
    done = await run(files, "overwrite", file=record["file_id"])
    assert done["state"] == "completed"


async def test_saved_files_are_downloaded_with_ranges(files: OwnServer) -> None:
    done = await run(files, "save", name="out é.txt", content="0123456789")
    assert done["result"] == "moved"
    assert done["files"] == [{"name": "out é.txt", "size": 10, "content_type": "text/plain"}]
    job = f"/v1/jobs/{done['job_id']}"
    assert (await files.client.get(f"{job}/files")).json() == {"files": done["files"]}
    address = f"{job}/files/out%20%C3%A9.txt"
    whole = await files.client.get(address)
    assert (whole.status_code, whole.text) == (200, "0123456789")
    assert whole.headers["content-disposition"] == "attachment; filename*=utf-8''out%20%C3%A9.txt"
    assert (whole.headers["accept-ranges"], whole.headers["x-content-type-options"]) == ("bytes", "nosniff")
    for given, status, text in (
        ("bytes=2-4", 206, "234"), ("bytes=7-", 206, "789"), ("bytes=-2", 206, "89"), ("bytes=20-", 416, ""),
    ):  # fmt: skip
        part = await files.client.get(address, headers={"range": given})
        assert (part.status_code, part.text) == (status, text)
    etag = whole.headers["etag"]
    same = await files.client.get(address, headers={"range": "bytes=2-4", "if-range": etag})
    other = await files.client.get(address, headers={"range": "bytes=2-4", "if-range": '"other"'})
    assert (same.text, other.text) == ("234", "0123456789")
    known = await files.client.get(address, headers={"if-none-match": etag})
    assert (known.status_code, known.content) == (304, b"")
    head = await files.client.head(address)
    assert (head.status_code, head.headers["content-length"], head.content) == (200, "10", b"")
    problem_of(await files.client.get(f"{job}/files/nix"), 404, "unknown_file")
    problem_of(await files.client.get(f"{job}/files/%2e%2e"), 404, "unknown_file")
    stream = await files.read(done["job_id"])
    assert [event.json()["name"] for event in stream.events if event.event == "file"] == ["out é.txt"]


async def test_a_file_is_there_while_the_job_runs_and_after_a_kill(files: OwnServer, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    job_id = await files.submit("save_and_wait", gate=str(gate))
    await files.read(job_id, until="token")
    assert (await files.client.get(f"/v1/jobs/{job_id}/files/early.txt")).text == "early"
    await files.client.delete(f"/v1/jobs/{job_id}", params={"grace_s": 0})
    ended = await files.record(job_id)
    assert (ended["state"], [each["name"] for each in ended["files"]]) == ("cancelled", ["early.txt"])
    assert (await files.client.get(f"/v1/jobs/{job_id}/files/early.txt")).text == "early"


@pytest.mark.parametrize("name", ["", "..", "a/b", "a\nb", "x" * 256])
async def test_a_job_cannot_save_under_a_name_that_no_file_has(files: OwnServer, name: str) -> None:
    done = await run(files, "save", name=name)
    if name:
        assert (done["error"]["code"], done["files"]) == ("exception", [])
        assert "ValueError" in done["error"]["traceback"]
    else:
        assert [each["name"] for each in done["files"]] == ["source"]


@pytest.mark.parametrize("what", ["symlink", "pipe", "socket", "hard link", "folder", "nothing", "../../x", "a/b", ""])
async def test_what_is_no_file_of_the_job_is_not_kept(files: OwnServer, what: str) -> None:
    done = await run(files, "hostile", what=what)
    assert (done["state"], done["error"]["code"], done["files"]) == ("failed", "protocol", [])
    problem_of(await files.client.get(f"/v1/jobs/{done['job_id']}/files/innocent.txt"), 404, "unknown_file")


async def test_a_pipe_and_a_device_are_no_sources(files: OwnServer, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (str(tmp_path / "pipe"), "/dev/zero", str(tmp_path), str(tmp_path / "nix")):
        done = await run(files, "save_outside", path=path)
        assert (done["state"], done["error"]["code"], done["files"]) == ("failed", "exception", []), path
    (tmp_path / "a.txt").write_text("copied")
    done = await run(files, "save_outside", path=str(tmp_path / "a.txt"))
    assert (await files.client.get(f"/v1/jobs/{done['job_id']}/files/a.txt")).text == "copied"
    assert (tmp_path / "a.txt").exists()


async def test_what_cannot_be_written_is_told_with_its_place(files: OwnServer, tmp_path: Path) -> None:
    """Which disk is full is what an operator looks for: this one need not be that of the job's own files."""
    (tmp_path / "large").write_bytes(bytes(1001))
    for path in ("", str(tmp_path / "large")):
        done = await run(files, "write_too_much", path=path)
        assert (done["error"]["code"], done["files"]) == ("exception", [])
        assert re.search(r"OSError: .*File too large: '.*/staging/.*'", done["error"]["message"]), done["error"]


async def test_saved_files_count_for_tmp_bytes(files: OwnServer) -> None:
    job_id = await files.submit("save_two", size=1 << 20, members={"limits": {"tmp_bytes": 2 << 20}})
    done = await files.record(job_id, wait_s=30)
    assert (done["error"]["code"], done["error"]["limit"]) == ("limit.tmp", "tmp_bytes")
    assert "of it in files that it saved" in done["error"]["message"]
    too_many = await run(files, "save_many", number=1001)
    assert too_many["error"]["code"] == "protocol" and len(too_many["files"]) == 1000


@pytest.mark.parametrize("last", ["", "pipe", "folder"])
async def test_the_latest_of_a_name_is_kept_and_those_before_go(files: OwnServer, last: str) -> None:
    done = await run(files, "save_again_and_again", times=3, last=last)
    assert (done["error"] or {}).get("code") == ("protocol" if last else None)
    assert [each["name"] for each in done["files"]] == ["same.txt"]
    await nothing_but(files, 1)
    if last != "folder":  # which stands in its place
        assert (await files.client.get(f"/v1/jobs/{done['job_id']}/files/same.txt")).text == "2"


class Writing:
    """A job that has saved a file and keeps it open, and what it is told to make of it."""

    def __init__(self, server: OwnServer, job_id: str, pipe: Path) -> None:
        self.server = server
        self.job_id = job_id
        self._sizes = pipe.open("w")
        self._written = 0

    def begin_to_write(self, size: int) -> None:
        """Have the file have so many bytes soon."""
        self._sizes.write(f"{size}\n")
        self._sizes.flush()
        self._written += 1

    async def write(self, size: int) -> None:
        """Have the file have so many bytes."""
        self.begin_to_write(size)
        wanted = self._written + 1

        async def is_written() -> bool | Pending:
            text = (await self.server.client.get(f"/v1/jobs/{self.job_id}/output")).text
            return text.count("\n") >= wanted or Pending(text)

        await until_async(is_written, "it is written")

    def end(self) -> None:
        self._sizes.close()


async def writing(server: OwnServer, tmp_path: Path, size: int, **members: Any) -> Writing:
    pipe = tmp_path / "sizes"
    os.mkfifo(pipe)
    job_id = await server.submit("write_after_saving", size=size, then=str(pipe), members=members)
    await server.read(job_id, until="token")
    return await asyncio.to_thread(Writing, server, job_id, pipe)


async def test_a_file_that_grows_after_it_was_saved_counts_as_it_is(files: OwnServer, tmp_path: Path) -> None:
    job = await writing(files, tmp_path, 1000, limits={"tmp_bytes": 1 << 20})
    await job.write(300_000)
    job.end()
    done = await files.record(job.job_id, wait_s=30)
    assert (done["state"], done["files"][0]["size"]) == ("completed", 300_000)


async def test_a_file_that_was_saved_may_not_grow_over_tmp_bytes(files: OwnServer, tmp_path: Path) -> None:
    job = await writing(files, tmp_path, 1000, limits={"tmp_bytes": 1 << 20, "grace_s": 0})
    job.begin_to_write(3 << 20)  # it may be ended in the middle of it
    done = await files.record(job.job_id, wait_s=30)
    job.end()
    assert done["error"]["code"] == "limit.tmp" and 1 << 20 < done["files"][0]["size"] <= 3 << 20


@pytest.mark.parametrize("headers", [{}, {"range": "bytes=0-"}], ids=["whole", "range"])
@pytest.mark.parametrize(("size", "events"), [(30 << 20, []), (1000, ["file_shortened"])], ids=["longer", "shorter"])
async def test_a_file_that_changes_while_it_is_read_is_cut_as_announced(
    files: OwnServer, tmp_path: Path, headers: dict[str, str], size: int, events: list[str],
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    announced = 20 << 20
    job = await writing(files, tmp_path, announced)
    read = 0
    address = f"/v1/jobs/{job.job_id}/files/open.bin"
    with contextlib.suppress(httpx.RemoteProtocolError):
        async with files.client.stream("GET", address, headers=headers) as answer:
            assert int(answer.headers["content-length"]) == announced
            async for piece in answer.aiter_raw():
                if not read:
                    await job.write(size)
                read += len(piece)
    assert read == announced if size > announced else size < read < announced
    job.end()
    assert [each.getMessage() for each in caplog.records if each.name == "killable.server"] == events


async def test_a_reader_of_a_file_that_takes_nothing_is_disconnected_in_a_line(
    start_server: StartServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(start_server, http=HttpSettings(send_timeout_s=0.2)) as server:
        done = await run(server, "save", name="large", size=64 << 20)
        request = f"GET /v1/jobs/{done['job_id']}/files/large HTTP/1.1\r\nHost: localhost\r\n\r\n"
        reader, writer = await server.raw(request.encode(), receive_bytes=4096)
        await reader.readuntil(b"\r\n\r\n")

        def is_told() -> bool | Pending:
            said = [each.getMessage() for each in caplog.records if each.name == "killable.server"]
            return bool(said) or Pending(said)

        await until_async(is_told, "it is told")
        said = [each for each in caplog.records if each.name == "killable.server"]
        assert [each.getMessage() for each in said] == ["reader_disconnected"] and not said[0].exc_info
        writer.close()


async def test_of_several_attempts_the_files_of_the_last_are_kept(files: OwnServer) -> None:
    done = await run(files, "save_in_each_attempt")
    assert (done["attempts"], [each["name"] for each in done["files"]]) == (2, ["attempt-2"])
    await nothing_but(files, 1)


async def test_jobs_are_dropped_for_the_bytes_of_their_files(start_server: StartServer) -> None:
    async with serving(start_server, keep_files_bytes=1000) as server:
        first = await run(server, "save", name="a", size=600)
        second = await run(server, "save", name="a", size=600)
        problem = problem_of(await server.client.get(f"/v1/jobs/{first['job_id']}"), 404, "unknown_job")
        assert (problem["dropped_by"], problem["limit"]) == ("keep_files_bytes", 1000)
        assert (await server.client.get(f"/v1/jobs/{second['job_id']}/files/a")).status_code == 200
        await nothing_but(server, 1)


async def test_many_uploads_at_once_are_each_whole(files: OwnServer) -> None:
    contents = [os.urandom(700_000) for _ in range(8)]
    records = await asyncio.gather(*(upload(files, content) for content in contents))
    assert [each["sha256"] for each in records] == [hashlib.sha256(content).hexdigest() for content in contents]
