"""Do something when a module has been imported: what concerns a module costs nothing until a program imports it.

Runs in: zygote | worker, and the processes that a job forks.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_acts: dict[str, Callable[[ModuleType], None]] = {}
"""By name of the module."""


def when_imported(name: str, act: Callable[[ModuleType], None]) -> None:
    """Call `act` with this module, as soon as it has been imported: now, if it is already. A later `act` for the same
    module takes the place of an earlier one.
    """
    _acts[name] = act
    if _Finder not in sys.meta_path:
        sys.meta_path.insert(0, _Finder)
    if name in sys.modules:
        act(sys.modules[name])


class _Finder:
    """Puts a loader of ours around that of a module; it finds nothing by itself.

    A meta path finder, as importlib.abc describes it. That module would cost 10 ms.
    """

    @classmethod
    def find_spec(cls, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name not in _acts:
            return None
        for finder in sys.meta_path:
            if finder is not cls and (spec := finder.find_spec(name, path, target)) is not None:
                spec.loader = _Loader(spec.loader)  # type: ignore[assignment]
                return spec
        return None


class _Loader:
    def __init__(self, real: Any) -> None:
        self._real = real

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        made: ModuleType | None = self._real.create_module(spec)
        return made

    def exec_module(self, module: ModuleType) -> None:
        self._real.exec_module(module)
        _acts[module.__name__](module)
