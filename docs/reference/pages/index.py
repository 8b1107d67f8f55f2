"""index.md: which page has what."""

from __future__ import annotations

from pages.markdown import document, fence, table

PAGES = {
    "api.md": ("Python API", "Executor, decorators and context of a job, clients, errors"),
    "command.md": ("The command", "every verb of `killable` with its options"),
    "http.md": ("HTTP API", "routes, parameters, schemas, problems"),
    "limits.md": ("Limits", "every limit with unit, defaults, cap, and the code that a job ends with"),
    "codes.md": ("Error codes", "every code with its meaning, HTTP status, class, and whether a retry helps"),
    "exit-codes.md": ("Exit codes", "the exit codes of the command and of worker processes"),
    "configuration.md": ("killable.toml", "every key with its default"),
    "events.md": ("Events", "the events of a job and their order"),
    "certificate.md": ("Certificate", "every field of the record of an ending"),
    "log.md": ("Log", "every record of the server's log, with its fields"),
}


def page() -> str:
    rows = ((f"[{title}]({path})", about) for path, (title, about) in PAGES.items())
    names = "\n".join(path.removesuffix(".md") for path in PAGES)
    return document(
        "Reference", INTRO, table(("Page", "What it has"), rows), fence(f":hidden:\n\n{names}", "{toctree}")
    )


INTRO = "Made from the code by `make reference`. A test fails when a page is not up to date."
