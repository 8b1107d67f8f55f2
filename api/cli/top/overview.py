"""The lines above the tables: the server, its workers and its queue, how jobs have ended.

Runs in: any machine. Pure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from rich.text import Text

from killable.api.cli.display.state_colours import colour_of
from killable.api.cli.top.board import Board, cpu_percent, memory_bytes
from killable.api.cli.top.views import code_rows, state_of
from killable.api.explanation import spelling

GAP = "   "

Members = Mapping[str, Any]


def lines(board: Board, address: str, standing: Text) -> list[Text]:
    """Return the lines. `standing` is how the connection is."""
    server, queue = board.now.get("server") or {}, board.now.get("queue") or {}
    version = server.get("version") or board.info.get("version") or ""
    first = Text.assemble((f"killable {version}".rstrip(), "bold"), GAP, address, GAP, standing)
    if server.get("draining"):
        first.append(f"{GAP}draining: it takes no new jobs", "yellow")
    caller = board.info.get("caller") or {}
    if caller:
        first.append(f"{GAP}{spelling.plain(caller.get('name', ''))} ({board.role})", "dim")
    return [first, _server(server, board.degraded), _work(board, queue), _ends(board)]


def _server(server: Members, degraded: Sequence[str]) -> Text:
    """What is wrong comes first: a narrow terminal cuts the rest."""
    parts = []
    if server.get("uptime_s") is not None:
        parts.append(f"up {spelling.duration(server['uptime_s'])}")
    if server.get("cpu_percent") is not None:
        parts.append(f"cpu {server['cpu_percent']:.0f}%")
    if server.get("memory_bytes") is not None:
        parts.append(f"memory {spelling.size(server['memory_bytes'])}")
    if server.get("loop_stall_worst_ms") is not None:
        parts.append(f"longest stall {spelling.milliseconds(server['loop_stall_worst_ms'])}")
    wrong = f"degraded: {spelling.plain('; '.join(degraded))}{GAP}" if degraded else ""
    return Text.assemble(("server   ", "dim"), (wrong, "bold yellow"), GAP.join(parts) or "-")


def _work(board: Board, queue: Members) -> Text:
    workers = board.workers
    states = Counter(str(worker["state"]) for worker in workers)
    line = Text.assemble(("workers  ", "dim"), str(len(workers)))
    for state, count in sorted(states.items()):
        line.append("  ").append(f"{count} {state}", colour_of(state))
    cpu = [value for each in workers if (value := cpu_percent(each)) is not None]
    memory = [value for each in workers if (value := memory_bytes(each)) is not None]
    line.append(f"{GAP}cpu {sum(cpu):.0f}%{GAP}memory {spelling.size(sum(memory))}")
    depth = queue.get("depth", (board.counts or {}).get("queued"))
    line.append(f"{GAP}queue ", "dim").append(str(depth if depth is not None else "-"), colour_of("queued"))
    if queue.get("oldest_s"):
        line.append(f", oldest {spelling.duration(queue['oldest_s'])}")
    return line


def _ends(board: Board) -> Text:
    line = Text("ended    ", "dim")
    rows = code_rows(board)
    if not rows:
        return line.append("none yet")
    if (lately := (board.now.get("jobs") or {}).get("ended_last_minute")) is not None:
        line.append(f"{lately} in the last minute{GAP}")
    for number, row in enumerate(rows):
        if number:
            line.append("  ")
        line.append(f"{row['jobs']} {row['code']}", colour_of(state_of(str(row["code"]))))
    return line
