"""`[commands.NAME]`: commands of the machine as job types over HTTP, from the input to the proof that they are gone."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.killable_command import Command, SharedServer, client_of
from support.long_wait_server import NO_STALLS
from support.processes import has_ended, read_process
from support.waiting import until

from killable import Client
from killable.api.client.client import JobHandle
from killable.workers.errors import JobCancelled, KillableError, Refused

ARGUMENTS = "import json, sys; print(json.dumps(sys.argv[1:]))"
"""Print the arguments as they came."""
PROBE = """
import json, os, sys
print(json.dumps({"env": dict(os.environ), "cwd": os.getcwd(), "mask": open("/proc/self/status").read(),
    "fds": sorted(os.listdir("/proc/self/fd")), "stdin": sys.stdin.read()}))
"""
FILE = f"""
[server]
port = 0
[commands.arguments]
argv = [{sys.executable!r}, "-c", '''{ARGUMENTS}''', "{{text}}", "{{loud}}", ["--size", "{{width}}x{{height}}"],
    "--exclude={{exclude}}", ["-e", "{{patterns}}"], "{{{{text}}}}", "{{ratio}}", "{{safe}}"]
stdout = "json"
description = "Show the arguments."
[commands.arguments.parameters]
text = {{ default = "t", pattern = "[^x]*", length_max = 300000, description = "any text" }}
loud = {{ type = "boolean", default = false, flag = "--loud" }}
width = {{ type = "integer", minimum = 1, maximum = 100, required = false }}
height = {{ type = "integer", minimum = 1, default = 5 }}
exclude = {{ type = "array", required = false, items_max = 3 }}
patterns = {{ type = "array", required = false, items = {{ type = "integer" }}, dash = true }}
ratio = {{ type = "number", default = 0.5 }}
safe = {{ enum = ["-a", "b"], default = "b" }}

[commands.dashes]
argv = [{sys.executable!r}, "-c", '''{ARGUMENTS}''', "{{first}}{{second}}", "--x={{second}}"]
stdout = "json"
parameters.first = {{ default = "" }}
parameters.second = {{ dash = false }}

[commands.probe]
argv = [{sys.executable!r}, "-c", '''{PROBE}''']
stdout = "json"
env = {{ OWN = "yes" }}
environment = ["PATH", "ALLOWED_*"]

[commands.sort]
argv = ["sort", "-k", "{{column}}"]
stdin = "text"
parameters.text = {{}}
parameters.column = {{ type = "integer", minimum = 1, default = 1 }}

[commands.sh]
argv = ["sh", "-c", "{{script}}"]
ok_exit_codes = [0, 3]
parameters.script = {{}}

[commands.whole]
argv = ["sh", "-c", "{{script}}"]
stdout = "result"
parameters.script = {{}}

[commands.raw]
argv = ["sh", "-c", "{{script}}"]
stdout = "bytes"
parameters.script = {{}}

[commands.by_int]
argv = ["sh", "-c", "trap 'echo int; exit 0' INT; echo up; while :; do sleep 0.05; done"]
signal = "SIGINT"

[commands.gzip]
argv = ["sh", "-c", 'gzip -c < "$1" > "$2"', "sh", "{{input}}", "{{output}}"]
parameters.input = {{ type = "file", filename = "in.txt" }}
outputs.output = "out.gz"

[commands.sums]
argv = ["sha256sum", "{{files}}"]
stdout = "result"
parameters.files = {{ type = "array", items = {{ type = "file" }} }}

[commands.sort_file]
argv = ["sort"]
stdin = "text"
parameters.text = {{ type = "file" }}

[commands.writes]
argv = ["sh", "-c", "{{script}}", "{{output}}"]
parameters.script = {{}}
outputs.output = "out"

[commands.vanishes]
argv = ["./vanishes.sh"]

