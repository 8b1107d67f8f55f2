"""Files of jobs with a real server: the command, both clients, a sandbox, a journal, and a server that is killed."""

from __future__ import annotations

import hashlib
import io
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from support.blocking_client import BlockingClient, OneClient
from support.killable_command import Command, Serve, Server
from support.waiting import until

from killable import Client, Refused
from killable.workers.runtime.sandbox import why_no_file_rules

JOBS = (Path(__file__).parent.parent / "support" / "file_jobs.py").read_text()
CONTENT = os.urandom(700_000)
SHA = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture(params=[Client, BlockingClient], ids=["Client", "AsyncClient"])
def client(request: pytest.FixtureRequest, url: str) -> Iterator[OneClient]:
    with request.param(url) as one:
        yield one


def test_a_client_uploads_what_a_job_takes_as_a_file(client: OneClient, tmp_path: Path) -> None:
    path = tmp_path / "in.bin"
    path.write_bytes(CONTENT)
    assert client.run("digest", {"file": path}) == {"name": "in.bin", "sha256": SHA}
    with path.open("rb") as file:
        file.seek(5)
        assert client.run("digest", {"file": file})["sha256"] == hashlib.sha256(CONTENT[5:]).hexdigest()
    assert client.run("digest", {"file": CONTENT}) == {"name": "file", "sha256": SHA}
    assert client.run("digest", {"file": io.BytesIO(CONTENT)})["sha256"] == SHA
    sent: list[int] = []
    record = client.upload(path, name="other.bin", on_sent=sent.append)
    assert (record["sha256"], sent[-1], sent) == (SHA, len(CONTENT), sorted(sent))
    assert client.run("digest", {"file": record["file_id"]}) == {"name": "other.bin", "sha256": SHA}
    album = {"title": "a", "pictures": [path, path]}
    before = len(client.files())
    assert client.run("names", {"album": album, "cover": path, "text": "x"}) == ["in.bin"] * 3
    assert len(client.files()) == before + 1, "one file that stands three times is uploaded once"
    assert client.delete_file(client.files()[-1]["file_id"])


def test_a_job_that_is_refused_leaves_no_upload(client: OneClient, tmp_path: Path) -> None:
    path = tmp_path / "in.bin"
    path.write_bytes(b"x")
    before = {record["file_id"] for record in client.files()}
    with pytest.raises(Refused) as caught:
        client.run("names", {"album": {"title": "a", "pictures": [path]}, "unknown": 1})
    assert caught.value.code == "invalid"
    assert {record["file_id"] for record in client.files()} == before
    with pytest.raises(FileNotFoundError):
        client.run("digest", {"file": tmp_path / "nix"})
    with pytest.raises(TypeError, match="open for text"), path.open() as text:
        client.run("digest", {"file": text})
    with pytest.raises(Refused, match="is an open file, and the job takes none here"), path.open("rb") as file:
        client.run("save", {"name": "a", "content": file})


def test_a_client_downloads_what_a_job_has_saved(client: OneClient, tmp_path: Path) -> None:
    job = client.submit("save", {"name": "out.txt", "content": "saved"})
    job.result()
    assert job.files() == [{"name": "out.txt", "size": 5, "content_type": "text/plain"}]
    assert job.download("out.txt", tmp_path) == tmp_path / "out.txt"
    assert job.download("out.txt", tmp_path / "other").read_text() == "saved"
    with pytest.raises(Refused) as caught:
        job.download("nix", tmp_path / "third")
    assert caught.value.code == "unknown_file"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "out.txt"]
    large = client.submit("save", {"name": "large", "size": 3_000_000})
    large.result()
    assert large.download("large", tmp_path).stat().st_size == 3_000_000


def test_the_command_uploads_and_downloads(command: Command, tmp_path: Path) -> None:
    (tmp_path / "in.bin").write_bytes(CONTENT)
    assert SHA in command.ok("submit", "digest", "-i", f"file=@{tmp_path / 'in.bin'}")
    missing = command.run("submit", "digest", "file=@nix")
    assert (missing.returncode, "nix: no such file or directory" in missing.stderr) == (65, True)
    (line,) = [line for line in command.ok("types", "digest").splitlines() if line.startswith("file ")]
    assert line.split() == ["file", "file", "required", "-"]
    done = command.run("submit", "save", "name=out.txt", "content=saved")
    assert "saved out.txt, 5 B: killable files" in done.stderr
    job_id = command.json("ps", "-a")["jobs"][0]["job_id"]
    assert "out.txt" in command.ok("files", job_id)
    assert command.json("files", job_id)["files"][0]["size"] == 5
    assert command.ok("files", job_id, "out.txt", "-o", str(tmp_path / "here")).strip() == str(tmp_path / "here")
    assert (tmp_path / "here").read_text() == "saved"
    assert command.run("files", job_id, "nix").returncode == 4
    assert command.run("files", job_id, "-o", "x").returncode == 2


def serving(serve: Serve, folder: Path, settings: str, more: str = "") -> Server:
    """Start a server with a pool of these jobs, and settings of its own."""
    (folder / "file_jobs.py").write_text(JOBS)
    pool = '[pools.files]\nmodule = "./file_jobs.py"\nworkers = 1\n'
    (folder / "killable.toml").write_text(f"{settings}\n{pool}{more}")
    return serve("--port", "0")


