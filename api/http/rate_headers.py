"""The RateLimit headers of answers: what a tenant has left of a bound.

Runs in: api. Pure. As in draft-ietf-httpapi-ratelimit-headers-10, fields of structured values (RFC 9651):

    RateLimit-Policy: "submissions_per_s";q=50;w=10     50 submissions in 10 seconds
    RateLimit: "submissions_per_s";r=49;t=1             49 are left; all 50 again in a second

A bound on what a tenant has at the same time (waiting jobs, open streams) has no window.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from killable.supervisor.records import Quota

SUBMISSIONS = "submissions_per_s"


def of_quota(quota: Quota) -> dict[str, str]:
    """Return the headers for what is left of a tenant's submissions."""
    return {
        "RateLimit-Policy": f'"{SUBMISSIONS}";q={quota.quota};w={quota.window_s}',
        "RateLimit": f'"{SUBMISSIONS}";r={quota.remaining};t={quota.reset_s}',
    }


def of_refusal(facts: Mapping[str, Any]) -> dict[str, str]:
    """Return the headers of a refusal because of a bound of one tenant; none for any other refusal."""
    if "quota" in facts:
        return of_quota(Quota(**facts["quota"]))
    if "tenant" not in facts or "bound" not in facts:
        return {}
    again = f";t={facts['retry_after_s']}" if "retry_after_s" in facts else ""
    return {
        "RateLimit-Policy": f'"{facts["bound"]}";q={facts["limit"]}',
        "RateLimit": f'"{facts["bound"]}";r=0{again}',
    }
