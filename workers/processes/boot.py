"""Start a guard or worker process from a path: no installation, no site-packages, any interpreter ≥ 3.11.

Runs in: guard | worker (start method spawn), as `python -S -P boot.py ROLE JSON`. The package need not be installed
in that interpreter: its two folders come with the arguments.
"""

from __future__ import annotations

import gc

if __name__ == "__main__":
    gc.disable()  # modules are no garbage: it would look through them again and again, a tenth of the time of a start

import importlib
import json
import sys
from importlib.machinery import ModuleSpec, SourceFileLoader

ROLES = {"guard": "killable.workers.processes.guard", "worker": "killable.workers.processes.exec_worker"}


def load_package(name: str, folder: str) -> None:
    """Import a package from its directory, which need not be on sys.path nor have the package's name."""
    path = f"{folder}/__init__.py"
    spec = ModuleSpec(name, SourceFileLoader(name, path), origin=path, is_package=True)
    spec.submodule_search_locations = [folder]
    spec.has_location = True
    module = importlib._bootstrap.module_from_spec(spec)
    sys.modules[name] = module
    assert spec.loader is not None
    spec.loader.exec_module(module)
    parent, _, child = name.rpartition(".")
    if parent:
        setattr(sys.modules[parent], child, module)


def main() -> int:
    role, arguments = sys.argv[1], json.loads(sys.argv[2])
    for name, folder in arguments["packages"].items():
        load_package(name, folder)
    main = importlib.import_module(ROLES[role]).main
    gc.freeze()
    gc.enable()
    return int(main(**arguments))


if __name__ == "__main__":
    sys.exit(main())
