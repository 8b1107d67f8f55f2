"""The garbage collector of a process of our own: each object is looked at once, and circles go in the end."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import asyncio, gc, weakref
from killable.supervisor.linux import own_interpreter

own_interpreter.GROWTH_OBJECTS = 2_000

class Circle:
    def __init__(self):
        self.itself = self

async def main():
    own_interpreter.freeze_collector()
    own_interpreter.freeze_collector()  # a second one adds nothing
    before = gc.get_freeze_count()
    circle = Circle()
    gone = weakref.ref(circle)
    kept = [[number] for number in range(1_000)]
    looked_at_again = len(gc.get_objects()) >= 1_000
    del circle
    print("kept:", gc.get_freeze_count() - before >= 800, "looked at again:", looked_at_again, "gone:", gone() is None)
    while gone() is not None:
        kept += ([number] for number in range(1_000))
        await asyncio.sleep(0)
    print("gone at", len(kept) <= 100_000, "callbacks", len(gc.callbacks))

asyncio.run(main())
"""


def test_each_object_is_looked_at_once_and_circles_go_when_much_more_is_kept() -> None:
    ended = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines() == [
        "kept: True looked at again: False gone: False",
        "gone at True callbacks 1",
    ]
