"""The pages of docs/reference are what the code says today, and the examples on them are commands that exist."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from killable.api.cli.verbs import VERBS
from killable.api.http.route_roles import ACCESS

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "docs" / "reference"
EXAMPLES = re.findall(r"^```sh\n(.*?)^```", (REFERENCE / "command.md").read_text(), re.MULTILINE | re.DOTALL)


def test_only_a_stale_page_is_found_and_written_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The others are those of the repository: none of them is stale."""
    folder = tmp_path / "docs" / "reference"
    folder.mkdir(parents=True)
    (folder / "generate.py").write_text((REFERENCE / "generate.py").read_text())
    (folder / "pages").symlink_to(REFERENCE / "pages")
    for page in REFERENCE.glob("*.md"):
        (folder / page.name).write_text(page.read_text())
    stale = folder / "codes.md"
    stale.write_text(stale.read_text().replace("| 409 |", "| 410 |", 1))

    monkeypatch.syspath_prepend(REFERENCE)
    import generate

    monkeypatch.setattr(generate, "HERE", folder)
    monkeypatch.setattr(generate, "PAGES", {stale.name: generate.PAGES[stale.name]})  # all of them are made below
    assert generate.main(["--check"]) == 1
    assert capsys.readouterr().out == "stale: docs/reference/codes.md; run `make reference`\n"
    command = [sys.executable, str(folder / "generate.py")]
    written = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (written.stdout, written.returncode) == ("wrote docs/reference/codes.md\n", 0)
    assert stale.read_text() == (REFERENCE / "codes.md").read_text()


def test_a_route_without_a_role_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(REFERENCE)
    from pages import http

    monkeypatch.setattr(http, "ACCESS", {key: row for key, row in ACCESS.items() if key != ("POST", "/v1/drain")})
    with pytest.raises(SystemExit, match=r"^api/http/route_roles.py: ACCESS has no row for POST /v1/drain$"):
        http.page()


@pytest.mark.parametrize("line", "".join(EXAMPLES).splitlines())
def test_an_example_is_a_command_with_its_options(line: str) -> None:
    words = shlex.split(line.partition(" > ")[0])
    while "=" in words[0]:  # variables of the environment
        words.pop(0)
    program, verb, *arguments = words
    assert program == "killable"
    VERBS[verb].make_context(verb, arguments)  # raises for what it does not take


def test_every_link_between_the_pages_leads_somewhere() -> None:
    for page in REFERENCE.glob("*.md"):
        for target in re.findall(r"\]\(([^)]+)\)", page.read_text()):
            path, _, anchor = target.partition("#")
            found = REFERENCE / path if path else page
            assert found.is_file(), (page.name, target)
            headings = re.findall(r"^#+ (.*)", found.read_text(), re.MULTILINE)
            anchors = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert not anchor or anchor in anchors, (page.name, target)


def test_the_picture_of_the_demo_is_drawn_from_its_recording() -> None:
    sys.path.insert(0, str(ROOT / "docs"))
    try:
        import record_demo
    finally:
        sys.path.remove(str(ROOT / "docs"))
    assert record_demo.PICTURE.read_text() == record_demo.draw(record_demo.read_cast(record_demo.CAST))
    text = "".join(piece for _, piece in record_demo.read_cast(record_demo.CAST))
    assert text.count("yes") >= 8 and "NO   " not in text
    assert not re.search(r"/(home|root|tmp|usr|work)/", text), "a path of the machine"
