"""Where a loop jumps back: there Python runs signal handlers, and from 3.13 on outside of the `try` around the loop.

Runs in: worker. What a handler raises at the jump of `while i < n: ...` passes by the `finally`, the `except` and the
`with` of the same function (cpython issue 130279). At the instruction behind the jump it does not.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from opcode import opmap
from types import CodeType, FrameType


def put_off(frame: FrameType | None, act: Callable[[], None]) -> bool:
    """If this frame was interrupted at such a jump, have `act` called, which may raise, before its next instruction.

    Return whether it will be. Only this code is slowed down, until then (sys.monitoring); a debugger, or a measurement
    of coverage, that the job has started keeps what it has set.
    """
    if sys.version_info < (3, 13) or frame is None or not frame.f_code.co_exceptiontable:
        return False
    code = frame.f_code
    monitoring = sys.monitoring
    instruction = monitoring.events.INSTRUCTION
    tool = next((each for each in range(6) if monitoring.get_tool(each) is None), None)
    if tool is None or code.co_code[frame.f_lasti] != opmap["JUMP_BACKWARD"]:
        return False

    def on_instruction(_code: CodeType, _offset: int) -> None:
        if sys._getframe(1) is not frame:
            return  # another call of the same function
        monitoring.set_local_events(tool, code, 0)
        monitoring.register_callback(tool, instruction, None)
        monitoring.free_tool_id(tool)
        act()

    monitoring.use_tool_id(tool, "killable")
    monitoring.register_callback(tool, instruction, on_instruction)
    monitoring.set_local_events(tool, code, instruction)
    return True
