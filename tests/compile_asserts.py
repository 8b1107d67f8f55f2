"""Compile the tests, and what pytest imports of its plugins, as pytest does, with asserts rewritten: once, on all
processors, before `make test`.

Else each of its processes does it when it collects, all of them at the same time. What is compiled already stays.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib.metadata import entry_points
from pathlib import Path
from types import SimpleNamespace
from typing import Any

TESTS = Path(__file__).parent
UNWRITABLE: Any = SimpleNamespace(trace=print)
"""Takes what pytest says of a folder that cannot be written."""


def compile_some(sources: Sequence[Path]) -> None:
    # None of it is of pytest's interface. Where a name is gone this process fails, and collecting takes longer.
    from _pytest.assertion.rewrite import PYC_TAIL, _read_pyc, _rewrite_test, _write_pyc, get_cache_dir

    for source in sources:
        compiled = get_cache_dir(source) / (source.name[:-3] + PYC_TAIL)
        if _read_pyc(source, compiled) is None:
            compiled.parent.mkdir(exist_ok=True)
            status, code = _rewrite_test(source, None)
            _write_pyc(UNWRITABLE, code, status, compiled)


def main() -> None:
    # pytest rewrites all of a distribution that brings a plugin: killable is one.
    brings = {plugin.dist.name: plugin.dist for plugin in entry_points(group="pytest11") if plugin.dist is not None}
    files = [Path(str(file.locate())) for dist in brings.values() for file in dist.files or () if file.suffix == ".py"]
    sources = sorted({*TESTS.rglob("*.py"), *files})
    share = len(os.sched_getaffinity(0))
    children = []
    for number in range(share):
        if (child := os.fork()) == 0:
            compile_some(sources[number::share])
            os._exit(0)
        children.append(child)
    for child in children:
        os.waitpid(child, 0)


if __name__ == "__main__":
    main()
