"""The verbs of the part Server of the command's help: what is typed, and what help says of it.

Runs in: any machine.
"""

from __future__ import annotations

from typing import Literal, get_args

from click import Argument, Choice, Option

from killable.api.cli.declarations.shared_options import CONFIG_FILE, FILE, JSON, REASON, TARGET, URL
from killable.api.cli.declarations.verb_command import VerbCommand
from killable.api.cli.parameters import completion
from killable.api.cli.parameters.option_values import seconds

KeyAction = Literal["make", "list", "revoke"]
KeyRole = Literal["read", "submit", "operate"]
"""What a key may do; each may do what the ones before it may."""
KeyVisibility = Literal["all", "own"]
"""Which jobs a key sees."""
JournalAction = Literal["verify", "backup", "salvage"]

SERVE = VerbCommand(
    "serve",
    """Run the server. Ctrl-C ends every job with its grace, then the server; a second Ctrl-C kills at once.

    API keys are read from a file (server.api_keys_file in killable.toml) and
    from the variable KILLABLE_API_KEY. If the server is killed, its guards end
    every process that it started; if they are killed too, the next start does.
    With --journal, accepted jobs survive a restart: the next server with the same file runs those that were queued, and
    knows how the others ended. SIGHUP and `killable reload` read the file of keys again, and roll the pools over to the
    code as it is now; with --reload, each change of a file that they have imported does.
    """,
    TARGET,
    CONFIG_FILE,
    Option(["--host"], help="Default: 127.0.0.1. A non-loopback address needs an API key."),
    Option(["--port"], type=int, help="Default: 7833. 0: any free port."),
    Option(["--uds"], metavar="PATH", help="Listen on a Unix socket (mode 0600) instead."),
    Option(["--journal"], metavar="PATH", help="File that keeps jobs across restarts. Default: none."),
    Option(["--log-level"], metavar="debug|info|warning|error", help="Default: info."),
    Option(["--log-format"], metavar="text|json", help="Format of the log on stderr. Default: text."),
    Option(["--mcp"], is_flag=True, help="Serve job types as tools of the Model Context Protocol at /mcp."),
    Option(["--ray"], metavar="ADDRESS", help="Run jobs on the machines of a Ray cluster. Default: on this one."),
    Option(["--reload", "reloads"], is_flag=True, help="While you develop: load the jobs' code anew when it changes."),
    JSON,
    runs="serve.serve",
    examples=(
        "killable serve",
        "killable serve my_jobs.py --port 8000",
        "killable serve my_jobs.py --reload",
    ),
)

CONFIG = VerbCommand(
    "config",
    """Show every value in force and its source: flag, variable, line of the file, decorator or default.

    Precedence: flag, variable (KILLABLE_SERVER__PORT), killable.toml, decorator,
    default. Starts the pools once to read the limits of their job types. API
    keys and other secrets are never shown. Exit code 78, with every fault, if
    the configuration is not valid, or if TARGET is given and does not load.
    """,
    TARGET,
    CONFIG_FILE,
    Option(["--no-import"], is_flag=True, help="Start no pool, and leave out the limits of the job types."),
    Option(["--example"], is_flag=True, help="Print an example killable.toml: every key, its default and its meaning."),
    Option(["--schema"], is_flag=True, help="Print the JSON Schema of killable.toml, for editors."),
    JSON,
    runs="config.config",
    examples=(
        "killable config my_jobs.py",
        "killable config --example > killable.toml",
        "KILLABLE_SERVER__PORT=8000 killable config --no-import --json",
    ),
)

KEYS = VerbCommand(
    "keys",
    """Make, list or revoke API keys.

    `make` prints the key, once: the file keeps only its digest, with name, role,
    visibility, creation and expiry. `revoke` removes a key. A running server
    reads the file again when it gets SIGHUP; jobs and streams of a revoked key
    go on.
    """,
    Argument(["action"], type=Choice(get_args(KeyAction)), metavar="make|list|revoke", help="What to do."),
    Argument(["name"], required=False, default="", metavar="[NAME]", help="Name of the key: the tenant of its jobs."),
    Option(
        ["--role"],
        type=Choice(get_args(KeyRole)),
        metavar="read|submit|operate",
        help="What it may do: look, also submit and cancel, or everything.",
    ),
    Option(
        ["--visibility"],
        type=Choice(get_args(KeyVisibility)),
        metavar="all|own",
        help="Which jobs it sees. Default: server.visibility; with operate all.",
    ),
    Option(
        ["--expires"],
        type=seconds,
        metavar="TIME",
        help="Time from now after which it is refused: 30d, 12h. Default: never.",
    ),
    Option(
        ["--file"],
        type=FILE,
        metavar="FILE",
        help="Default: server.api_keys_file of the configuration.",
    ),
    CONFIG_FILE,
    JSON,
    runs="keys.keys",
    examples=(
        "killable keys make dashboard --role submit --expires 30d",
        "killable keys make ci --role submit --visibility own --file ./keys",
        "killable keys list",
        "killable keys revoke dashboard",
    ),
)

