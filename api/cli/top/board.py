"""What is known of a server now: its jobs, its workers, its counts; and which of the jobs are listed, in which order.

Runs in: any machine. Pure: the events of the two live streams in, rows out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from killable.api.cli.display.job_listing import in_order, ran_s
from killable.api.explanation.spelling import age_s

Members = Mapping[str, Any]

JOBS_MAX = 20_000
"""Jobs that are remembered; the oldest ended ones go first. A server keeps a few thousand."""
ACTIVE = frozenset({"queued", "running", "stopping"})
SHOWS = ("active", "all", "ended", "failed")
"""What is listed, in the order in which `a` goes through it."""
_SHOWN: Mapping[str, Callable[[Members], bool]] = {
    "active": lambda job: job["state"] in ACTIVE,
    "all": lambda job: True,
    "ended": lambda job: job["state"] not in ACTIVE,
    "failed": lambda job: job["state"] in ("failed", "timed_out"),
}


class Board:
    """The state of the server, as the streams tell it."""

    def __init__(self) -> None:
        self.jobs: dict[str, Members] = {}
        self.has_all_jobs = False
        """Whether it has all jobs that are kept, and not only those of the stream's first event."""
        self._is_read_on = False
        self._gone: set[str] = set()
        """Jobs that have gone since, while others are still read page by page: a page may be older than that."""
        self.now: Members = {}
        """The last event of the stream of workers; empty: none came yet."""
        self.counts: Members = {}
        """Jobs by state, of all that the server keeps."""
        self.info: Members = {}
        """What `GET /v1/info` has told of this run of the server."""
        self.degraded: Sequence[str] = ()
        """What is wrong with the server as a whole, as `GET /readyz` tells."""
        self.holders: dict[str, Members] = {}
        """The worker of each job that has one."""

    @property
    def workers(self) -> Sequence[Members]:
        return list(self.now.get("workers") or ())

    @property
    def role(self) -> str:
        """What the key may do; everything where there are no keys, and as long as it is not known."""
        return str((self.info.get("caller") or {}).get("role") or "operate")

    @property
    def may_end_jobs(self) -> bool:
        return self.role != "read"

    @property
    def may_kill_workers(self) -> bool:
        """Whether the key may do what concerns the jobs of all keys."""
        return self.role == "operate" and (self.info.get("caller") or {}).get("visibility") != "own"

    def take(self, event: str, data: Members) -> None:
        """Take an event of either stream. One of a kind that is not known is passed over: of a newer server."""
        match event:
            case "now":
                self.now = data
                self.holders = {str(each["job_id"]): each for each in self.workers if each.get("job_id")}
            case "jobs":
                self.jobs = {str(job["job_id"]): job for job in data["jobs"]}
                self.has_all_jobs = data["total"] <= len(data["jobs"])
                self._gone.clear()
                self._is_read_on = not self.has_all_jobs
                self.counts = data.get("counts") or {}
            case "job":
                self.jobs[str(data["job_id"])] = data
                self._gone.discard(str(data["job_id"]))
                if len(self.jobs) > JOBS_MAX:
                    self._forget_oldest()
            case "gone":
                self.jobs.pop(str(data["job_id"]), None)
                if self._is_read_on:
                    self._gone.add(str(data["job_id"]))
            case "counts":
                self.counts = data

    def _forget_oldest(self) -> None:
        ended = [name for name, job in self.jobs.items() if job["state"] not in ACTIVE]
        ended.sort(key=lambda name: str(self.jobs[name]["created_at"]))
        for name in ended[: max(1, JOBS_MAX // 20)]:
            del self.jobs[name]

    def add(self, job: Members) -> None:
        """Add a job of a list, unless the stream has told of it: what that said is newer."""
        if str(job["job_id"]) not in self._gone:
            self.jobs.setdefault(str(job["job_id"]), job)

    def read_to_end(self, *, whole: bool) -> None:
        """Take note that no page of the list comes any more; not `whole`: the others are refused."""
        self.has_all_jobs, self._is_read_on = whole, False
        self._gone.clear()

    def forget_workers(self) -> None:
        """Forget the workers of a run of the server that is over; its jobs go when the stream has the new list."""
        self.now, self.holders = {}, {}

    def cpu_percent(self, job: Members) -> float | None:
        """Return what a job's processes take of one core now; None: it has none, or it is not measured yet."""
        return cpu_percent(self.holders.get(str(job["job_id"]), {}))

    def memory_bytes(self, job: Members) -> int | None:
        return memory_bytes(self.holders.get(str(job["job_id"]), {}))

    def listed(self, shows: str, words: str, order: str, *, backwards: bool) -> list[Members]:
        """Return the jobs that fit, in an order of `ORDERS`."""
        fits, wanted = _SHOWN[shows], parsed(words)
        newest_first = sorted(self.jobs.values(), key=lambda job: str(job["created_at"]), reverse=True)
        found = [job for job in newest_first if fits(job) and matches(job, wanted)]
        if order == "state":
            found = list(in_order(found))
        else:
            key, highest_first = ORDERS[order]
            known = [(key(self, job), job) for job in found]
            ranked = [pair for pair in known if pair[0] is not None]
            ranked.sort(key=lambda pair: pair[0], reverse=highest_first)
            found = [job for _, job in ranked] + [job for value, job in known if value is None]
        return found[::-1] if backwards else found


def cpu_percent(worker: Members) -> float | None:
    """Return the use of a worker now; of an older server its average."""
    if "cpu_percent" in worker:
        found: float | None = worker["cpu_percent"]
        return found
    return None if worker.get("cpu") is None else 100 * float(worker["cpu"])


def memory_bytes(worker: Members) -> int | None:
    found: int | None = worker.get("memory_bytes", worker.get("uss_bytes"))
    return found


ORDERS: Mapping[str, tuple[Callable[[Board, Members], Any], bool]] = {
    "state": (lambda board, job: None, False),
    "cpu": (lambda board, job: board.cpu_percent(job), True),
    "memory": (lambda board, job: board.memory_bytes(job), True),
    "ran": (lambda board, job: ran_s(job), True),
    "age": (lambda board, job: age_s(job["created_at"]), True),
    "tokens": (lambda board, job: job["tokens"], True),
    "type": (lambda board, job: str(job["type"]), False),
}
"""By what jobs may be sorted, and whether the highest is first. What a job does not have stands last."""


def parsed(words: str) -> list[tuple[str, str]]:
    """Return the words of a filter: `type:tick search` is a type that contains tick, and search anywhere."""
    found = []
    for word in words.lower().split():
        name, colon, value = word.partition(":")
        found.append((name, value) if colon and name in FIELDS else ("", word))
    return found


FIELDS: Mapping[str, Callable[[Members], str]] = {
    "id": lambda job: str(job["job_id"]),
    "type": lambda job: str(job["type"]),
    "state": lambda job: str(job["state"]),
    "tag": lambda job: " ".join(f"{key}={value}" for key, value in (job.get("tags") or {}).items()),
    "tenant": lambda job: str(job.get("tenant") or ""),
    "node": lambda job: str(job.get("node") or ""),
    "worker": lambda job: str(job.get("worker_id") or ""),
    "code": lambda job: str((job.get("error") or {}).get("code") or ""),
}
"""What a filter may name, as `state:failed`."""


def matches(job: Members, wanted: Sequence[tuple[str, str]]) -> bool:
    """Return whether a job has all words of a filter."""
    for name, word in wanted:
        if name:
            if word not in FIELDS[name](job).lower():
                return False
        elif not any(word in field(job).lower() for field in FIELDS.values()):
            return False
    return True
