"""A submitted request, for coroutines and without. Both only call their client."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from flashbulb._results import CancelReceipt, Event, RequestStatus, Result

if TYPE_CHECKING:
    from flashbulb._client import AsyncClient
    from flashbulb._sync import Client


@dataclass(frozen=True, slots=True)
class AsyncHandle:
    """A submitted request. `submitted` is its status then; `deduplicated` says that an earlier call had made it."""

    client: AsyncClient = field(repr=False)
    submitted: RequestStatus
    deduplicated: bool = False

    @property
    def request_id(self) -> str:
        """Id of the request."""
        return self.submitted.request_id

    async def status(self, logs: bool = False) -> RequestStatus:
        """Its status now, see `AsyncClient.status`."""
        return await self.client.status(self.request_id, logs)

    def watch(self, after_sequence: int = 0, *, logs: bool = False, previews: bool = False) -> AsyncGenerator[Event]:
        """Its events, see `AsyncClient.watch`."""
        return self.client.watch(self.request_id, after_sequence, logs=logs, previews=previews)

    async def result(self, wait: bool = True, *, timeout: float | None = None) -> Result:
        """Its pictures, see `AsyncClient.result`."""
        return await self.client.result(self.request_id, wait, timeout=timeout)

    async def cancel(self) -> CancelReceipt:
        """Cancels it, see `AsyncClient.cancel`."""
        return await self.client.cancel(self.request_id)


@dataclass(frozen=True, slots=True)
class Handle:
    """A submitted request. `submitted` is its status then; `deduplicated` says that an earlier call had made it."""

    client: Client = field(repr=False)
    submitted: RequestStatus
    deduplicated: bool = False

    @property
    def request_id(self) -> str:
        """Id of the request."""
        return self.submitted.request_id

    def status(self, logs: bool = False) -> RequestStatus:
        """Its status now, see `Client.status`."""
        return self.client.status(self.request_id, logs)

    def watch(self, after_sequence: int = 0, *, logs: bool = False, previews: bool = False) -> Generator[Event]:
        """Its events, see `Client.watch`."""
        return self.client.watch(self.request_id, after_sequence, logs=logs, previews=previews)

    def result(self, wait: bool = True, *, timeout: float | None = None) -> Result:
        """Its pictures, see `Client.result`."""
        return self.client.result(self.request_id, wait, timeout=timeout)

    def cancel(self) -> CancelReceipt:
        """Cancels it, see `Client.cancel`."""
        return self.client.cancel(self.request_id)
