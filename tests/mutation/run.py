"""Mutate the modules that decide about an ending and count which faults the tests find: by hand, `python run.py`.

Runs in: by hand, with cosmic-ray beside the test dependencies: `pip install -e '.[test,mutation]'`. It works on a copy
of the tree, in which the packages are folders of their own names, and prints the score and each survivor. A mutant is
found by the unit, property and simulated tests of its module, or, when they pass, by mypy: what only changes an
annotation is changed for the reader and for nobody else. Guards of processes (`tests/conftest.py`) are left out.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = {"supervisor": "supervisor", "workers": "workers", "api": "api"}

KILLERS = {
    "supervisor/jobs/lifecycle.py": "tests/unit/test_lifecycle.py tests/contract/test_tables.py "
    "tests/properties/test_lifecycle.py",
    "supervisor/attempts/exit_outcome.py": "tests/unit/test_exit_outcome.py tests/contract/test_tables.py",
    "supervisor/attempts/escalation.py": "tests/unit/test_escalation.py tests/properties/test_escalation.py",
    "workers/protocol/frames.py": "tests/unit/test_frames.py tests/properties/test_frames.py",
}
"""Modules, and the tests that have to find what is wrong with them."""

CONFIGURATION = """\
[cosmic-ray]
module-path = "{module}"
timeout = 120.0
excluded-modules = []
test-command = "sh check.sh"
[cosmic-ray.distributor]
name = "local"
"""

CHECK = """\
export PYTHONPATH={tree}/packages PYTEST_DISABLE_PLUGIN_AUTOLOAD=1 PYTHONDONTWRITEBYTECODE=1
{python} -m pytest -x -q -p no:cacheprovider -o addopts= -W ignore {tests} || exit 1
MYPYPATH={tree}/packages {python} -m mypy --strict --cache-dir {tree}/mypy -m {name}
"""

HYPOTHESIS = """\
from hypothesis import Phase, settings
settings.register_profile("m", deadline=None, database=None, derandomize=True, phases=[Phase.explicit, Phase.generate])
settings.load_profile("m")
"""
"""The same examples each time, and none made smaller: a mutant only has to be found."""


def copy_tree(tree: Path) -> None:
    shutil.copytree(ROOT, tree, ignore=shutil.ignore_patterns(".*", "build", "*.egg-info", "__pycache__"))
    packages = tree / "packages" / "killable"
    shutil.copytree(tree / "api" / "public", packages)
    for name, folder in PACKAGES.items():
        (packages / name).symlink_to(tree / folder)
    (tree / "tests" / "conftest.py").write_text("")
    (tree / "tests" / "unit" / "conftest.py").write_text("")
    (tree / "tests" / "properties" / "conftest.py").write_text(HYPOTHESIS)


def run(module: str, tests: str, tree: Path) -> str:
    """Return the report of a module's mutants: their number, and each that nobody found."""
    tools = Path(sys.executable).parent
    (tree / "mutants.toml").write_text(CONFIGURATION.format(module=module))
    name = f"killable.{module.removesuffix('.py').replace('/', '.')}"
    (tree / "check.sh").write_text(CHECK.format(tree=tree, python=sys.executable, tests=tests, name=name))
    subprocess.run(["sh", "check.sh"], cwd=tree, check=True, stdout=subprocess.DEVNULL)  # without a mutant it passes
    session = f"{Path(module).stem}.sqlite"
    for step in ("init", "exec"):
        subprocess.run([tools / "cosmic-ray", step, "mutants.toml", session], cwd=tree, check=True)
    arguments = [tools / "cr-report", session, "--show-diff", "--surviving-only"]
    return subprocess.run(arguments, cwd=tree, check=True, capture_output=True, text=True).stdout


def main(modules: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        copy_tree(tree)
        for module in modules or list(KILLERS):
            print(f"── {module}\n{run(module, KILLERS[module], tree)}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
