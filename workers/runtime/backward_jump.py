"""Defer an exception of a signal handler that runs at a loop's backward jump, until the next instruction.

Runs in: worker. From Python 3.13 on, an exception raised at the jump of `while i < n: ...` skips the `finally`, the
`except` and the `with` of the same function (cpython issue 130279). At the instruction after the jump it does not.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from opcode import opmap
from types import CodeType, FrameType


def defer(frame: FrameType | None, act: Callable[[], None]) -> bool:
    """Call `act`, which may raise, before the frame's next instruction if it was interrupted at a backward jump.

    Return whether `act` will be called. It uses sys.monitoring: only this code object runs slower until then, and a
    debugger or coverage tool that the job started keeps its settings.
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
