"""What the store of files does when things come in an order that no request asks for, on a real folder."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from support.waiting import until_async

from killable.supervisor.clock import Clock
from killable.supervisor.files.file_store import FileStore
from killable.supervisor.models import StartRefused
from killable.supervisor.settings import Settings


def store_in(folder: Path, *, file_unused_s: float = 3600.0) -> FileStore:
    return FileStore(Settings(pools=(), has_files=True, journal=str(folder / "journal"), file_unused_s=file_unused_s))


async def opened(folder: Path, *, file_unused_s: float = 3600.0) -> FileStore:
    store = store_in(folder, file_unused_s=file_unused_s)
    await store.open(Clock(asyncio.get_running_loop()))
    return store


async def put(store: FileStore, name: str = "a") -> str:
    upload = await store.begin("default", 3)
    store.expect(upload, 3)
    upload.writer.write(b"abc")
    return (await store.finish(upload, name, "text/plain")).file_id


async def test_a_file_that_goes_before_its_job_is_withdrawn_stops_no_timer(tmp_path: Path) -> None:
    """A job is cancelled while its acceptance waits for the disk, its file is deleted, and then the write fails."""
    store = await opened(tmp_path, file_unused_s=0.05)
    file_id = await put(store)
    store.use("job-1", [file_id])
    store.job_ended("job-1")
    store.delete(file_id)
    store.withdrawn("job-1")
    await put(store)
    await until_async(lambda: not store.count, "an unused file goes")
    await put(store)
    await until_async(lambda: not store.count, "and the next one")
    await store.close()


@pytest.mark.parametrize("missing", ["tenant", "size", "name", "file_id"])
async def test_files_of_another_release_are_read_or_left_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, missing: str
) -> None:
    """A member more is no matter; a file of which one is missing is left where it is, and told of."""
    store = await opened(tmp_path)
    later, damaged, whole = [await put(store, name) for name in "abc"]
    await store.close()
    about = {each: Path(store.folder.about(each)) for each in (later, damaged)}
    about[later].write_text(json.dumps(json.loads(about[later].read_text()) | {"colour": "red"}))
    known = json.loads(about[damaged].read_text())
    del known[missing]
    about[damaged].write_text(json.dumps(known))
    store = await opened(tmp_path)
    assert {record.file_id for record in store.page(limit=9)[0]} == {later, whole}
    (record,) = caplog.records
    assert (record.message, vars(record)["path"]) == ("file_set_aside", str(about[damaged]))
    assert Path(store.folder.path_of(damaged, "b")).read_bytes() == b"abc"
    await store.close()


async def test_a_file_that_cannot_be_looked_at_refuses_the_start_and_stays(tmp_path: Path) -> None:
    """After a restore by another user, or on a disk with errors, it may be whole: nothing is removed."""
    store = await opened(tmp_path)
    file_id = await put(store)
    await store.close()
    about = Path(store.folder.about(file_id))
    known = about.read_bytes()
    about.unlink()
    about.symlink_to(about)  # an error that is not "there is none", for root too
    store = store_in(tmp_path)
    with pytest.raises(StartRefused, match=f"the folder of files cannot be used: .*: {about}"):
        await store.open(Clock(asyncio.get_running_loop()))
    await store.close()
    about.unlink()
    about.write_bytes(known)
    store = await opened(tmp_path)
    assert [record.file_id for record in store.page(limit=9)[0]] == [file_id]
    assert Path(store.folder.path_of(file_id, "a")).read_bytes() == b"abc"
    await store.close()
