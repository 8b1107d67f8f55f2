"""What `make test-engines` skips over a head of a cluster, and why.

`OF_ONE_MACHINE` in `engines.py` names what runs there on a single node.
"""

from __future__ import annotations

DIFFERS = {
    "test_a_job_that_a_close_gave_up_may_be_on_disk_and_run": (
        "a head has a slot for it at once, so that its start is on disk with it: it may have run, and is lost"
    ),
    "test_one_machine_takes_the_jobs_that_select_it_and_refuses_the_others": (
        "a selector that no node fits makes a job of a head wait, and is refused by one machine only"
    ),
    "test_a_deadline_that_is_seen_late_hears_first_what_was_said_in_time": (
        "the loop stands still from the order to the job's last word; a node's order comes in turns of that same loop"
    ),
    "test_a_worker_that_became_free_in_time_is_had_by_who_waited_for_it": (
        "the loop that stands still is the head's and the node's: the head's deadline is due before the node can say it"
    ),
    "test_a_worker_that_dies_while_it_is_kept_for_a_job_costs_only_the_wait": (
        "a head keeps a slot for the job; its node has another worker for it when it comes"
    ),
    "test_http_files.py": "a head keeps no files",
    "test_http_files_of_keys.py": "a head keeps no files",
    "test_a_file_that_was_uploaded_is_an_argument": "a head keeps no files",
}
"""Files, and tests with or without their parameters, that say nothing about a head in the test's own process, and why.
They are skipped there.
"""
