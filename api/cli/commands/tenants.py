"""`killable tenants`: what each tenant has now, beside its bounds.

Runs in: any machine.
"""

from __future__ import annotations

from killable.api.cli.display import console, errors, tables
from killable.api.cli.parameters.options import Json, Url, open_client
from killable.api.client.addresses import DEFAULT_URL


def tenants(as_json: Json = False, url: Url = DEFAULT_URL) -> None:
    """List the tenants with what each has now and may have: waiting and running jobs, kept results, streams.

    A tenant is the name of an API key; without keys everybody is `default`. A
    name that no key has is marked with a star: nobody can use its table. A
    number alone has no bound but the server's own. The bounds are in the tables
    tenants.NAME and tenants.default of killable.toml. A key that is not an
    operator's sees its own tenant only.
    """
    with errors.reporting(as_json), open_client(url) as client:
        found = client.tenants()
        if as_json:
            console.print_json({"tenants": found})
        elif found:
            console.print_table(tables.tenants(found))
            if not all(tenant.get("has_key", True) for tenant in found):
                console.stderr_console().print("* no API key has this name", style="dim")
        else:
            console.stderr_console().print("no tenant has a job, a result or a stream now", style="dim")
