"""`killable` itself: the names that a user imports, each loaded on its first use."""

import json
import subprocess
import sys
from importlib.metadata import version

import pytest

import killable


def run_python(code: str) -> object:
    """Return what a fresh interpreter prints as JSON."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    return json.loads(done.stdout)


def test_importing_it_loads_nothing_else() -> None:
    loaded = run_python(
        "import sys; before = set(sys.modules); import killable; after = set(sys.modules) - before;"
        "import json; print(json.dumps(sorted(after)))"
    )
    assert loaded == ["killable"]


@pytest.mark.parametrize("name", ["Context", "Stopping", "job", "preload"])
def test_the_authors_names_load_neither_supervisor_nor_asyncio_nor_pydantic(name: str) -> None:
    loaded = run_python(f"from killable import {name}; import sys, json; print(json.dumps(sorted(sys.modules)))")
    assert isinstance(loaded, list)
    assert "killable.workers" in loaded
    assert not {"killable.supervisor", "killable.api", "asyncio", "pydantic"} & set(loaded)


@pytest.mark.parametrize("name", sorted(set(killable._MODULES) - {"Client"}))
def test_each_name_is_its_homes(name: str) -> None:
    value = getattr(killable, name)
    assert value is getattr(sys.modules[killable._MODULES[name]], name)
    assert vars(killable)[name] is value


def test_all_and_dir_list_every_name() -> None:
    assert sorted({*killable._MODULES, "__version__"}) == sorted(killable.__all__)
    assert set(killable.__all__) <= set(dir(killable))


def test_the_version_is_the_distributions() -> None:
    assert killable.__version__ == version("killable")


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match=r"^module 'killable' has no attribute 'jobb'$"):
        killable.jobb  # noqa: B018
    with pytest.raises(ImportError, match="cannot import name 'jobb' from 'killable'"):
        from killable import jobb  # noqa: F401
