"""The arguments of `killable run` mean without Click what they mean with it, and what is wrong is left to Click."""

from __future__ import annotations

import gc
from typing import Any

import click
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from killable.api.cli import main
from killable.api.cli.declarations.commands import RUN
from killable.api.cli.parameters.limit_options import limits_of
from killable.api.cli.parameters.run_arguments import (
    LIMITS_OF_COMMANDS,
    RunArguments,
    limits_of_command,
    read_arguments,
)

WORDS = [
    "--", "-", "true", "-s", "-sINT", "-s=INT", "--signal", "--signal=INT", "INT", "--json", "--json=1", "--report",
    "f", "--report=f", "--report=", "--help", "--nothing", "--run-s", "--run-s=2s", "--run-s=0", "--grace-s=0",
    "--grace-s", "--memory", "--memory=1GiB", "--memory-bytes=1MiB", "--memory=none", "--processes-max=3",
    "--cpu-s=none", "--files-max=x", "5", "1h30m", "none", "-1", "", "--tokens", "--output-bytes=3", "a=b", "-x",
    "--run-s=", "--grace-s=none", "-k", "-k=5", "-k5",
]  # fmt: skip


def read_by_click(arguments: list[str]) -> RunArguments | str:
    """Return what Click reads, or the class of the error."""
    try:
        params: dict[str, Any] = RUN.make_context("run", list(arguments)).params
        argv, signal, as_json, report = (params.pop(name) for name in ("argv", "signal", "as_json", "report"))
        limits = limits_of_command(limits_of(params))
    except (click.ClickException, click.exceptions.Exit, ValueError) as error:
        return type(error).__name__
    return RunArguments(argv, signal, as_json, "" if report is None else str(report), limits)


@settings(max_examples=1000, deadline=None)
@given(st.lists(st.sampled_from(WORDS), max_size=6))
def test_what_is_read_plainly_is_what_click_reads(arguments: list[str]) -> None:
    plainly = read_arguments(arguments)
    assert plainly is None or plainly == read_by_click(arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        ["true"], ["--", "true", "--json"], ["--run-s", "5", "--", "ls", "-l"], ["--run-s=1m", "ls", "--", "-l"],
        ["-s", "INT", "--grace-s=0", "--json", "--report", "end.json", "--", "x"],
        ["--memory", "2GiB", "--cpu-s", "none", "--processes-max=5", "--threads-max=9", "--files-max=8", "x"],
    ],
)  # fmt: skip
def test_whatever_is_right_is_read_plainly(arguments: list[str]) -> None:
    assert read_arguments(arguments) == read_by_click(arguments)


def test_every_option_of_a_limit_is_known() -> None:
    for name in LIMITS_OF_COMMANDS:
        assert read_arguments([f"--{name.replace('_', '-')}", "3", "x"]) is not None


@pytest.mark.parametrize("arguments", [[], ["--"], ["--help"], ["--run-s"], ["--run-s=0", "x"], ["--nothing", "x"]])
def test_what_is_wrong_is_left_to_click(arguments: list[str]) -> None:
    assert read_arguments(arguments) is None
    assert isinstance(read_by_click(arguments), str)


def test_an_interrupt_before_the_command_runs_is_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(arguments: list[str]) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("killable.api.cli.plain_run.run_plainly", interrupted)
    monkeypatch.setattr("sys.argv", ["killable", "run", "true"])
    with pytest.raises(SystemExit) as caught:
        main()
    gc.enable()
    assert caught.value.code == 130
