"""Write what is printed today into a page: python tests/docs/renew.py docs/tutorial/as-a-server.md

Only outputs that the page shows already, in whatever words, and that are not those that were printed. Read what
`git diff` shows.
"""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from outputs import is_shown
from session import Session


def renew(path: Path) -> None:
    with TemporaryDirectory() as folder:
        session = Session(Path(folder), checks=False)
        session.follow(path)
    lines = path.read_text().splitlines()
    for output in sorted(session.outputs, key=lambda each: -each.line):
        if not is_shown(output.shown, output.printed):
            lines[output.line - 1 : output.line - 1 + len(output.shown)] = output.printed
    path.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    for name in sys.argv[1:]:
        renew(Path(name).resolve())