[jobs.whole.limits]
memory_bytes = "150MiB"
[caps]
run_s = 100
"""


@pytest.fixture(scope="module")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SharedServer]:
    folder = tmp_path_factory.mktemp("commands")
    (folder / "killable.toml").write_text(FILE)
    (folder / "vanishes.sh").write_text("#!/bin/sh\n")
    (folder / "vanishes.sh").chmod(0o755)
    environment = {"SECRET_TOKEN": "x", "ALLOWED_ONE": "1", "OTHER": "2"}
    server = SharedServer(Command(folder, constants=NO_STALLS), env=environment)
    (folder / "vanishes.sh").unlink()
    yield server
    server.close()


@pytest.fixture
def client(url: str) -> Iterator[Client]:
    with client_of(url) as client:
        yield client


def arguments(client: Client, **input: Any) -> list[str]:
    result = client.run("arguments", input)
    assert result["exit_code"] == 0
    found: list[str] = result["stdout"]
    return found


def refused(client: Client, type: str, **input: Any) -> dict[str, str]:
    """Return what a submission is refused with, by the pointer of each fault."""
    with pytest.raises(Refused) as caught:
        client.submit(type, input)
    return {fault["pointer"]: fault["message"] for fault in caught.value.facts["faults"]}


def failure(client: Client, type: str, **input: Any) -> KillableError:
    with pytest.raises(KillableError) as caught:
        client.run(type, input)
    return caught.value


def started(job: JobHandle) -> Iterator[Any]:
    """Return its output behind the first line, when it runs."""
    tokens = iter(job)
    next(tokens)
    return tokens


def rest_of(tokens: Iterator[Any]) -> list[Any]:
    """Return what a job that does not complete has still emitted."""
    found = []
    with contextlib.suppress(KillableError):
        found.extend(tokens)
    return found


def test_a_command_is_a_type_as_any_other(client: Client) -> None:
    (found,) = [each for each in client.types() if each["name"] == "arguments"]
    assert (found["description"], found["pool"], found["streams"]) == ("Show the arguments.", "commands", False)
    members = found["input_schema"]["properties"]
    assert members["width"] == {"type": "integer", "minimum": 1, "maximum": 100}
    assert members["text"]["default"] == "t" and members["text"]["description"] == "any text"
    assert members["patterns"]["items"] == {"type": "integer"}
    assert "required" not in found["input_schema"]
    assert found["caps"]["run_s"] == 100
    limits = {each["name"]: each["limits"]["memory_bytes"] for each in client.types()}
    assert limits["whole"] == 150 << 20


def test_values_stand_in_for_placeholders(client: Client) -> None:
    assert arguments(client) == ["t", "{text}", "0.5", "b"]
    given = {"loud": True, "width": 4, "exclude": ["a b", ""], "patterns": [-1, 2], "ratio": 2, "safe": "-a"}
    assert arguments(client, **given) == [
        *("t", "--loud", "--size", "4x5", "--exclude=a b", "--exclude=", "-e", "-1", "-e", "2", "{text}", "2", "-a"),
    ]


@pytest.mark.parametrize(
    "text", ["", " ", "$(id) `id` ; id | id > pwned &", "'\"\\\n\t*?[a]{b}~", "{width}", "ümläut 🎉", "a" * 100_000]
)
def test_a_value_is_one_argument_whatever_is_in_it(client: Client, text: str) -> None:
    assert arguments(client, text=text)[0] == text


def test_what_a_command_cannot_take_is_refused(client: Client) -> None:
    assert refused(client, "arguments", text="-rf") == {"/input/text": HAS_DASH}
    assert refused(client, "arguments", text="a\0b") == {"/input/text": HAS_DASH}
    assert refused(client, "arguments", text="axb") == {"/input/text": "must match the pattern ^(?:[^x]*)$"}
    assert refused(client, "sort", text="a\0b") == {"/input/text": "must not have the character NUL"}
    assert refused(client, "arguments", width=0, height="5", nothing=1, ratio=-0.1).keys() == {
        "/input/width", "/input/height", "/input/nothing", "/input/ratio",
    }  # fmt: skip
    assert refused(client, "arguments", exclude=list("abcd")) == {"/input/exclude": "must have at most 3 items"}
    assert refused(client, "arguments", safe="-c").keys() == {"/input/safe"}
    assert refused(client, "sort") == {"/input/text": "is required"}


HAS_DASH = "must not begin with -, which programs take for an option, nor have the character NUL"


def test_an_argument_of_several_values_begins_with_no_dash_either(client: Client) -> None:
    assert client.run("dashes", {"first": "a", "second": "b"})["stdout"] == ["ab", "--x=b"]
    assert refused(client, "dashes", second="-b").keys() == {"/input/second"}


def test_arguments_that_the_kernel_would_not_take_are_refused(client: Client) -> None:
    error = failure(client, "arguments", text="a" * 200_000)
    assert error.code == "input.invalid"
    assert "an argument of 200,000 bytes; the kernel takes 131,071" in str(error)


def test_lines_are_streamed_and_stdin_is_a_parameter(client: Client) -> None:
    job = client.submit("sort", {"text": "b 1\na 2\nc 0"})
    assert list(job) == ["a 2\n", "b 1\n", "c 0\n"]
    assert job.result() == {"exit_code": 0}
    assert list(client.submit("sort", {"text": "b 1\na 2\nc 0", "column": 2})) == ["c 0\n", "b 1\n", "a 2\n"]


def test_a_long_stdin_and_many_lines(client: Client) -> None:
    lines = [f"{number:06}\n" for number in range(50_000)]
    assert list(client.submit("sort", {"text": "".join(reversed(lines))})) == lines


def test_output_that_is_no_text_and_lines_without_an_end(client: Client) -> None:
    assert list(client.submit("sh", {"script": r"printf 'a\377b\nrest'"})) == ["a\\xffb\n", "rest"]
    tokens = list(client.submit("sh", {"script": "head -c 200000 /dev/zero | tr '\\0' x"}))
    assert "".join(tokens) == "x" * 200_000 and max(map(len, tokens)) <= 64 << 10
    # A letter of two bytes on both sides of a read.
    assert list(client.submit("sh", {"script": r"printf '\303'; sleep 0.1; printf '\274\n'"})) == ["ü\n"]


def test_bytes_come_as_they_are(client: Client) -> None:
    script = "head -c 100000 /dev/urandom | tee /dev/fd/2 2>copy; sha256sum copy >&2; head -c 3 /dev/zero"
    job = client.submit("raw", {"script": script})
    assert b"".join(job).endswith(b"\0\0\0")
    assert len(job.output()) == 100_003


def test_stdout_as_the_result(client: Client) -> None:
    assert client.run("whole", {"script": "echo one; echo two"}) == {"exit_code": 0, "stdout": "one\ntwo\n"}


def test_stderr_is_logged_and_its_last_line_is_in_the_error(client: Client) -> None:
    job = client.submit("sh", {"script": "echo first >&2; echo 'no such page' >&2; exit 4"})
    with pytest.raises(KillableError) as caught:
        job.result()
    assert (caught.value.code, caught.value.facts["exit_code"]) == ("exit", 4)
    assert str(caught.value) == "exit code 4: no such page"
    logged = [event.data["text"] for event in job.events() if event.name == "log"]
    assert logged == ["first", "no such page"]


def test_exit_codes_that_are_fine(client: Client) -> None:
    assert client.run("sh", {"script": "exit 3"}) == {"exit_code": 3}
    assert failure(client, "sh", script="exit 1").facts["exit_code"] == 1
    assert failure(client, "whole", script="exit 3").facts["exit_code"] == 3


@pytest.mark.parametrize("number", ["SEGV", "ABRT", "PIPE", "BUS"])
def test_a_signal_is_a_crash_as_that_of_any_job(client: Client, number: str) -> None:
    with pytest.raises(KillableError) as caught:
        client.run("sh", {"script": f"kill -{number} $$"})
    assert (caught.value.code, caught.value.facts["signal"]) == ("crash", f"SIG{number}")


@pytest.mark.parametrize("number", ["KILL", "TERM", "HUP", "INT"])
def test_a_signal_from_elsewhere_is_told_as_that(client: Client, number: str) -> None:
    error = failure(client, "sh", script=f"kill -{number} $$")
    assert (error.code, error.facts["signal"]) == ("killed_externally", f"SIG{number}")


def test_the_memory_of_a_command_is_bounded_as_that_of_a_job(client: Client) -> None:
    hungry = f"{sys.executable} -c 'x = [bytearray(1 << 20) for _ in range(4000)]'"
    with pytest.raises(KillableError) as caught:
        client.run("whole", {"script": hungry})
    assert caught.value.code == "limit.memory"


def test_a_command_has_few_variables_and_its_own_folder(client: Client) -> None:
    told = client.run("probe")["stdout"]
    environment = {name for name in told["env"] if name not in ("LC_CTYPE", "KILLABLE_INSTANCE")}
    assert environment == {"PATH", "ALLOWED_ONE", "OWN", "TMPDIR", "KILLABLE_CORRELATION_ID"}
    assert told["env"]["OWN"] == "yes"
    assert told["cwd"] == told["env"]["TMPDIR"]
    until(lambda: not Path(told["cwd"]).exists(), "its folder is gone")
    assert told["stdin"] == ""
    assert told["fds"] == ["0", "1", "2", "3"]  # the last one is the list's
    masks = dict(line.split(":\t") for line in told["mask"].splitlines() if line.startswith("Sig"))
    assert int(masks["SigBlk"], 16) == 0
    # Python itself ignores SIGPIPE and SIGXFSZ, and nothing else was ignored.
    assert int(masks["SigIgn"], 16) in (0x1001000, 0x1001000 | 1 << 24)


def test_files_go_in_and_come_out(client: Client, tmp_path: Path) -> None:
    content = bytes(range(256)) * 1000
    (tmp_path / "any name; rm -rf").write_bytes(content)
    job = client.submit("gzip", {"input": tmp_path / "any name; rm -rf"})
    (saved,) = job.result()["files"].items()
    assert saved == ("output", {"name": "out.gz", "size": job.files()[0]["size"]})
    assert gzip.decompress(job.download("out.gz", to=tmp_path / "got").read_bytes()) == content
    assert client.submit("sums", {"files": [content, b"x"]}).result()["stdout"].split()[0::2] == [
        hashlib.sha256(content).hexdigest(), hashlib.sha256(b"x").hexdigest(),
    ]  # fmt: skip


def test_stdin_can_be_a_file(client: Client) -> None:
    lines = [f"{number:06}\n" for number in range(20_000)]
    assert list(client.submit("sort_file", {"text": "".join(reversed(lines)).encode()})) == lines


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("true", "written no file out"),
        ("ln -s /etc/passwd out", "something else of that name"),
        ("mkfifo out", "something else of that name"),
        ("mkdir out", "something else of that name"),
    ],
)
def test_only_a_file_is_an_output(client: Client, script: str, words: str) -> None:
    error = failure(client, "writes", script=script)
    assert error.code == "exception" and words in str(error)


def test_a_program_that_has_vanished(client: Client) -> None:
    error = failure(client, "vanishes")
    assert error.code == "exception"
    assert "vanishes.sh' cannot be executed: No such file or directory" in str(error)


def test_a_cancel_is_a_sigterm_with_the_grace_and_leaves_nothing(client: Client) -> None:
    script = """
    trap 'echo cleaning; sleep 0.2; echo clean; exit 0' TERM
    setsid sleep 1000 & echo $! > left; sleep 1000 & cat left; wait
    """
    job = client.submit("sh", {"script": script})
    tokens = iter(job)
    left = read_process(int(next(tokens)))
    assert left is not None
    ending = job.cancel()
    assert ending.certificate["last_signal"] == "SIGTERM"
    # The one of another session: the command has ended, and so has what got its signal with it.
    assert ending.certificate["processes_swept"] == 1
    assert rest_of(tokens) == ["cleaning\n", "clean\n"]
    assert has_ended(left)
    with pytest.raises(JobCancelled):
        job.result()


def test_of_a_command_that_ends_when_it_is_asked_nothing_is_left_to_sweep(client: Client) -> None:
    job = client.submit("sh", {"script": "echo up; exec sleep 1000"})
    rest = started(job)
    assert job.cancel().certificate["processes_swept"] == 0
    assert rest_of(rest) == []


def test_a_command_that_ignores_sigterm_is_killed_at_the_end_of_its_grace(client: Client) -> None:
    job = client.submit("sh", {"script": "trap '' TERM; echo up; while :; do sleep 0.05; done"})
    rest = started(job)
    ending = job.cancel(grace_s=0.2)
    assert ending.certificate["last_signal"] == "SIGKILL"
    assert rest_of(rest) == []


def test_without_grace_it_is_killed_at_once(client: Client) -> None:
    job = client.submit("sh", {"script": "trap 'echo no' TERM; echo up; sleep 1000"})
    rest = started(job)
    ending = job.cancel(grace_s=0)
    assert ending.certificate["last_signal"] == "SIGKILL"
    assert rest_of(rest) == []


def test_the_signal_of_its_choice_asks_it_to_end(client: Client) -> None:
    job = client.submit("by_int", {})
    rest = started(job)
    assert job.cancel().certificate["last_signal"] == "SIGTERM"  # that of the worker
    assert rest_of(rest) == ["int\n"]


def test_a_stopped_command_is_let_run_to_end(client: Client) -> None:
    job = client.submit("sh", {"script": "trap 'echo woken; exit 0' TERM; echo up; kill -STOP $$; sleep 1000"})
    rest = started(job)
    job.cancel()
    assert rest_of(rest) == ["woken\n"]


def test_a_limit_ends_it_with_its_grace(client: Client) -> None:
    script = "trap 'echo late; exit 0' TERM; echo up; sleep 1000 & wait"
    job = client.submit("sh", {"script": script}, limits={"run_s": 0.3})
    assert rest_of(iter(job)) == ["up\n", "late\n"]
    with pytest.raises(KillableError) as caught:
        job.result()
    assert caught.value.code == "timeout.run"


def test_what_it_leaves_behind_ends_with_it(client: Client) -> None:
    """The processes hold its stdout and stderr open: nobody waits for the end of these."""
    job = client.submit("sh", {"script": "setsid sleep 1000 & echo $!; sleep 1000 & exit 0"})
    left = int(next(iter(job)))
    assert job.result() == {"exit_code": 0}
    assert job.record()["certificate"]["processes_swept"] == 2
    until(lambda: read_process(left) is None, "what it has left is gone")


def test_it_may_close_its_streams_and_go_on(client: Client) -> None:
    job = client.submit("sh", {"script": "echo out; exec >&- 2>&-; sleep 0.2; exit 3"})
    assert list(job) == ["out\n"]
    assert job.result() == {"exit_code": 3}


def test_a_cancel_in_a_flood_of_output(client: Client) -> None:
    job = client.submit("sh", {"script": "trap 'exit 0' TERM; while :; do echo xxxxxxxxxxxxxxxxxxxxxxxx; done"})
    next(iter(job))
    assert job.cancel().certificate["last_signal"] == "SIGTERM"


def test_output_over_its_bound(client: Client) -> None:
    job = client.submit("sh", {"script": "yes"}, limits={"output_bytes": 1 << 20})
    with pytest.raises(KillableError) as caught:
        job.result()
    assert caught.value.code == "limit.output"


def test_cancels_at_any_moment_of_a_start(client: Client) -> None:
    for _ in range(20):
        job = client.submit("sh", {"script": "sleep 1000"})
        certificate = job.cancel().certificate
        assert "tree_empty" in certificate or certificate.keys() == {"requested", "cause", "by", "reason"}  # waiting


def test_over_http_without_a_client(url: str) -> None:
    asked = {"type": "sort", "input": {"text": "b\na"}}
    answer = httpx.post(f"{url}/v1/jobs", json=asked, headers={"prefer": "wait=20"})
    assert json.loads(answer.text)["result"] == {"exit_code": 0}
