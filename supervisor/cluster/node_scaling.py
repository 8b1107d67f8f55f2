"""How many machines a cluster needs: what its autoscaler is asked for, and which nodes are given back and taken again.

Runs in: supervisor, on the head. Decides, and does nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from killable.supervisor.cluster.carrier import Request
from killable.supervisor.jobs.job_queue import Selected
from killable.supervisor.jobs.node_labels import HOST, NODE, Labels, fits
from killable.workers.named_tuples import NamedTuple


class Scaling(NamedTuple):
    """How a head scales its cluster."""

    cpus_max: int = 0
    """Processors that are asked for at most; 0: none are."""
    idle_s: float = 0.0
    """Time without a job after which a node is given back; 0: none is."""


FIXED = Scaling()
"""Of a cluster that has the size which it has."""


class Demand(NamedTuple):
    """What one pool has to do."""

    pool: str
    selector: Mapping[str, str]
    """Of the pool, and of the whole cluster."""
    running: int
    waiting: Mapping[Selected, int]
    """Jobs that wait for a slot, by their own selectors."""


class IdleNode(NamedTuple):
    """A node that is given back, or could be."""

    name: str
    labels: Labels
    slots: Mapping[str, int]
    """By pool; of one that is given back those that it had."""


def wanted(demands: Iterable[Demand], cpus_max: int) -> Request:
    """Return what to ask for: nothing while no job waits, else a processor for each job that runs or waits.

    A machine cannot be asked for by its name.
    """
    each = list(demands)
    if not any(demand.waiting for demand in each):
        return ()
    numbers: Counter[Selected] = Counter()
    for demand in each:
        numbers[_asked(demand.selector, ())] += demand.running
        for selected, number in demand.waiting.items():
            if not {HOST, NODE} & {label for label, _ in selected}:
                numbers[_asked(demand.selector, selected)] += number
    asked, left = [], cpus_max
    for selected, number in sorted(numbers.items()):
        if number and left:
            asked.append((dict(selected), min(number, left)))
            left -= min(number, left)
    return tuple(asked)


def _asked(selector: Mapping[str, str], selected: Selected) -> Selected:
    labels = {**selector, **dict(selected)}
    return tuple(sorted((label, each) for label, each in labels.items() if label not in (HOST, NODE)))


def to_give_back(idle: Iterable[IdleNode], open_nodes: Mapping[str, int]) -> list[str]:
    """Return which of these nodes are given back, which have been idle for long enough. `open_nodes`: by pool, on how
    many nodes it can start jobs. Each pool keeps one.
    """
    left = dict(open_nodes)
    given = []
    for node in idle:
        if node.slots and all(left.get(pool, 0) > 1 for pool in node.slots):
            given.append(node.name)
            for pool in node.slots:
                left[pool] -= 1
    return given


def to_take_again(demands: Iterable[Demand], given_back: Iterable[IdleNode], coming: Iterable[IdleNode]) -> list[str]:
    """Return which nodes that were given back are needed for the jobs that wait, beside those that are on their way."""
    there, on_their_way = list(given_back), list(coming)
    taken: list[str] = []
    for demand in demands:
        for selected, number in demand.waiting.items():
            selector = {**demand.selector, **dict(selected)}
            number -= sum(node.slots.get(demand.pool, 0) for node in on_their_way if fits(selector, node.labels))
            for node in tuple(there):
                slots = node.slots.get(demand.pool, 0)
                if number > 0 and slots and fits(selector, node.labels):
                    there.remove(node)
                    on_their_way.append(node)
                    taken.append(node.name)
                    number -= slots
    return taken
