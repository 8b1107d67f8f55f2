"""Every block of code in the documents is run, or is known not to be; README's, too.

The conventions are in `documents.py`. After a change of what something prints:
.venv/bin/python tests/docs/renew.py PAGE
"""

from __future__ import annotations

import configparser
import re
import shlex
import subprocess
import tomllib
from collections import Counter
from pathlib import Path

import pytest
import yaml
from documents import DECISIONS, README, ROOT, Block, blocks_of, inline_commands, name_of, pages, steps_of
from outputs import is_shown
from session import Broken, Session

from killable.api.cli.verbs import VERBS

PAGES = [path for path in pages() if any(not block.mark for block in blocks_of(path))]
NOT_RUN: dict[str, list[str]] = {
    "docs/explanation/escalation.md": ["a drawing"],
    "docs/explanation/peers.md": ["it installs the peers, and takes minutes"],
    "docs/how-to/bench.md": ["it takes a minute, and figures differ"] * 2,
    "docs/how-to/container.md": ["it needs Docker", "it needs Kubernetes"],
    "docs/how-to/deploy.md": ["it needs a certificate"] * 2,
    "docs/how-to/keys.md": [
        "the key of this shell would become one of the server's",
        "it needs the server of before",
        "it is a socket of another server",
    ],
    "docs/how-to/logging.md": ["it needs a running systemd", "addresses, times and keys differ"],
    "docs/how-to/mcp.md": ["it needs Claude Code", "it is of VS Code"],
    "docs/how-to/prometheus.md": ["it needs Prometheus"],
    "docs/how-to/top.md": ["it goes on until Ctrl-C"] * 2 + ["it goes on until q"],
    "docs/how-to/tracing.md": [
        "it serves until it is stopped",
        "it is a terminal of its own",
        "times and order are those of a real run",
    ],
    "docs/how-to/watch.md": [
        "it goes on until Ctrl-C",
        "it asks a server with jobs",
        "it goes on as long as the server",
        "it is of a browser",
    ],
    "docs/how-to/systemd.md": ["it needs root"] + ["it needs a running systemd"] * 2,
    "docs/how-to/trouble.md": ["it needs a server that is in trouble"],
    "docs/how-to/move-to-an-executor.md": ["it needs joblib"],
    "docs/how-to/cluster.md": ["needs Ray and several machines"] * 6 + ["it needs Kubernetes"],
    "docs/tutorial/index.md": ["it installs into an environment of its own"],
}
"""Every block that is not run, by page, with what its mark says: a new one has to be written here, too."""


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_every_block_of_a_page_does_what_it_says(path: Path, tmp_path: Path) -> None:
    Session(tmp_path).follow(path)


def test_what_is_not_run_is_listed() -> None:
    marks = {name_of(path): [each.because for each in blocks_of(path) if each.mark == "not run"] for path in pages()}
    assert {name: reasons for name, reasons in marks.items() if reasons} == NOT_RUN


def test_what_is_not_run_can_be_read() -> None:
    for path in pages():
        for block in blocks_of(path):
            if block.mark == "not run":
                read(block)


def test_what_another_test_runs_is_known_there() -> None:
    for path in pages():
        for block in blocks_of(path):
            if block.mark == "run by":
                assert block.file_name is not None, block.place
                assert block.file_name in (ROOT / block.because).read_text(), block.place


def test_decisions_have_nothing_to_run() -> None:
    for path in DECISIONS.glob("*.md"):
        assert {block.language for block in blocks_of(path)} <= {"text", "mermaid"}, path.name


def test_each_command_in_a_sentence_exists() -> None:
    for path in (README, *pages()):
        for line, command in inline_commands(path):
            check_command(f"{name_of(path)}:{line}", command)


# ── README: tests/e2e/test_readme.py runs it ──


def test_every_block_of_readme_is_run() -> None:
    """Its programs are found by what they contain, its commands are run one by one, its settings are loaded."""
    runner = (ROOT / "tests" / "e2e" / "test_readme.py").read_text()
    found_by = re.findall(r'\bpython\("(.+?)"\)', runner)
    number = Counter[str]()
    for language, text in re.findall(r"^```(\w*)\n(.*?)^```", README.read_text(), re.MULTILINE | re.DOTALL):
        number[language] += 1
        if language == "python":
            assert any(having in text for having in found_by), f"nothing runs\n{text}"
        else:
            assert language in ("console", "toml", "json", "text", ""), f"nothing runs {language}"
    assert "commands()" in runner and number["toml"] <= 1 and number["json"] <= 1


