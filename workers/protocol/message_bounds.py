"""How large the values in messages may be, and how many a message may have.

Runs in: any.
"""

INLINE_BYTES_MAX = 1 << 20
"""A value of up to this size goes through the socket or pipe, in several writes: a memory file costs more time."""
PIPE_BYTES = 1 << 16
"""Default capacity of a pipe, pipe(7)."""
WIDE_PIPE_BYTES = 512 << 10
"""Capacity of the frames pipe of an Executor's worker, once a result has been larger than PIPE_BYTES."""
RESULT_BYTES_IN_PIECES_MIN = 16 << 10
"""From this size on a result of an Executor's call is written in pieces: to make one piece of it takes longer."""
RESULT_BYTES_IN_PIPE_MAX = 512 << 10
"""A larger result of an Executor's call goes into a memory file, which costs a descriptor until the result is read.
Through the pipe, 64 KiB at a time, 1 MB take twice as long.
"""
SHARED_PARTS_MAX = 8
"""The most shared parts of one input; each is a descriptor in the program and, while it is received, in the worker."""
OPERATIONS_MAX = 100
"""The most operations that one attempt may have entered at once, nested or side by side."""
PROGRESS_BYTES_MAX = 4 << 10
"""The most bytes of one progress payload: the job's record keeps the last one, and each page of records repeats it."""
SAVED_FILES_MAX = 1000
"""The most files that one job saves: its record lists them."""
WHY_CHARS_MAX = 60_000
"""The most characters of the traceback of a worker that cannot start; its end is kept."""
EXCEPTION_CHARS_MAX = 4096
"""The most characters of the message of an exception that a job raised."""
TRACEBACK_CHARS_MAX = 64 << 10
"""More than a hundred frames. The job's record and its last event contain the traceback."""
FAULT_CHARS_MAX = 1000
"""Of a fault of an input: the most characters of its pointer or its message; either may quote the input."""
RETRY_AFTER_S_MAX = 86_400.0
"""The longest wait in seconds that a job may ask for before its next attempt: a day. It stays in memory for so long."""
FAULTS_MAX = 100
"""Faults of one input: more than a person reads; a list of a million items may have a million faults."""
