"""What `killable top` takes of a core, over a server with a thousand jobs of which some come and go.

    python benchmarks/bench_top.py [--jobs 1000] [--seconds 30] [--columns 80] [--lines 24]

Prints one JSON object: the processor time of top and of the server's main process as a share of one core, and the
memory of top. The terminal is a pseudo terminal that is only drained.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import pty
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
from pathlib import Path

from killable.api.client.client import Client

JOBS = """
import time
from killable import job

@job(run_s=3600, queue_s=3600, total_s=7200)
def sleep(seconds: float = 3600.0) -> int:
    \"\"\"Sleep.\"\"\"
    time.sleep(seconds)
    return 0
"""
TICKS = os.sysconf("SC_CLK_TCK")


EXAMPLES = """Examples:
  python benchmarks/bench_top.py --jobs 990 --seconds 30
"""
PARTS = ("top", "its server")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--list", action="version", version="\n".join(PARTS), help="print what is measured, and end")
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--columns", type=int, default=80)
    parser.add_argument("--lines", type=int, default=24)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "sleeping.py").write_text(JOBS)
        command = [sys.executable, "-m", "killable.api.cli"]
        serve = [*command, "serve", "sleeping.py", "--port", "0", "--json"]
        server = subprocess.Popen(serve, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        try:
            assert server.stdout is not None
            url = json.loads(server.stdout.readline())["url"]
            with Client(url) as client:
                for _ in range(asked.jobs):
                    client.submit("sleep")
                print(json.dumps(measured(command, url, server.pid, asked) | {"jobs": len(list(client.jobs()))}))
        finally:
            server.terminate()
            server.wait()


def measured(command: list[str], url: str, server: int, asked: argparse.Namespace) -> dict[str, float]:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", asked.lines, asked.columns, 0, 0))
    env = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "", "LINES": ""}
    before = server_alone(server, asked.seconds / 3)
    top = subprocess.Popen([*command, "top", "--url", url], stdin=theirs, stdout=theirs, stderr=theirs, env=env)
    os.close(theirs)
    written = [0]
    threading.Thread(target=drain, args=(ours, written), daemon=True).start()
    try:
        time.sleep(5)  # until it has drawn what there is
        used, served, began, drawn = cpu_s(top.pid), cpu_s(server), time.monotonic(), written[0]
        time.sleep(asked.seconds)
        passed = time.monotonic() - began
        return {
            "top_percent": round(100 * (cpu_s(top.pid) - used) / passed, 2),
            "server_percent": round(100 * (cpu_s(server) - served) / passed, 2),
            "server_percent_without": round(before, 2),
            "top_mib": round(rss_mib(top.pid), 1),
            "terminal_kib_per_s": round((written[0] - drawn) / 1024 / passed, 2),
        }
    finally:
        os.write(ours, b"q")
        top.wait()


def server_alone(server: int, seconds: float) -> float:
    used, began = cpu_s(server), time.monotonic()
    time.sleep(seconds)
    return 100 * (cpu_s(server) - used) / (time.monotonic() - began)


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def rss_mib(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def drain(descriptor: int, written: list[int]) -> None:
    try:
        while data := os.read(descriptor, 1 << 16):
            written[0] += len(data)
    except OSError:
        return


if __name__ == "__main__":
    main()