# ── what is not run ──


def read(block: Block) -> None:
    """Look at what is not run: it has to be what it says it is."""
    match block.language:
        case "python":
            compile(block.text, block.place, "exec")
        case "toml":
            tomllib.loads(block.text)
        case "yaml":
            yaml.safe_load(block.text)
        case "ini":
            configparser.ConfigParser(strict=False, interpolation=None).read_string(block.text)
        case "dockerfile":
            known = {"FROM", "RUN", "COPY", "WORKDIR", "ENV", "USER", "EXPOSE", "ENTRYPOINT", "CMD", "HEALTHCHECK"}
            lines = re.sub(r"\\\n", " ", block.text).splitlines()
            assert {line.split()[0] for line in lines if line and not line.startswith("#")} <= known, block.place
        case "console":
            for step in steps_of(block):
                subprocess.run(["bash", "-n", "-c", step.command], check=True)
                if step.command.startswith("killable "):
                    check_command(f"{block.page}:{step.line}", step.command)


def check_command(place: str, command: str) -> None:
    """Raise AssertionError for a verb or an option that there is not."""
    words = shlex.split(command.replace("'", ""))[1:]
    verbs = [word for word in words if not word.startswith("-")]
    if not verbs or not verbs[0].islower():
        return  # `killable --help`, `killable VERB`
    assert verbs[0] in VERBS, f"{place}: {command}"
    known = {option for parameter in VERBS[verbs[0]].params for option in parameter.opts}
    known |= {option for parameter in VERBS[verbs[0]].params for option in parameter.secondary_opts}
    unknown = {word.partition("=")[0] for word in words if word.startswith("--")} - known - {"--help"}
    assert not unknown, f"{place}: {command} has no {unknown}"


# ── controls: what is broken is found ──

BROKEN = {
    "a program that fails": "```python\nraise ValueError\n```\n",
    "a program that prints something else": "```python\nprint('ab')\n```\n\n```text\nac\n```\n",
    "a command that fails": "```console\n$ false\n```\n",
    "a command that is not there": "```console\n$ kilable ps\nsomething\n```\n",
    "a command that prints something else": "```console\n$ echo ab\nac\n```\n",
    "a command that prints more": "```console\n$ printf 'a\\nb\\n'\na\n```\n",
    "an exit code that nobody asks for": "```console\n$ echo a; exit 3\na\n$ echo b\nb\n```\n",
    "a file that nothing uses": "```python\n# my_jobs.py\n```\n",
    "output of nothing": "```text\nab\n```\n",
    "settings that are no file": "```toml\na = 1\n```\n",
    "a server that does not serve": "```console\n$ killable serve absent.py\n```\n",
}
UNREADABLE = {
    "a language that is not run": "```bash\ntrue\n```\n",
    "no language": "```\ntrue\n```\n",
    "an indented block": "Words.\n\n    true\n",
    "a mark without a reason": "<!-- not run: -->\n```ruby\n```\n",
    "a command without a dollar": "```console\ntrue\n```\n",
}


@pytest.mark.parametrize("broken", BROKEN)
def test_a_broken_block_is_found(broken: str, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(BROKEN[broken])
    with pytest.raises(Broken):
        Session(tmp_path).follow(page)


@pytest.mark.parametrize("unreadable", UNREADABLE)
def test_a_block_that_breaks_a_convention_is_found(unreadable: str, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(UNREADABLE[unreadable])
    with pytest.raises(ValueError):
        for block in blocks_of(page):
            list(steps_of(block))


def test_a_mark_is_for_the_block_behind_it_alone(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("<!-- not run: once -->\n```text\na\n```\n\n```text\nb\n```\n<!-- not run: no -->\n\nWords.\n")
    assert [block.because for block in blocks_of(page)] == ["once", ""]


def test_a_command_that_there_is_not_is_found() -> None:
    for command in ("killable finish", "killable serve --prot 80"):
        with pytest.raises(AssertionError):
            check_command("here", command)


def test_only_what_differs_from_run_to_run_may_differ() -> None:
    assert is_shown(["job-3f2a91c0  dead after 1.3 ms", "...", "3 tokens"],
                    ["job-00000000  dead after 0.2 s", "more", "3   tokens", ""])  # fmt: skip
    assert not is_shown(["3 tokens"], ["4 tokens"])
    assert not is_shown(["cancelled by user"], ["cancelled by operator"])
    assert not is_shown(["a", "..."], ["b", "c"])
