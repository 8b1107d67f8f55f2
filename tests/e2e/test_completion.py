"""Completion in a real bash: what Tab writes, and how long it takes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.killable_command import Command, start_detached
from support.waiting import until

BIN = Path(sys.executable).parent
CPU_S = 0.15
"""Seconds of processor that a completion may take, with an answer of the server: no prompt hangs."""

COMPLETE = """
eval "$(killable completion bash)"
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMP_LINE="$*"; COMP_POINT=${#COMP_LINE}
_killable_completion killable "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
printf '%s\\n' "${COMPREPLY[@]}"
"""


def in_bash(command: Command, *words: str) -> list[str]:
    """Return what bash offers for the last word."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("KILLABLE_")}
    env |= {"PATH": f"{BIN}:{env['PATH']}", "KILLABLE_URL": command.url}
    done = subprocess.run(
        ["bash", "--norc", "-c", COMPLETE, "bash", "killable", *words], env=env, capture_output=True, text=True,
        timeout=60, cwd=command.folder,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.split()


def test_bash_completes_verbs_options_types_and_ids(command: Command) -> None:
    job = start_detached(command, "tick")[:12]
    assert in_bash(command, "expl") == ["explain"]
    assert in_bash(command, "ps", "--wat") == ["--watch"]
    until(lambda: in_bash(command, "submit", "gre") == ["greet"], "a job type is completed")
    until(lambda: job in in_bash(command, "kill", "job-"), "a job is completed")


def test_a_completion_takes_no_longer_than_a_prompt_may(command: Command) -> None:
    """Processor time: others run here, too."""
    program = (
        "import os, resource, sys; os.environ.update(_KILLABLE_COMPLETE='bash_complete', COMP_CWORD='2',"
        " COMP_WORDS='killable submit gre'); sys.argv = ['killable']\n"
        "from killable.api.cli import main\n"
        "try:\n    main()\n"
        "except SystemExit:\n    pass\n"
        "used = resource.getrusage(resource.RUSAGE_SELF)\n"
        "print(used.ru_utime + used.ru_stime, 'httpx' in sys.modules)"
    )
    env = {**os.environ, "KILLABLE_URL": command.url}

    def measured() -> float:
        done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, check=True)
        offered, _, last = done.stdout.strip().rpartition("\n")
        assert offered == "plain,greet", done
        seconds, has_httpx = last.split()
        assert has_httpx == "False"
        return float(seconds)

    assert min(measured() for _ in range(3)) < CPU_S


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_verb_prints_what_the_option_installs(tmp_path: Path, shell: str) -> None:
    command = Command(tmp_path)
    assert command.ok("completion", shell) == command.ok("--show-completion", shell).rstrip("\n") + "\n"
    assert command.run("completion", "tcsh").returncode == 2
