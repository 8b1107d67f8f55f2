"""The telemetry of `serve`, if its settings, or OpenTelemetry's variables, say where to send it.

Runs in: supervisor.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import MutableMapping
from typing import TYPE_CHECKING

from killable.supervisor.configuration.config import Config
from killable.supervisor.http_server_settings import TelemetrySettings
from killable.supervisor.telemetry import otel_settings

if TYPE_CHECKING:
    from killable.supervisor.telemetry.telemetry import Telemetry

logger = logging.getLogger("killable.telemetry")


def telemetry_of(config: Config, environ: MutableMapping[str, str]) -> Telemetry | None:
    """Return what sends; None: nothing is to be sent.

    Takes the variable with the headers out of `environ`, unless it is OpenTelemetry's own, which jobs may need: no
    process started later inherits it.
    """
    settings = config.telemetry
    targets = otel_settings.targets_of(settings, environ)
    if not targets.are_any:
        return None
    if not otel_settings.is_installed():  # an address in killable.toml would have been a fault
        told = f"OpenTelemetry is not installed, and {otel_settings.BASE} is ignored: {otel_settings.INSTALL}"
        logger.warning("telemetry_setting", extra={"detail": told})
        return None
    from killable.supervisor.telemetry.telemetry import Telemetry

    telemetry = Telemetry(settings, targets, environ, redact=config.server.redact, instance=str(uuid.uuid4()))
    if settings.headers_variable != TelemetrySettings.headers_variable:
        environ.pop(settings.headers_variable, None)
    return telemetry
