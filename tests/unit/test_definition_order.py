from __future__ import annotations

from killable.workers.protocol.definition_order import circles

Key = tuple[str]


def order(refers: dict[str, str], uses: dict[str, str] | None = None) -> list[str]:
    """Each key is a letter. Return the letters of each step."""
    found = circles(_keys(refers), _keys({name: (uses or {}).get(name, "") for name in refers}))
    return ["".join(key for (key,) in sorted(circle)) for circle in found]


def _keys(found: dict[str, str]) -> dict[Key, list[Key]]:
    return {(name,): [(other,) for other in others] for name, others in found.items()}


def test_what_is_referred_to_comes_first() -> None:
    assert order({"a": "b", "b": "c", "c": ""}) == ["c", "b", "a"]


def test_what_refers_to_each_other_is_together() -> None:
    assert order({"a": "b", "b": "cd", "c": "a", "d": ""}) == ["d", "abc"]
    assert order({"a": "a"}) == ["a"]


def test_what_a_function_uses_comes_first_where_that_is_possible() -> None:
    assert order({"a": "", "b": "", "c": ""}, {"a": "c", "c": "b"}) == ["b", "c", "a"]
    assert order({"a": "b", "b": "", "c": ""}, {"b": "a", "c": "a"}) == ["b", "a", "c"]
    assert order({"a": "", "b": ""}, {"a": "b", "b": "a"}) == ["b", "a"]


def test_what_is_not_there_is_left_out() -> None:
    assert order({"a": "x"}, {"a": "y"}) == ["a"]
