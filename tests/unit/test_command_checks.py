"""What is wrong with `[commands.NAME]` is said at the start, by its key and line, and all of it at once."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from killable.supervisor.configuration.config import ConfigFault, examine
from killable.supervisor.configuration.schema_faults import keys_of
from killable.workers.commands.command_spec import Parameter

pytestmark = pytest.mark.row("G11")


def faults(folder: Path, text: str) -> list[ConfigFault]:
    file = folder / "killable.toml"
    file.write_text(text)
    return examine(file, {"PATH": os.environ["PATH"]}, {}, None)[1]


def only(folder: Path, argv: str, *lines: str) -> ConfigFault:
    """Return the only fault of a command."""
    (found,) = faults(folder, "\n".join(["[commands.c]", f"argv = {argv}", *lines, ""]))
    return found


def test_a_command_without_a_fault(tmp_path: Path) -> None:
    (tmp_path / "run.sh").write_text("#!/bin/sh\n")
    (tmp_path / "run.sh").chmod(0o755)
    text = """
    [commands.c]
    argv = ["./run.sh", ["-w", "{width}"], "{files}", "{input}", "{out}", "{{text}}"]
    stdin = "text"
    ok_exit_codes = [0, 1]
    signal = "int"
    parameters.width = { type = "integer", minimum = 1, default = 3 }
    parameters.files = { type = "array", items = { pattern = "[a-z]+" }, required = false }
    parameters.input = { type = "file", filename = "in.png" }
    parameters.text = {}
    outputs.out = "out.png"
    """
    assert faults(tmp_path, text) == []
    config, _ = examine(tmp_path / "killable.toml", {}, {}, None)
    (pool,) = config.settings.pools
    (command,) = pool.commands
    assert (pool.name, pool.modules) == ("commands", ())
    assert (command.argv[0], command.signal) == (str(tmp_path / "run.sh"), "INT")
    assert command.parameter("width") == Parameter(type="integer", minimum=1, default=3)
    assert config.sources["commands.c.argv"].endswith("killable.toml:3")


@pytest.mark.parametrize(
    ("program", "why"),
    [
        ("no-such-program", "it is not on PATH"),
        ("./no-such-program", "there is no such file"),
        ("./folder/", "it is a folder"),
        ("./plain.sh", "it is not executable (chmod +x)"),
        ("./script.sh", "its first line names /no/interpreter, which cannot be executed"),
    ],
)
def test_a_program_that_cannot_be_executed(tmp_path: Path, program: str, why: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "plain.sh").write_text("#!/bin/sh\n")
    (tmp_path / "script.sh").write_text("#!/no/interpreter -x\n")
    (tmp_path / "script.sh").chmod(0o755)
    found = only(tmp_path, f'["{program}"]')
    assert found.key == "commands.c.argv" and found.found.endswith(why)
    assert found.source.endswith("killable.toml:2")


def test_path_of_the_command_or_its_pool_is_where_a_program_is_looked_for(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("#!/bin/sh\n")
    (tmp_path / "mine").chmod(0o755)
    assert only(tmp_path, '["mine"]').found.endswith("it is not on PATH")
    assert faults(tmp_path, f'[commands.c]\nargv = ["mine"]\nenv = {{ PATH = "{tmp_path}" }}') == []
    pool = f'[pools.commands.env]\nPATH = "{tmp_path}"\n'
    assert faults(tmp_path, f'{pool}[commands.c]\nargv = ["mine"]\n') == []


@pytest.mark.parametrize(
    ("argv", "lines", "key", "words"),
    [
        ('["true", "{width}"]', (), "argv", "[commands.c.parameters.width] for the placeholder {width}; the text"),
        ('["true", "{width}"]', ("parameters.widht = {}", 'stdin = "widht"'), "argv", "did you mean widht?"),
        ('["true"]', ("parameters.a = {}",), "parameters.a", 'to be used: {a} in argv, or stdin = "a"'),
        ('["true"]', ('outputs.a = "a"',), "outputs.a", "to be used: {a} in argv"),
        ('["true", "{a}"]', ('outputs.a = "a"', "parameters.a = {}"), "outputs.a", "that no parameter has"),
        ('["{a}"]', ("parameters.a = {}",), "argv", "a program without a placeholder"),
        ("[]", (), "argv", "begins with the program"),
        ('"true"', (), "argv", "begins with the program"),
        ('[["true"]]', (), "argv", "begins with the program"),
        ('["true", 3]', (), "argv", "a list of texts"),
        ('["true", []]', (), "argv", "a list of texts"),
        ('["true", "a\\u0000b"]', (), "argv", "without the character NUL"),
        ('["true"]', ('stdin = "a"',), "stdin", "the name of a parameter (there are none)"),
        ('["true"]', ('stdin = "a"', 'parameters.a = { type = "integer" }'), "stdin", "of type string or file"),
        ('["true"]', ('stdout = "words"',), "stdout", '"lines", "bytes", "result" or "json"'),
        ('["true"]', ("ok_exit_codes = []",), "ok_exit_codes", "exit codes from 0 to 255"),
        ('["true"]', ("ok_exit_codes = [256]",), "ok_exit_codes", "exit codes from 0 to 255"),
        ('["true"]', ('signal = "KILL"',), "signal", "the name of a signal that asks it to end"),
        ('["true"]', ("limits.run_s = 3",), "limits", "are in [jobs.c.limits]"),
        ('["true"]', ("argvs = []",), "argvs", "did you mean argv?"),
        ('["true", "{a}"]', ('outputs.a = "../x"',), "outputs.a", "the name of a file, without a folder"),
        ('["true", "{a}{b}"]', ("parameters.a.type = 'array'", "parameters.b.type = 'array'"), "argv", "one array"),
        ('["true", "x{a}"]', ("parameters.a = { type = 'boolean', flag = '-x' }",), "argv", "it has a flag"),
        ('["true", "{a}"]', ("parameters.a = { type = 'text' }",), "parameters.a.type", '"string", "integer"'),
        ('["true", "{a}"]', ("parameters.a.minimun = 1",), "parameters.a.minimun", "did you mean minimum?"),
        ('["true", "{a}"]', ("parameters.a.minimum = 1",), "parameters.a.minimum", "for integer and number only"),
        ('["true", "{a}"]', ("parameters.a.minimum = '1'",), "parameters.a.minimum", "a number"),
        ('["true", "{a}"]', ("parameters.a.pattern = '['",), "parameters.a.pattern", "a regular expression"),
        ('["true", "{a}"]', ("parameters.a.enum = [1]",), "parameters.a.enum", "values of type string"),
        ('["true", "{a}"]', ("parameters.a.default = 1",), "parameters.a.default", "must be a string, is a number"),
        ('["true", "{a}"]', ("parameters.a.default = '-x'",), "parameters.a.default", "must not begin with -"),
        ('["true", "{a}"]', ("parameters.a = { type = 'file', default = 'x' }",), "parameters.a.default", "none"),
        (
            '["true", "{a}"]', ("parameters.a = { type = 'integer', minimum = 5, maximum = 1 }",),
            "parameters.a.maximum", "at least the minimum, 5",
        ),
        (
            '["true", "{a}"]', ("parameters.a = { type = 'integer', minimum = -5 }",),
            "parameters.a.minimum", "at least 0, or dash = true",
        ),
        (
            '["true", "{a}", "{b}"]', ("parameters.a = { type = 'file', filename = 'f' }", "outputs.b = 'f'"),
            "outputs.b", "no other file of the job has, as a has",
        ),
    ],
)  # fmt: skip
def test_each_fault_is_told_by_its_key(tmp_path: Path, argv: str, lines: tuple[str, ...], key: str, words: str) -> None:
    found = only(tmp_path, argv, *lines)
    assert found.key == f"commands.c.{key}"
    assert words in found.expected
    assert "killable.toml:" in found.source


def test_all_faults_are_told_at_once(tmp_path: Path) -> None:
    text = '[commands.a]\nargv = ["no-such", "{x}"]\n[commands.b]\nargv = ["true"]\nparameters.y = {}\n'
    assert [each.key for each in faults(tmp_path, text)] == ["commands.a.argv"] * 2 + ["commands.b.parameters.y"]


def test_a_pool_has_modules_or_commands(tmp_path: Path) -> None:
    (found,) = faults(tmp_path, "[pools.p]\nworkers = 1\n")
    assert (found.key, found.expected) == ("pools.p.module", "missing; it is required")
    assert faults(tmp_path, '[pools.p]\nworkers = 1\n[commands.c]\nargv = ["true"]\npool = "p"\n') == []


def test_commands_of_a_cluster_need_not_be_on_its_head(tmp_path: Path) -> None:
    assert faults(tmp_path, '[cluster]\nray = "auto"\n[commands.c]\nargv = ["no-such"]\n') == []


def test_the_keys_that_a_hint_names_are_those_of_the_table() -> None:
    assert {"argv", "parameters", "ok_exit_codes"} <= set(keys_of("commands", "c"))
    assert set(Parameter._fields) == set(keys_of("commands", "c", "parameters", "p"))
