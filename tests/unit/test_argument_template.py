"""The arguments of a command: placeholders, what is left out, what is repeated, and braces that are text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from killable.workers.commands.argument_template import LeadingDash, Template, Value


def fill(argv: list[str | list[str]], **values: str | list[str]) -> list[str]:
    return Template(argv).fill(
        {name: Value(each) if isinstance(each, str) else [*map(Value, each)] for name, each in values.items()}
    )


@pytest.mark.parametrize(
    ("text", "filled"),
    [
        ("{a}", "1"), ("x{a}y{b}", "x1y2"), ("{{a}}", "{a}"), ("{a}{{a}}{a}", "1{a}1"), ("{}", "{}"), ("{", "{"),
        ("{ a }", "{ a }"), ("{a-b}", "{a-b}"), ("{1}", "{1}"), ("{print $1}", "{print $1}"), ("{{{a}}}", "{{a}}"),
        ("{if(x){{print}}}", "{if(x){print}}"), ("{{print}}", "{print}"), ("", ""),
    ],
)  # fmt: skip
def test_a_placeholder_is_a_name_in_braces(text: str, filled: str) -> None:
    assert fill([text], a="1", b="2") == [filled]


def test_an_argument_or_a_group_without_a_value_is_left_out() -> None:
    argv: list[str | list[str]] = ["p", "{a}", ["-b", "{b}"], "--c={c}", ["-d", "{a}{b}"]]
    assert fill(argv) == ["p"]
    assert fill(argv, b="") == ["p", "-b", ""]
    assert fill(argv, a="1", b="2", c="3") == ["p", "1", "-b", "2", "--c=3", "-d", "12"]


def test_an_argument_or_a_group_with_an_array_is_repeated() -> None:
    argv: list[str | list[str]] = ["p", "{a}", ["-e", "{a}"], "--x={a}{b}"]
    assert fill(argv, a=[], b="") == ["p"]
    assert fill(argv, a=["1", "2"], b="!") == ["p", "1", "2", "-e", "1", "-e", "2", "--x=1!", "--x=2!"]


@pytest.mark.parametrize(("argv", "name"), [(["{a}"], "a"), (["{b}{a}"], "a"), ([["x", "{c}{a}"]], "c")])
def test_no_value_begins_an_argument_with_a_dash(argv: list[str | list[str]], name: str) -> None:
    with pytest.raises(LeadingDash) as caught:
        fill(argv, a="-r", b="", c="-x")
    assert caught.value.name == name


def test_behind_a_text_or_where_it_is_allowed_a_dash_is_a_dash() -> None:
    assert fill(["x{a}", "--o={a}", "-{a}"], a="-r") == ["x-r", "--o=-r", "--r"]
    assert Template(["{a}"]).fill({"a": Value("-r", may_begin=True)}) == ["-r"]


def test_the_placeholders_that_begin_an_argument() -> None:
    template = Template(["p", "{a}{b}x{c}", ["-d", "{d}"], "={e}"])
    assert template.leading() == {"a", "b", "d"}
    assert template.names() == ["a", "b", "c", "d", "e"]


@given(st.text(), st.text())
def test_a_value_is_never_split_nor_read_again(before: str, value: str) -> None:
    text = before.replace("{", "(") + "x{a}"
    assert fill([text], a=value) == [text.removesuffix("{a}") + value]