CHECK = VerbCommand(
    "check",
    """Check the configuration: start every pool once and report every fault.

    Imports the modules, runs the preloads, starts one worker per pool, and ends
    them again. Exit code 0, or 78 with every fault: in the file, a variable or
    an API key, a pool that does not start, settings for an unknown job type, a
    job type that is unavailable.
    """,
    TARGET,
    CONFIG_FILE,
    JSON,
    runs="check.check",
    examples=(
        "killable check",
        "killable check my_jobs.py --json",
    ),
)

WORKERS = VerbCommand(
    "workers",
    """List the server's worker processes: idle ones, busy ones with their jobs, and those that are stopping.

    CPU is a share of one core, averaged over the worker's life; USS is the
    memory that no other process shares. Below are the latest workers that were
    not reused, with the reason: what their last job left behind (a thread, a
    child process, a signal handler). `killable kill w-7` ends one.
    With --pools it lists what they belong to: state, workers and spares by state,
    queue, slots lost to processes that nothing ends, restarts of the zygote, and
    RECOVERY, the latest and the median time from the end of a job that cost its
    worker until there was a warm one again. Below is how many workers of each have
    ended, and why: a job on it was stopped, or it was killed; it died; it had
    served `jobs_per_worker_max` jobs; it was retired for what its last job left
    behind; new code was reloaded in its place; it never started; its zygote ended.
    RESTARTS counts the zygotes, the processes that workers are forked from.
    """,
    Option(["--node"], metavar="NODE", help="Only those of this machine of a cluster."),
    Option(["--pools"], is_flag=True, help="List the pools in place of their workers."),
    JSON,
    URL,
    runs="workers.workers",
    examples=(
        "killable workers",
        "killable workers --pools",
        "killable workers --json",
    ),
)

TOP = VerbCommand(
    "top",
    """Show the server now: queue, workers with their use, jobs, ends by code. Inspect, cancel and kill from there.

    Live until q or Ctrl-C; jobs go on. / filters, s sorts, Enter shows a job's
    story, certificate, stack and output; c cancels it, K kills it or a worker at
    once: both ask first. With a key that may only look it shows and ends nothing.
    ? lists the keys. Needs `pip install 'killable[top]'`, and a terminal.
    """,
    URL,
    runs="top.top",
    without_json="it is a screen",
    examples=(
        "killable top",
        "killable top --url http://10.0.0.5:7833",
    ),
)

NODES = VerbCommand(
    "nodes",
    """List the machines of a cluster (`serve --ray`), each with the jobs that it runs and may run.

    A node is suspect while it does not answer, and lost when its lease is over:
    its jobs have ended then, with node_lost. `killable drain NODE` takes one
    out of use.
    """,
    JSON,
    URL,
    runs="nodes.nodes",
    examples=(
        "killable nodes",
        "killable nodes --json",
    ),
)

TENANTS = VerbCommand(
    "tenants",
    """List the tenants with what each has now and may have: waiting and running jobs, kept results, streams.

    A tenant is the name of an API key; without keys everybody is `default`. A
    name that no key has is marked with a star: nobody can use its table. A
    number alone has no bound but the server's own. The bounds are in the tables
    tenants.NAME and tenants.default of killable.toml. A key that is not an
    operator's sees its own tenant only.
    """,
    JSON,
    URL,
    runs="tenants.tenants",
    examples=(
        "killable tenants",
        "killable tenants --json",
    ),
)

TYPES = VerbCommand(
    "types",
    "List the job types with their inputs; with TYPE, show one in full: schema, limits, caps.",
    Argument(
        ["name"],
        required=False,
        metavar="[TYPE]",
        shell_complete=completion.job_types,
        help="Show this job type in full.",
    ),
    JSON,
    URL,
    runs="types.types",
    examples=(
        "killable types",
        "killable types tokenize",
    ),
)

