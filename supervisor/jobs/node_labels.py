"""Which nodes a selector takes, by their labels. The syntax of a selector is Ray's.

Runs in: supervisor. Pure.

    {"zone": "a"}   {"zone": "!a"}   {"zone": "in(a,b)"}   {"zone": "!in(a, b)"}

A node fits that fits every part. One without the label fits the parts with "!".
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping

from killable.supervisor.settings import Settings

Labels = Mapping[str, str]
Selector = Mapping[str, str]

NODE = "node"
HOST = "host"
"""Labels that each node has beside its own: its name, and its host name."""
SHOWN_MAX = 20
"""So many values of a label are named, and the number of the others."""

_VALUE = r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?"
CONDITION = re.compile(rf"(!?)(?:({_VALUE})|in\(({_VALUE}(?:, ?{_VALUE})*)\))")
EXPECTED = 'a label\'s value: "a", "!a", "in(a,b)" or "!in(a,b)"'


def fits(selector: Selector, labels: Labels) -> bool:
    """Return whether a node with these labels fits. Raise ValueError for a selector that is none."""
    return all(_fits(condition, labels.get(label)) for label, condition in selector.items())


def _fits(condition: str, value: str | None) -> bool:
    found = CONDITION.fullmatch(condition)
    if found is None:
        raise ValueError(f"{condition!r} is not {EXPECTED}")
    excludes, one, several = found.groups()
    return (value in ([one] if one else several.replace(" ", "").split(","))) is not bool(excludes)


def shown(selector: Selector) -> str:
    """Return a selector in words: `zone=a, disk=!hdd`."""
    return ", ".join(f"{label}={condition}" for label, condition in sorted(selector.items()))


def no_node_fits(selector: Selector, nodes: Mapping[str, Labels]) -> str:
    """Return why no node fits, with the values that the labels have on the nodes: those may be what was meant."""
    values = "; ".join(f"{label}: {_values(label, nodes.values())}" for label in sorted(selector))
    return f"no node has {shown(selector)} (there are {values})"


def _values(label: str, nodes: Iterable[Labels]) -> str:
    values = sorted({labels[label] for labels in nodes if label in labels})
    more = [f"and {len(values) - SHOWN_MAX} more"] if len(values) > SHOWN_MAX else []
    return ", ".join((*values[:SHOWN_MAX], *more)) or "none"


def settings_of(settings: Settings, labels: Labels, cores: int) -> Settings:
    """Return the settings of a node with these labels and so many cores: with the pools that it fits."""
    pools = (pool for pool in settings.pools if fits(pool.nodes, labels))
    return dataclasses.replace(
        settings,
        pools=tuple(pool._replace(workers=cores) if pool.by_cores else pool for pool in pools),
    )
