"""Import a pool's modules and list the job types that they register.

Runs in: zygote (start method fork) | a child of it that only looks (start method spawn) | worker (start method spawn).
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import traceback
from collections.abc import Sequence
from types import ModuleType
from typing import Any

from killable.workers.authoring import preloads, registered_types
from killable.workers.authoring.registered_types import DeclarationError
from killable.workers.protocol.fd_passing import MESSAGE_BYTES_MAX
from killable.workers.protocol.zygote_messages import Configure, PreloadFailed, SourceFile
from killable.workers.runtime import copy_on_write

REPORT_BYTES_MAX = 60_000
"""The most bytes of a traceback, and of a declaration's error, as JSON: one message carries both."""
TYPE_BYTES_MAX = MESSAGE_BYTES_MAX - 1024
"""The most bytes of a job type as JSON, with schema and docstring: one message carries it."""
_LIBRARY_PATHS = (os.path.dirname(os.path.dirname(__file__)), "<frozen importlib")


class SurveyFailed(Exception):
    """Importing the modules failed; `failure` is the message for the supervisor, `files` is what was imported."""

    def __init__(self, failure: PreloadFailed, files: Sequence[SourceFile] = ()) -> None:
        super().__init__(failure.traceback)
        self.failure = failure
        self.files = files


def explain(error: BaseException) -> PreloadFailed:
    """Return the message to the supervisor about an error of the imports or preloads."""
    if isinstance(error, SurveyFailed):
        return error.failure
    return PreloadFailed(traceback_of(error), _end_of(str(error)) if isinstance(error, DeclarationError) else "")


def traceback_of(error: BaseException) -> str:
    """Return a traceback without the leading frames of this library, as much of its end as one message carries."""
    frames = error.__traceback__
    while frames is not None and frames.tb_frame.f_code.co_filename.startswith(_LIBRARY_PATHS):
        frames = frames.tb_next
    return _end_of("".join(traceback.format_exception(type(error), error, frames)))


def _end_of(text: str) -> str:
    """Return as much of the end of a text as fits: the error is at the end."""
    while len(json.dumps(text)) > REPORT_BYTES_MAX:
        text = text[len(text) // 4 + 1 :]
    return text


def load(configure: Configure, *, run_preloads: bool) -> list[dict[str, Any]]:
    """Import the modules, run the preloads that come before a fork, and return the catalogue.

    Raise DeclarationError for a job type that is too large for one message, and any exception of the imports.
    """
    if configure.folder and configure.folder not in sys.path:
        sys.path.insert(0, configure.folder)
    if configure.setup:
        from killable.workers.runtime import executor_setup

        with open(configure.setup, "rb") as file:
            executor_setup.prepare(file.read())
    else:
        copy_on_write.import_modules(copy_on_write.NEEDED_BY_JOBS)
    for name in configure.modules:
        import_module(name, configure.folder or ".")
    if configure.commands:
        from killable.workers.commands.command_job import register_all  # an Executor has none

        register_all(configure.commands)
    if run_preloads:
        preloads.run_preloads(each_worker=False)
    types = registered_types.catalogue()
    for told in types:
        if _size(told) > TYPE_BYTES_MAX:
            from killable.workers.authoring.function_signature import place_of  # whoever declares a job has imported it

            place = place_of(registered_types.registered()[told["name"]].function)
            raise DeclarationError(
                f"@job {place}: its input's schema takes {_size(told['input_schema']):,} bytes of JSON, the whole"
                f" declaration {_size(told):,}; at most {TYPE_BYTES_MAX:,} are allowed. Check the values of a long"
                " Literal in the job itself"
            )
    return types


def _size(told: object) -> int:
    return len(json.dumps(told, separators=(",", ":")))


def import_module(name: str, folder: str) -> ModuleType:
    """Import a module by its dotted name, or a file by its path (relative to `folder`)."""
    if not name.endswith(".py"):
        return importlib.import_module(name)
    path = os.path.realpath(os.path.join(folder, name))
    stem = os.path.basename(path).removesuffix(".py")
    if stem in sys.modules:
        return sys.modules[stem]
    from importlib.util import module_from_spec, spec_from_file_location  # here: an Executor has no such file

    spec = spec_from_file_location(stem, path)
    if spec is None or spec.loader is None or not os.path.isfile(path):
        raise ModuleNotFoundError(f"no job module at {path}")
    module = module_from_spec(spec)
    sys.modules[stem] = module  # before it runs, as the import system does: pickle and dataclasses look there
    if os.path.dirname(path) not in sys.path:
        sys.path.insert(0, os.path.dirname(path))
    spec.loader.exec_module(module)
    return module


def survey_in_child(configure: Configure) -> tuple[list[dict[str, Any]], list[SourceFile]]:
    """Import the modules in a child and return the catalogue and the user's files: a spawn pool's imports may start
    threads.

    Raise SurveyFailed.
    """
    from killable.workers.runtime.imported_files import imported_files  # here: an Executor has nothing to load anew

    told = os.memfd_create("killable-survey", os.MFD_CLOEXEC)  # a process started by an import could hold a pipe open
    pid = os.fork()
    if pid == 0:
        try:
            answer: dict[str, Any] = {"types": [], "failed": None, "files": []}
            try:
                answer["types"] = load(configure, run_preloads=False)
                answer["files"] = imported_files()
            except BaseException as error:
                answer["failed"] = explain(error)._asdict()
                answer["files"] = imported_files(error)
            with open(told, "w") as file:
                json.dump(answer, file)
        finally:
            os._exit(0)
    _, status = os.waitpid(pid, 0)
    with open(told) as file:
        file.seek(0)
        text = file.read()
    if not text:
        raise SurveyFailed(
            PreloadFailed(f"importing {', '.join(configure.modules)} ended the process: status {status}")
        )
    answer = json.loads(text)
    files = [SourceFile(*file) for file in answer["files"]]
    if answer["failed"]:
        raise SurveyFailed(PreloadFailed(**answer["failed"]), files)
    return answer["types"], files
