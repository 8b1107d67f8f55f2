"""What goes from process to process, and into records and files, comes out as it went in."""

from __future__ import annotations

import json
import typing
from collections.abc import Iterable
from typing import Any

import pytest

from contract.source import source
from killable.supervisor.attempts import escalation
from killable.supervisor.configuration.schema import CapsTable, LimitsTable
from killable.supervisor.models import PHASES, Certificate
from killable.workers.authoring.limits_and_caps import LIMITS
from killable.workers.protocol import messages, zygote_messages
from killable.workers.protocol.messages import (
    Entered,
    Expire,
    Idle,
    Kind,
    OperationEntered,
    OperationLeft,
    Raised,
    Run,
    SavedFile,
    Stop,
)
from killable.workers.protocol.zygote_messages import ProcessEnding

ENDING = ProcessEnding(None, 9, True, 1 << 20, 0.5, 0.25, 12.5)
CONTROL = list(typing.get_args(zygote_messages.Message))


def example(cls: type[Any]) -> Any:
    values: dict[Any, Any] = {
        str: "x", int: 3, float: 2.5, bool: True, list[str]: ["a"], dict[str, Any]: {"name": "t"},
        ProcessEnding: ENDING, list[int]: [1], int | None: 5, dict[str, str]: {"HOME": "/"},
        dict[str, Any] | None: {"network": False}, list[dict[str, Any]]: [{"name": "c", "argv": ["true"]}],
        list[list[Any]]: [["/own/jobs.py", 5, 7]],
    }  # fmt: skip
    return cls(**{name: values[kind] for name, kind in typing.get_type_hints(cls).items()})


@pytest.mark.parametrize("cls", CONTROL, ids=lambda cls: cls.__name__)
def test_every_control_message_survives_the_wire(cls: type[Any]) -> None:
    message = example(cls)
    wire = json.loads(json.dumps(zygote_messages.to_wire(message)))
    assert zygote_messages.from_wire(wire) == message


@pytest.mark.parametrize(
    "wire", [{"op": "Unheard"}, {"op": "Forked", "worker_id": "w"}, {"op": "Forked", "more": 1}, {}]
)
def test_a_control_message_of_another_version_is_refused(wire: dict[str, Any]) -> None:
    with pytest.raises((KeyError, TypeError)):
        zygote_messages.from_wire(wire)


@pytest.mark.parametrize(
    "message",
    [
        Run("job-1", "work", 2, b"\x00input\xff", b'{"run_s":null}', {"a": "b"}, "c", False, True, 3, True),
        Stop("cancelled", "user", 2.5, "because"),
        Raised(
            "exception", "KeyError", "'x'", "Traceback", 3, "", [{"pointer": "/a", "message": "is required"}], True, 2.5
        ),
        Idle(False, "it left a thread"),
        Entered(12.5),
        OperationEntered(3, "load/download", 2.5, True, 2),
        OperationLeft(3),
        Expire(3),
        SavedFile(3, "out.webm", "video/webm"),
    ],
    ids=lambda message: type(message).__name__,
)
def test_every_payload_survives_the_wire(message: Any) -> None:
    assert type(message).decode(message.encode()) == message


def test_kinds_are_numbers_of_one_byte_and_only_grow() -> None:
    assert {kind.name: kind.value for kind in Kind} == {
        "READY": 1, "ENTERED": 2, "TOKEN": 3, "PROGRESS": 4, "CHECKPOINT": 5, "RESULT": 8, "RAISED": 9, "IDLE": 10,
        "OPERATION": 6, "OPERATION_LEFT": 7, "BROKEN": 11, "RESULT_SHM": 12, "RAN": 13, "LOG_RECORD": 14, "WARNING": 15,
        "TOKENS": 16, "FILE": 17, "SPAN": 18,
        "RUN": 32, "STOP": 33, "EXPIRE": 34, "CHECKPOINT_BEFORE": 35,
    }  # fmt: skip


def test_a_notification_is_no_signal_number() -> None:
    notifications = [value for name, value in vars(messages).items() if name.startswith("NOTIFY_")]
    assert len(notifications) >= 3 and len(set(notifications)) == len(notifications)
    assert all(64 < notification < 256 for notification in notifications)


def missing_cases(text: str, cases: Iterable[str]) -> list[str]:
    return [case for case in cases if f"case {case}" not in text]


def test_every_cause_of_a_closing_frame_is_documented_where_it_is_defined_and_classified() -> None:
    text = source("supervisor/attempts/exit_outcome.py").text
    documented = (
        source("workers/protocol/messages.py").text.partition("class Raised")[2].partition('"""`')[2].partition(".")[0]
    )
    names = [cause.strip(" `\n") for cause in documented.replace('"""', "").split("·")]
    causes = [f'"{name}"' for name in names]
    assert len(causes) >= 8
    assert missing_cases(text, causes) == []
    for cause in causes:
        assert missing_cases(text.replace(f"case {cause}", ""), causes) == [cause], "the control"


def test_every_limit_can_be_set_and_capped_in_the_file() -> None:
    assert set(LimitsTable.model_fields) == set(CapsTable.model_fields) == set(LIMITS)


def test_the_phases_stand_in_the_certificate_in_their_order() -> None:
    names = list(Certificate._fields)
    assert names[: len(PHASES) + 1] == ["requested", *PHASES]


def test_a_certificate_survives_its_json_and_says_only_what_happened() -> None:
    full = Certificate(
        0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, "why", True, "cancelled", "user", "r", 2.0, "SIGKILL", 3
    )
    told = json.loads(json.dumps(full.as_json()))
    assert told == {name: value for name, value in full._asdict().items() if name in told}
    assert {name: full._asdict()[name] for name in PHASES}.items() <= told.items()
    empty = Certificate().as_json()
    assert not set(PHASES) & set(empty) and "requested" not in empty


def test_a_phase_that_took_no_time_is_not_one_that_did_not_happen() -> None:
    assert Certificate(requested=0.0, kill_sent=0.0).as_json()["kill_sent"] == 0.0


def test_every_action_of_the_plan_is_carried_out() -> None:
    text = source("supervisor/attempts/termination.py").text
    actions = [f"Action.{action.name}:" for action in escalation.Action]
    assert missing_cases(text, actions) == []
    for action in actions:
        assert missing_cases(text.replace(f"case {action}", ""), actions) == [action], "the control"
