"""Programs as text, run as users run them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def told_by(program: str, folder: Path) -> str:
    """Run a program in a folder; return what it has printed."""
    (folder / "program.py").write_text(program)
    done = subprocess.run([sys.executable, "program.py"], cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done
    return done.stdout
