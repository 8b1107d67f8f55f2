"""What the package is built of, in a folder of its own: no environment, no history, no old build."""

from __future__ import annotations

import shutil
from pathlib import Path

ROOT = Path(__file__).parents[2]


def copy_package_source(target: Path) -> None:
    for name in ("api", "supervisor", "workers", "docs/man"):
        shutil.copytree(ROOT / name, target / name)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, target / name)
