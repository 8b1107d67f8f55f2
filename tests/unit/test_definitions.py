"""What calls of a script bring of its globals, and that what is known of it already costs no more than a look."""

from __future__ import annotations

import sys
import types

import pytest

from killable.workers.protocol import by_value, definitions, pickling, script_globals
from killable.workers.protocol.shared_memory import SealedInput

SCRIPT = """
import numpy as np

TABLE = np.ones({size})

def scale(number, by=1):
    return (TABLE * by)[number]
"""


@pytest.fixture(params=[100_000, 100])
def script(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """The program's `__main__`, with an array whose content is beside its pickle, or within."""
    made = types.ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", made)
    exec(SCRIPT.format(size=request.param), made.__dict__)
    definitions._known_sets.clear()
    return made


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # numpy 2.5: of setting a shape or dtype
@pytest.mark.parametrize(
    "change",
    [
        "TABLE[5] = 2", "TABLE = TABLE[::-1]", "TABLE.flags.writeable = False", "TABLE.dtype = 'int64'",
        "TABLE.shape = -1, 10", "TABLE = TABLE.copy()", "OTHER = TABLE", "TABLE = 3", "del TABLE",
    ],
)  # fmt: skip
def test_a_call_brings_what_it_would_bring_if_nothing_were_known(script: types.ModuleType, change: str) -> None:
    call = {"function": script.scale, "args": (3,), "kwargs": {"by": 2.5}}

    def encoded_anew() -> bytes:
        definitions._known.clear()
        definitions._known_sets.clear()
        found, pickler = pickling._by_value(by_value.Pickler, call, True)
        found.define(pickling._definitions_for(pickler))
        return found.to_bytes()

    first = encoded_anew()
    assert [pickling.pickled(call).to_bytes() for _ in range(2)] == 2 * [first]
    exec(change, script.__dict__)
    changed = [pickling.pickled(call).to_bytes() for _ in range(2)]
    assert changed == 2 * [encoded_anew()]
    assert (changed[0] == first) is (change == "TABLE = TABLE.copy()")


@pytest.mark.parametrize("script", [100_000], indirect=True)
def test_a_large_global_that_is_known_is_not_mapped(script: types.ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = pickling.pickled({"function": script.scale, "args": (7,), "kwargs": {}})
    ((number, piece),) = packed.pieces_over(100_000).items()
    packed.leave_out([number])
    part = SealedInput.of(piece)
    monkeypatch.setattr(script_globals, "_namespaces", {"__main__": script_globals.Namespace(dict(vars(script)))})
    assert pickling.loads(packed.to_bytes(), [part])["args"] == (7,)
    part.close()  # no mapping from here on
    assert pickling.loads(packed.to_bytes(), [part])["args"] == (7,)


def test_a_global_that_another_thread_sets_while_one_is_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    main = {"__name__": "__main__", "first": (sentinel := object()), "second": 2}
    monkeypatch.setattr(by_value, "globals_of_main", lambda: main)

    class Interrupted(by_value.Pickler):
        def _may_name(self, root: str) -> bool:
            main[f"{root}_again"] = 1
            return False

    pickling._by_value(Interrupted, sentinel, True)
    assert "first_again" in main