@pytest.mark.skipif(bool(why_no_file_rules()), reason=why_no_file_rules())
def test_in_a_sandbox_a_job_reads_what_it_was_given_and_changes_nothing(serve: Serve, tmp_path: Path) -> None:
    sandbox = "[pools.files.sandbox]\nnetwork = false\nwrite = []\nread = []"
    server = serving(serve, tmp_path, "", sandbox)
    with Client(server.url) as client:
        assert client.run("digest", {"file": CONTENT})["sha256"] == SHA
        assert client.run("overwrite", {"file": CONTENT}) == "", "nothing could be done to it"
        job = client.submit("save", {"name": "out.txt", "content": "saved"})
        job.result()
        assert job.download("out.txt", tmp_path).read_text() == "saved"


def test_with_a_journal_files_survive_the_server(serve: Serve, tmp_path: Path, gate: str) -> None:
    settings = '[server]\njournal = "./jobs.db"\n'
    server = serving(serve, tmp_path, settings)
    with Client(server.url) as client:
        saved = client.submit("save", {"name": "out.txt", "content": "saved"})
        saved.result()
        holding = client.submit("wait_with", {"file": b"x", "gate": gate})
        until(lambda: holding.record()["state"] == "running", "the only worker is busy")
        waiting = client.submit("digest", {"file": CONTENT})
        unused = client.upload(CONTENT, name="unused")["file_id"]
    head = b"POST /v1/files HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9000000\r\n\r\n"
    address = urlsplit(server.url)
    with socket.create_connection((address.hostname, address.port)) as half:
        half.sendall(head + b"x" * 4_000_000)
        folder = tmp_path / "jobs.db.files"
        until(lambda: list((folder / "incoming").iterdir()), "an upload is under way")
        server.die()
    assert list((folder / "incoming").iterdir()) and list((folder / "saved").iterdir())
    (folder / "saved" / "job-of-nobody.1").mkdir()
    (folder / "uploaded" / "file-of-nobody").mkdir()
    again = serve("--port", "0")
    with Client(again.url) as client:
        assert client.job(waiting.id).result(wait_s=60) == {"name": "file", "sha256": SHA}
        assert client.job(saved.id).download("out.txt", tmp_path / "copy").read_text() == "saved"
        assert {record["name"] for record in client.files()} == {"file", "unused"}
        assert client.file(unused)["sha256"] == SHA
        assert list((folder / "incoming").iterdir()) == []
        assert not (folder / "saved" / "job-of-nobody.1").exists()
        assert not (folder / "uploaded" / "file-of-nobody").exists()


def test_without_a_journal_nothing_is_left_of_a_killed_server(serve: Serve, tmp_path: Path) -> None:
    server = serving(serve, tmp_path, '[server]\nfiles_folder = "./files"\n')
    with Client(server.url) as client:
        client.upload(CONTENT)
        client.run("save", {"name": "a"})
    server.die()
    assert len(list((tmp_path / "files" / "uploaded").iterdir())) == 1
    again = serve("--port", "0")
    with Client(again.url) as client:
        assert client.files() == []
    for name in ("uploaded", "saved", "about"):
        assert list((tmp_path / "files" / name).iterdir()) == [], name
    taken = Command(tmp_path).run("serve", "--port", "0")
    assert taken.returncode != 0 and "another server keeps its files there" in taken.stderr


def test_a_full_disk_refuses_a_file_and_leaves_nothing_of_it(serve: Serve, tmp_path: Path) -> None:
    if os.geteuid():
        pytest.skip("mounting needs root")
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", disk], check=True)
    try:
        server = serving(serve, tmp_path, f'[server]\nfiles_folder = "{disk}/files"\n')
        with Client(server.url) as client:
            with pytest.raises(Refused) as announced:
                client.upload(b"x" * 3_000_000)
            with pytest.raises(Refused) as found:
                client.upload(Endless(3_000_000))  # type: ignore[arg-type]
            assert (announced.value.code, found.value.code) == ("disk_full", "disk_full")
            assert list((disk / "files" / "incoming").iterdir()) == []
            assert client.upload(b"x" * 500_000)["size"] == 500_000
            while True:  # in steps of a page, up to the last one
                try:
                    client.upload(Endless(4096))  # type: ignore[arg-type]
                except Refused as refused:
                    assert refused.code == "disk_full"
                    break
            left = os.statvfs(disk)
            assert left.f_bavail * left.f_frsize > left.f_blocks * left.f_frsize / 20, "the journal may be there"
            job = client.submit("save", {"name": "large", "size": 3_000_000})
            until(lambda: job.record()["ended_at"], "it has ended")
            assert (job.record()["error"]["type"], job.files()) == ("OSError", [])
        server.stop()
    finally:
        subprocess.run(["umount", disk], check=True)


class Endless:
    """A file that does not know its size."""

    def __init__(self, size: int) -> None:
        self.left = size

    def read(self, size: int) -> bytes:
        size = min(size, self.left)
        self.left -= size
        return b"x" * size
