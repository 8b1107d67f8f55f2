"""Write what is printed today into a page: .venv/bin/python tests/docs/renew.py docs/tutorial/as-a-server.md

Where a page shows an output, in whatever words. One that differs only as it does from run to run stays, and with --all
only one that has a line `...`. Read what `git diff` shows.
"""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path.append(str(Path(__file__).parents[1]))  # which pytest does for tests

from outputs import ANY_LINES, is_shown
from session import Session


def renew(path: Path, *, all_of_them: bool) -> None:
    with TemporaryDirectory() as folder:
        session = Session(Path(folder), checks=False)
        session.follow(path)
    lines = path.read_text().splitlines()
    for output in sorted(session.outputs, key=lambda each: -each.line):
        stays = ANY_LINES in output.shown if all_of_them else True
        if not (stays and is_shown(output.shown, output.printed)):
            lines[output.line - 1 : output.line - 1 + len(output.shown)] = output.printed
    path.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    for name in sys.argv[1:]:
        if name != "--all":
            renew(Path(name).resolve(), all_of_them="--all" in sys.argv)
