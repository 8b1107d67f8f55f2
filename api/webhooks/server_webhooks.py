"""The webhooks of a server, by its settings.

Runs in: supervisor, and the command.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from killable.api.webhooks.callback_address import networks_of
from killable.api.webhooks.secrets_file import SecretsInvalid, Senders, read_secrets
from killable.supervisor.configuration.config import Config, ConfigFault

if TYPE_CHECKING:
    from killable.api.webhooks.deliveries import Deliveries
    from killable.supervisor.supervisor import Supervisor

FILE = "webhooks.secrets_file"


def senders_of(config: Config) -> Senders:
    """Return the secrets, read from their file. Blocks. Raise SecretsInvalid."""
    return read_secrets(config.webhooks.secrets_file, networks_of(config.webhooks.allow))


def deliveries_of(supervisor: Supervisor, config: Config) -> Deliveries | None:
    """Have a supervisor, which is not started, send the ends of its jobs; None: its settings have no secrets. Raise
    SecretsInvalid.
    """
    if not config.webhooks.secrets_file:
        return None
    from killable.api.webhooks.deliveries import Deliveries  # httpcore comes with it: only for a server that has some

    allowed = networks_of(config.webhooks.allow)
    inline = config.server.result_inline_bytes_max
    deliveries = Deliveries(supervisor, config.webhooks, allowed, senders_of(config), inline)
    supervisor.send_ends_by(deliveries)
    return deliveries


def faults_of(config: Config) -> Iterator[ConfigFault]:
    """Yield what is wrong with the file of secrets. No fault contains a secret."""
    try:
        networks_of(config.webhooks.allow)
        if config.webhooks.secrets_file:
            senders_of(config)
    except SecretsInvalid as error:
        expected = f"expected a file of secrets, a line TENANT whsec_BASE64: {config.webhooks.secrets_file}"
        for why in error.facts["faults"]:
            yield ConfigFault(FILE, expected, why, config.sources.get(FILE, ""))
    except ValueError:
        return  # the networks are another fault
