"""The workers' room needs the standard library only: shown by a pool whose interpreter has nothing else."""

from __future__ import annotations

import json
import venv
from pathlib import Path

from support.supervisor_fixture import StartSupervisor

from killable.supervisor.models import Submission
from killable.supervisor.settings import PoolSpec

JOBS = """
import importlib.util
import sys

from killable import Context, job


@job
def look(ctx: Context) -> dict:
    ctx.emit("here")
    packages = ("pydantic", "psutil", "fastapi", "pip")
    return {"prefix": sys.prefix, "found": [name for name in packages if importlib.util.find_spec(name)]}
"""


async def test_the_built_in_types_say_there_how_to_get_what_they_need(
    supervisor: StartSupervisor, tmp_path: Path
) -> None:
    venv.create(tmp_path / "bare", with_pip=False, symlinks=True)
    python = str(tmp_path / "bare" / "bin" / "python")
    modules = tuple(
        f"killable.workers.builtin.{name}" for name in ("embed", "generate", "chat", "tokenize", "vocabulary")
    )
    names = (
        *("chat", "complete", "embed", "embeddings", "generate", "llm-detokenize", "llm-tokenize"),
        *("text-detokenize", "text-tokenize", "tokenize"),
    )
    server = await supervisor(PoolSpec("builtin", modules, workers=1, python=python))
    types = await server.job_types()
    assert [(each.name, each.available) for each in types] == [(name, False) for name in names]
    for each in types:
        assert "is not installed: pip install 'killable[models]'" in each.unavailable_reason
    record = await server.submit(Submission("embed", b'{"texts": ["x"]}'))
    record = await server.wait(record.job_id)
    assert record.error is not None and "pip install 'killable[models]'" in record.error["message"]


async def test_a_pool_may_run_in_a_bare_virtual_environment(supervisor: StartSupervisor, tmp_path: Path) -> None:
    venv.create(tmp_path / "bare", with_pip=False, symlinks=True)
    (tmp_path / "bare_jobs.py").write_text(JOBS)
    python = str(tmp_path / "bare" / "bin" / "python")
    for method in ("fork", "spawn"):
        spec = PoolSpec(
            method, ("./bare_jobs.py",), workers=1, python=python, start_method=method, folder=str(tmp_path)
        )
        server = await supervisor(spec)
        record = await server.submit(Submission("look", b"{}"))
        record = await server.wait(record.job_id)
        assert (record.state, record.tokens) == ("completed", 1), record.error
        assert json.loads(record.result or b"") == {"prefix": str(tmp_path / "bare"), "found": []}
