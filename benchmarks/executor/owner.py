"""A program with two busy workers; it, or what owns them, is to be killed.

    python -m executor.owner PEER ADDRESS

Runs in: a process of its own, below a trial.
"""

from __future__ import annotations

import signal
import sys

from executor import tasks


def main(name: str, address: str) -> None:
    from executor.measures import PEERS

    kind = PEERS[name]
    kind.prepare()
    with kind() as peer:
        for pid in peer.owners():
            tasks.say(address, tasks.OWNER, pid)
        for _ in range(2):
            peer.submit(tasks.family, address)
        while True:
            signal.pause()


if __name__ == "__main__":
    main(*sys.argv[1:])