METRICS = VerbCommand(
    "metrics",
    "Show the server's metrics: jobs by outcome since its start, its current load, the latency of cancels.",
    Option(["--text"], is_flag=True, help="Print the Prometheus text format, as GET /metrics does."),
    JSON,
    URL,
    runs="metrics.metrics",
    examples=(
        "killable metrics",
        "killable metrics --text",
    ),
)

DRAIN = VerbCommand(
    "drain",
    """Refuse new jobs and let the accepted ones finish. Returns at once; `ps` shows what is left.

    Refused jobs get 503 `draining`; clients may retry them later or on another
    server. `--off` ends the drain. With NODE, only that node of a cluster gets
    no more jobs: what it still runs at the deadline is stopped with its own
    grace, ends as `node_drained`, and may be tried again on another node.
    """,
    Argument(["node"], required=False, default=None, metavar="[NODE]", help="A node of `killable nodes`, alone."),
    Option(["--off"], is_flag=True, help="Accept new jobs again."),
    Option(
        ["--deadline"],
        type=seconds,
        metavar="SECONDS",
        help="Stop the jobs that are left after this time: 30s, 5m. Default: let them finish.",
    ),
    JSON,
    URL,
    runs="drain.drain",
    examples=(
        "killable drain --deadline 5m",
        "killable drain gpu-3-1a2b3c --deadline 60s",
        "killable drain --off",
    ),
)

RELOAD = VerbCommand(
    "reload",
    """Roll every pool over to the code as it is now. Running jobs finish on the code that they have; none is lost.

    New workers are warm before they get the jobs that wait, so that no request
    waits for an import. If the code of a pool does not load, every pool goes on
    as it is: exit code 1, with the traceback. The server also reads its API keys
    and secrets of webhooks again, and opens its audit log anew; what of that has
    a fault stays as it was: exit code 1, too. SIGHUP does the same. killable.toml
    is read at the start only.
    """,
    JSON,
    URL,
    runs="reload.reload",
    examples=(
        "killable reload",
        "killable reload --json",
    ),
)

SHUTDOWN = VerbCommand(
    "shutdown",
    """Stop the server: refuse new jobs, end every job with its grace, then exit. Waits until the server is gone.

    A server on this machine that does not exit is sent SIGTERM, and 5 s later
    SIGKILL; no process that it started outlives it. Exit code 0 if it is down,
    1 if it is not.
    """,
    Option(
        ["--grace"],
        type=seconds,
        metavar="SECONDS",
        help="Time for the clean-up of each job: 2s, 0. It can only shorten the job's own.",
    ),
    Option(
        ["--deadline"], type=seconds, default=0.0, metavar="SECONDS", help="First let jobs finish for this long: 5m."
    ),
    REASON,
    JSON,
    URL,
    runs="shutdown.shutdown",
    examples=(
        "killable shutdown",
        "killable shutdown --deadline 5m --grace 2s --reason 'new release'",
    ),
)

JOURNAL = VerbCommand(
    "journal",
    """Check, copy or save the file in which a server keeps its jobs.

    `verify` reads all of it: 0 if it is sound, 1 if rows are damaged or its end
    is missing, 65 if it is no journal. `backup` writes a copy, also while the
    server runs. `salvage` writes what can still be read; if the end is missing,
    jobs that wait in it may have run, and are lost instead of run again. The
    file itself is never changed.
    """,
    Argument(["action"], type=Choice(get_args(JournalAction)), metavar="verify|backup|salvage", help="What to do."),
    Argument(["file"], type=FILE, metavar="FILE", help="The journal."),
    Argument(
        ["new"],
        type=FILE,
        required=False,
        metavar="[NEW]",
        help="File to write: for backup and salvage.",
    ),
    JSON,
    runs="journal.journal",
    examples=(
        "killable journal verify ./jobs.journal",
        "killable journal backup ./jobs.journal ./jobs.backup",
        "killable journal salvage ./jobs.journal ./saved.journal --json",
    ),
)

SERVER = (SERVE, CONFIG, KEYS, CHECK, TOP, WORKERS, NODES, TENANTS, TYPES, METRICS, DRAIN, RELOAD, SHUTDOWN, JOURNAL)
