"""A page is followed as a reader would: its files are written, its programs and commands run, in one folder.

The command `killable` runs in a fork, which is sooner there; its start is tested elsewhere.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from documents import Block, Step, blocks_of, steps_of
from outputs import JOB_ID, ids_of, is_shown
from support.forked_script import ForkedScript
from support.long_wait_server import LONG_WAITS

SERVERS = ("killable serve", "uvicorn ")
"""Commands that a reader leaves running in a terminal of their own."""
PORTS = {"killable serve": "7833", "uvicorn ": "8000"}
"""Those of the pages: a test takes others."""
FOLDER_SHOWN = "/home/you/project"
"""The reader's folder, where a page shows its path."""
READ_UNNAMED = {"killable.toml": "killable ", "conftest.py": "pytest", "pytest.ini": "pytest", "test_": "pytest"}
"""Files that a command reads without naming them, by how their names begin."""
STARTS_S = ENDS_S = COMMAND_S = 120
"""On a busy machine."""

_LOG_LINE = re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+Z \w+ |INFO: ")

_CELL_ENDS = "---- the cell ends ----"
_NOTEBOOK = f"""
def _run(cells):
    import ast, asyncio, inspect

    with asyncio.Runner() as runner:
        for cell in cells:
            for statement in ast.parse(cell).body:
                interactive = ast.Interactive([statement])
                code = compile(interactive, "<cell>", "single", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
                if code.co_flags & inspect.CO_COROUTINE:
                    runner.get_loop().run_until_complete(eval(code, globals()))
                else:
                    exec(code, globals())
            print({_CELL_ENDS!r}, flush=True)

_run(__import__("json").load(open("cells.json")))
"""
"""A notebook's kernel: it shows what the expressions of a cell are, and awaits at the top level."""


class Broken(AssertionError):
    """A block does not do what its page says."""


@dataclass(frozen=True)
class Output:
    """What a page shows, from this line on, and what was printed."""

    line: int
    shown: tuple[str, ...]
    printed: tuple[str, ...]
    place: str

    def check(self) -> None:
        if not is_shown(self.shown, self.printed):
            shown, printed = ("\n".join(f"    {each}" for each in lines) for lines in (self.shown, self.printed))
            raise Broken(f"{self.place}: the page shows\n{shown}\nand this was printed\n{printed}")


@dataclass(frozen=True)
class _Running:
    place: str
    step: Step
    process: subprocess.Popen[bytes]
    out: Path


