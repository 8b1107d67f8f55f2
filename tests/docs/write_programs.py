"""Writes the programs of the pages about the Executor into a folder, for a type checker: `nox -s pyright`.

    python tests/docs/write_programs.py FOLDER

Those that are not run, because what they import is not installed, are left out; so are notebooks.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from documents import DOCS, Block, blocks_of

PAGES = (
    "explanation/certificate", "how-to/fastapi", "how-to/progress", "how-to/prometheus",
    "how-to/task-queues", "tutorial/in-your-program", "index",
)  # fmt: skip


def programs_of(page: str) -> Iterator[tuple[str, Block]]:
    """Yield the Python programs of a page, each with the name of its file."""
    for number, block in enumerate(blocks_of(DOCS / f"{page}.md")):
        if block.language == "python" and not block.mark:
            yield block.file_name or f"program_{number}.py", block


def main(folder: Path) -> None:
    for page in PAGES:
        for name, block in programs_of(page):
            path = folder / page / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"# pyright: strict\n{block.text}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
