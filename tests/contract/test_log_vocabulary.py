"""Records of the log are those of `log_vocabulary`: the name, level and fields of each."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from contract.source import LAYERS, Source, sources
from killable.supervisor.models import TERMINAL_STATES
from killable.supervisor.telemetry import job_log
from killable.supervisor.telemetry.log_vocabulary import EVENTS, FIELDS, PARTS, message_id

LEVELS = {"debug", "info", "warning", "error", "exception"}
NOT_LITERAL = {
    "supervisor/linux/orphan_cleanup.py",  # `swept` and `not_swept`, in one loop
    "supervisor/cluster/node_link.py",
    "supervisor/cluster/driver_launcher.py",  # what the driver has logged, by the same table
    "api/cli/server/sighup.py",
    "api/cli/server/server_log.py",
}


def logged(source: Source) -> Iterator[tuple[int, str, ast.expr, ast.expr | None]]:
    """Yield line, level, name and extra of each record that a file logs."""
    for node in source.nodes:
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        owner, method = node.func.value, node.func.attr
        if method not in LEVELS and method != "log":
            continue
        extra = next((each.value for each in node.keywords if each.arg == "extra"), None)
        is_logger = (isinstance(owner, ast.Name) and owner.id in ("logger", "log")) or "getLogger" in ast.dump(owner)
        if is_logger and method != "log" and node.args:
            yield node.lineno, "error" if method == "exception" else method, node.args[0], extra
        elif is_logger and method == "log":
            yield node.lineno, "", node.args[1], extra


def named() -> Iterator[tuple[str, int, str, str, set[str]]]:
    """Yield file, line, level, event and the fields that are literals, of all records with a literal name."""
    for source in sources(*LAYERS):
        for line, level, name, extra in logged(source):
            if not isinstance(name, ast.Constant):
                assert source.name in NOT_LITERAL, f"{source.name}:{line}: the name of a record is no literal"
                continue
            fields = {
                key.value
                for part in ast.walk(extra or ast.Constant(0))
                if isinstance(part, ast.Dict)
                for key in part.keys
                if isinstance(key, ast.Constant)
            }
            yield source.name, line, level, str(name.value), fields


def test_every_record_is_in_the_table_with_its_level_and_fields() -> None:
    for file, line, level, event, fields in named():
        where = f"{file}:{line}: {event}"
        assert event in EVENTS, f"{where} is not in log_vocabulary"
        assert not level or level in EVENTS[event].levels, where
        assert fields <= set(EVENTS[event].fields), f"{where}: {fields - set(EVENTS[event].fields)}"


def test_every_row_of_the_table_is_logged() -> None:
    words = {
        node.value
        for source in sources(*LAYERS)
        if not source.name.endswith("log_vocabulary.py")
        for node in source.nodes
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    states = {event.removeprefix("node_") for event in EVENTS if event.startswith("node_")}
    of_states = {f"node_{state}" for state in states & words}  # node_link makes them of its states
    assert {*EVENTS} - words - of_states == set()


def test_fields_and_parts_are_told_once_and_used() -> None:
    used = {field for event in EVENTS.values() for field in event.fields}
    assert used == set(FIELDS)
    assert [event.part for event in EVENTS.values()] and {event.part for event in EVENTS.values()} == set(PARTS)
    assert all(re.fullmatch(r"[a-z]+(_[a-z]+)*", name) for name in (*EVENTS, *FIELDS))


def test_only_a_completed_end_may_be_left_out_and_no_error() -> None:
    sampled = {name for name, event in EVENTS.items() if event.is_sampled}
    assert sampled & {*TERMINAL_STATES} == {"completed"}
    assert not sampled & {"cancel_requested", "term_sent", "kill_sent", "retrying"}
    assert not [name for name in sampled if EVENTS[name].levels == ("error",)]


def test_facts_of_ends_are_fields() -> None:
    assert set(job_log._FACTS) <= set(EVENTS["failed"].fields)


def test_ids_of_events_do_not_change() -> None:
    """journald's catalog and people's searches have them."""
    assert message_id("completed") == "ea6ef6da106858af9cebed949e2f43e3"
    assert len({message_id(event) for event in EVENTS}) == len(EVENTS)
