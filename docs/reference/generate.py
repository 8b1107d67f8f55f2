"""Write the reference pages from the code: `make reference`, or `python docs/reference/generate.py [--check]`.

Nothing here is typed twice: names, defaults, codes, routes and their documentation are read from the installed package.
With --check nothing is written; the exit code is 1 when a page is stale.
"""

from __future__ import annotations

import sys
from pathlib import Path

from pages import certificate, codes, command, configuration, events, exit_codes, http, index, limits, log, python_api

HERE = Path(__file__).parent
PAGES = {
    "index.md": index,
    "api.md": python_api,
    "command.md": command,
    "http.md": http,
    "limits.md": limits,
    "codes.md": codes,
    "exit-codes.md": exit_codes,
    "configuration.md": configuration,
    "events.md": events,
    "certificate.md": certificate,
    "log.md": log,
}


def stale() -> dict[Path, str]:
    """Return what each page that is not up to date should be."""
    made = {HERE / name: module.page() for name, module in PAGES.items()}
    return {path: text for path, text in made.items() if not path.exists() or path.read_text("utf-8") != text}


def main(arguments: list[str]) -> int:
    pages = stale()
    for path, text in pages.items():
        if "--check" in arguments:
            print(f"stale: {path.relative_to(HERE.parent.parent)}; run `make reference`")
        else:
            path.write_text(text, "utf-8")
            print(f"wrote {path.relative_to(HERE.parent.parent)}")
    return 1 if pages and "--check" in arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
