"""Pictures from the web, by the guarded client. Redirects are followed here, and every hop is judged like the first.

Size and time are limited, whatever the server says of itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType
from urllib.parse import urljoin

import httpx

from flashbulb_server.core.generation import SourceImage
from flashbulb_server.core.sources import MAX_FETCHED_BYTES, BadSource, source_problem
from flashbulb_server.web.guard import Address, AddressForbidden, GuardedClient, NameUnknown, Unreachable

MAX_REDIRECTS = 3
FETCH_SECONDS = 15.0
_REDIRECTS = frozenset({301, 302, 303, 307, 308})


class Fetcher:
    """`async with`: owns the connections. `allowed`: whether an address may be reached; `seconds`: limit of one fetch."""

    def __init__(self, *, allowed: Callable[[Address], bool], seconds: float = FETCH_SECONDS) -> None:
        self._seconds = seconds
        self._client = GuardedClient(
            allowed=allowed,
            timeout=seconds,
            headers={"User-Agent": "flashbulb", "Accept": "image/*", "Accept-Encoding": "identity"},
        )

    async def __aenter__(self) -> Fetcher:
        await self._client.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.__aexit__(kind, error, trace)

    async def fetch(self, url: str) -> bytes:
        """The bytes behind a URL, at most 20 MiB. Raises BadSource with what is wrong."""
        try:
            async with asyncio.timeout(self._seconds):
                return await self._follow(url)
        except TimeoutError as err:
            raise BadSource(f"the server did not send it within {self._seconds:g} s") from err
        except NameUnknown as err:
            raise BadSource("the server's name is not known") from err
        except AddressForbidden as err:
            raise BadSource("the server's address is not public, and this service does not fetch from such") from err
        except (Unreachable, httpx.HTTPError, httpx.InvalidURL, httpx.StreamError) as err:
            raise BadSource("the server cannot be reached, or broke off") from err

    async def _follow(self, url: str) -> bytes:
        for _ in range(MAX_REDIRECTS + 1):
            if (problem := source_problem(SourceImage(uri=url))) is not None:
                raise BadSource(problem)
            target = httpx.URL(url)
            found = await self._get(target)
            if isinstance(found, bytes):
                return found
            url = urljoin(str(target), found)
            if not url.lower().startswith(("http://", "https://")):
                raise BadSource("is redirected to what is no http or https URL")
        raise BadSource(f"is redirected more than {MAX_REDIRECTS} times")

    async def _get(self, url: httpx.URL) -> bytes | str:
        """The bytes, or where they are said to be."""
        async with self._client.send("GET", url) as response:
            if response.status_code in _REDIRECTS and "location" in response.headers:
                return str(response.headers["location"])
            if response.status_code != httpx.codes.OK:
                raise BadSource(f"the server answered {response.status_code}")
            return await _read(response)


async def _read(response: httpx.Response) -> bytes:
    too_large = BadSource(f"has more than {MAX_FETCHED_BYTES} bytes")
    if int(response.headers.get("content-length", "0")) > MAX_FETCHED_BYTES:
        raise too_large
    data = bytearray()
    async for chunk in response.aiter_raw():
        data += chunk
        if len(data) > MAX_FETCHED_BYTES:
            raise too_large
    return bytes(data)