class Session:
    """One reader, in one folder."""

    def __init__(self, folder: Path, *, checks: bool = True) -> None:
        """Without `checks` outputs are collected, and not compared."""
        self._folder = folder
        self._scripts = folder
        """Where `killable` is, for its commands."""
        self._checks = checks
        self._ports = dict(zip(PORTS.values(), _free_ports(len(PORTS)), strict=True))
        self._ids: dict[str, str] = {}
        self._exported: dict[str, str] = {}
        self._running: list[_Running] = []
        self._code = 0
        self._unused: dict[str, Block] = {}
        self.outputs: list[Output] = []

    def follow(self, path: Path) -> None:
        """Do what a page says, from its first block to its last. Raise Broken."""
        with TemporaryDirectory() as scripts, ForkedScript(Path(scripts) / "bin", of_servers=LONG_WAITS) as script:
            self._scripts = script.folder
            self._follow(path)

    def _follow(self, path: Path) -> None:
        try:
            blocks = [block for block in blocks_of(path) if block.mark in ("", "cell")]
            cells: list[tuple[Block, Block | None]] = []
            while blocks:
                block = blocks.pop(0)
                has_output = _is_program(block) and blocks and blocks[0].language == "text"
                output = blocks.pop(0) if has_output else None
                if block.mark == "cell":
                    cells.append((block, output))
                else:
                    self._do(block, output)
            if cells:
                self._notebook(cells)
            self._stop_servers()
        finally:
            for each in self._running:
                each.process.kill()
                each.process.wait()
        for name, block in self._unused.items():
            raise Broken(f"{block.place}: nothing on the page uses {name}")

    def _do(self, block: Block, output: Block | None) -> None:
        if block.language == "console":
            for step in steps_of(block):
                self._command(f"{block.page}:{step.line}", step)
        elif block.file_name is not None:
            target = self._folder / block.file_name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(self._real(block.text))
            self._unused[block.file_name] = block
        elif _is_program(block):
            self._program(block, output)
        elif block.language != "mermaid":
            raise Broken(f"{block.place}: {block.language} that is no file and no output; say why it is not run")

    def _program(self, block: Block, output: Block | None) -> None:
        self._note_use(block.text)
        program = self._folder / "example.py"
        program.write_text(self._real(block.text))
        code, printed = self._run([sys.executable, program.name])
        program.unlink()
        if code:
            raise Broken(f"{block.place}: exit code {code}\n" + "\n".join(printed))
        if output is not None:
            self._note_output(Output(output.line, tuple(output.text.splitlines()), printed, output.place))

    def _notebook(self, cells: Sequence[tuple[Block, Block | None]]) -> None:
        (self._folder / "cells.json").write_text(json.dumps([self._real(cell.text) for cell, _ in cells]))
        code, printed = self._run([sys.executable, "-c", _NOTEBOOK])
        parts = "\n".join(printed).split(_CELL_ENDS + "\n")
        if code:
            raise Broken(f"{cells[min(len(parts), len(cells)) - 1][0].place}: exit code {code}\n{parts[-1]}")
        for (cell, output), part in zip(cells, parts, strict=False):
            self._note_use(cell.text)
            if output is not None:
                self._note_output(
                    Output(output.line, tuple(output.text.splitlines()), tuple(part.splitlines()), output.place)
                )

    def _command(self, place: str, step: Step) -> None:
        self._note_use(step.command)
        if self._code and "$?" not in step.command:
            raise Broken(f"{place}: the command before it had the exit code {self._code}, and nobody asks for it")
        if step.command.startswith(SERVERS):
            self._serve(place, step)
            return
        if exported := re.match(r"export (\w+)=", step.command):
            self._code, lines = self._run(["bash", "-c", f'{self._real(step.command)}; printf %s "${exported[1]}"'])
            self._exported[exported[1]] = "\n".join(lines)
            return
        self._code, printed = self._run(["bash", "-c", f"(exit {self._code}); {self._real(step.command)}"])
        if step.output and self._code not in (126, 127):
            self._ids.update(ids_of(step.output, printed, self._ids))
            printed = self._as_shown("\n".join(printed))
            self._note_output(Output(step.line + 1, step.output, printed, place))
        elif self._code:
            raise Broken(f"{place}: exit code {self._code}\n" + "\n".join(printed))

    def _note_output(self, output: Output) -> None:
        self.outputs.append(output)
        if self._checks:
            output.check()

    def _note_use(self, text: str) -> None:
        """Forget the files that a command or a program names, and those that they name."""
        for name, block in list(self._unused.items()):
            is_read = any(name.startswith(of) and text.startswith(command) for of, command in READ_UNNAMED.items())
            is_named = is_read or re.search(rf"\b{re.escape(Path(name).stem)}\b", text)
            if is_named and self._unused.pop(name, None) is not None:  # else one that it names has named it
                self._note_use(block.text)

    # ── processes ──

    def _run(self, command: Sequence[str]) -> tuple[int, tuple[str, ...]]:
        done = subprocess.run(
            command,
            cwd=self._folder,
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=COMMAND_S,
        )
        return done.returncode, self._as_shown(done.stdout)

    def _environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("KILLABLE_", "PYTEST_"))}
        port = self._ports["7833"]
        return kept | {
            "PATH": f"{self._scripts}:{Path(sys.executable).parent}:{os.environ['PATH']}",
            "HOME": str(self._folder),
            "COLUMNS": "120",
            "PYTEST_ADDOPTS": "-p no:asyncio",  # which warns, where it has no settings
            "KILLABLE_SERVER__PORT": port,
            "KILLABLE_URL": f"http://127.0.0.1:{port}",
            **self._exported,
        }

    def _serve(self, place: str, step: Step) -> None:
        (port,) = (self._ports[shown] for starts, shown in PORTS.items() if step.command.startswith(starts))
        out = self._folder / f".server-{len(self._running)}"
        with out.open("wb") as output:
            process = subprocess.Popen(
                ["bash", "-c", f"exec {self._real(step.command)}"],
                cwd=self._folder,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        started = _Running(place, step, process, out)
        self._running.append(started)
        ends = time.monotonic() + STARTS_S
        while not _listens(port):
            if process.poll() is not None or time.monotonic() > ends:
                raise Broken(f"{place}: it does not serve\n{out.read_text()}")
            time.sleep(0.05)

    def _stop_servers(self) -> None:
        """End each as Ctrl-C does, the last one first."""
        while self._running:
            each = self._running[-1]
            each.process.send_signal(signal.SIGINT)
            code = each.process.wait(ENDS_S)
            self._running.pop()
            if code not in (0, -signal.SIGINT):  # uvicorn raises the signal again when it has ended in order
                raise Broken(f"{each.place}: {each.step.command} ended with {code}\n{each.out.read_text()}")
            if each.step.output:
                printed = tuple(line for line in self._as_shown(each.out.read_text()) if not _LOG_LINE.match(line))
                self._note_output(Output(each.step.line + 1, each.step.output, printed, each.place))

    # ── between the page and this machine ──

    def _real(self, text: str) -> str:
        for shown, real in self._ports.items():
            text = re.sub(rf"(?<![\w.]){shown}(?!\w)", real, text)
        return JOB_ID.sub(lambda found: self._ids.get(found[0], found[0]), text)

    def _as_shown(self, text: str) -> tuple[str, ...]:
        for shown, real in self._ports.items():
            text = text.replace(real, shown)
        text = re.sub(r"\x1b\[[0-9;]*m", "", text).replace(str(self._folder.resolve()), FOLDER_SHOWN)
        shown_ids = {real: shown for shown, real in self._ids.items()}
        text = JOB_ID.sub(lambda found: shown_ids.get(found[0], found[0]), text)
        return tuple(text.splitlines())


def _is_program(block: Block) -> bool:
    return block.language == "python" and block.file_name is None


def _free_ports(number: int) -> list[str]:
    with socket.socket() as first, socket.socket() as second:
        sockets = [first, second][:number]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [str(each.getsockname()[1]) for each in sockets]


def _listens(port: str) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", int(port))) == 0
