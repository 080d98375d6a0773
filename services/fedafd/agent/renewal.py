"""Renews the client's certificate at half of its time; an agent from before there were keys makes its key here."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import UTC, datetime

from fedafd.agent.connection import AggregatorConnection
from fedafd.agent.state import Credential, StateDirectory
from fedafd.domain.errors import FedafdError
from fedafd.rpc.client_key import ClientKey, certificate_text, half_life
from fedafd.telemetry.logging import get_logger

__all__ = ["Renewal"]

_AFTER_REFUSAL_SECONDS = 3600.0
_log = get_logger(__name__)


class Renewal:
    """The credential of one agent, and when its certificate was last asked for."""

    def __init__(self, state: StateDirectory, credential: Credential) -> None:
        self._state, self._credential = state, credential
        self._not_before = 0.0

    async def if_due(self, connection: AggregatorConnection) -> None:
        """Renew once half of the time is over. What fails is tried again in an hour: the old one holds on."""
        if datetime.now(UTC) < half_life(self._credential.certificate) or time.monotonic() < self._not_before:
            return
        try:
            await self._renew(connection)
        except FedafdError as error:
            self._not_before = time.monotonic() + _AFTER_REFUSAL_SECONDS
            _log.warning("agent.certificate_not_renewed", reason=str(error), code=error.code)

    async def _renew(self, connection: AggregatorConnection) -> None:
        key = ClientKey(self._credential.key)
        if not self._credential.key:
            # Kept before it is shown: the credential is bound to this very key from then on.
            self._keep(replace(self._credential, key=key.pem()))
        certificate = certificate_text(await connection.renew_certificate(key.request()))
        self._keep(replace(self._credential, certificate=certificate))
        connection.use(self._credential)
        _log.info("agent.certificate_renewed", renew_again_at=half_life(certificate).isoformat(timespec="minutes"))

    def _keep(self, credential: Credential) -> None:
        self._state.save_credential(credential)
        self._credential = credential
