"""Pictures from the web. A caller chooses the URL, so nothing inside the installation may be reached by it.

1. A host's addresses are looked up here, every one must be public, and the connection is made to the very address that was looked at:
   a name that changes its mind between the look and the connection gains nothing.
2. Redirects are followed here, and every hop is judged like the first.
3. Environment proxies, cookies and credentials in the URL are not used. Size and time are limited, whatever the server says of itself.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Callable
from contextlib import aclosing
from http.cookiejar import CookieJar, DefaultCookiePolicy
from types import TracebackType
from urllib.parse import urljoin

import httpx

from flashbulb_server.core.generation import SourceImage
from flashbulb_server.core.sources import MAX_FETCHED_BYTES, BadSource, source_problem

MAX_REDIRECTS = 3
FETCH_SECONDS = 15.0
_CONNECT_SECONDS = 5.0
_ADDRESSES_TRIED = 3
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class Fetcher:
    """`async with`: owns the connections. `allowed`: whether an address may be reached; `seconds`: limit of one fetch."""

    def __init__(self, *, allowed: Callable[[Address], bool], seconds: float = FETCH_SECONDS) -> None:
        self._allowed = allowed
        self._seconds = seconds
        self._client = httpx.AsyncClient(
            trust_env=False,
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),
            follow_redirects=False,
            timeout=httpx.Timeout(seconds, connect=_CONNECT_SECONDS),
            # No connection is used twice: one is known by its address, and another name at that address needs its own handshake.
            limits=httpx.Limits(max_keepalive_connections=0),
            headers={"User-Agent": "flashbulb", "Accept": "image/*", "Accept-Encoding": "identity"},
        )

    async def __aenter__(self) -> Fetcher:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.aclose()

    async def fetch(self, url: str) -> bytes:
        """The bytes behind a URL, at most 20 MiB. Raises BadSource with what is wrong."""
        try:
            async with asyncio.timeout(self._seconds):
                return await self._follow(url)
        except TimeoutError as err:
            raise BadSource(f"the server did not send it within {self._seconds:g} s") from err
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError) as err:
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
        addresses = await self._addresses(url)
        for address in addresses[:_ADDRESSES_TRIED]:
            try:
                response = await self._client.send(self._request(url, address), stream=True)
            except (httpx.ConnectError, httpx.ConnectTimeout):
                continue
            async with aclosing(response):
                if response.status_code in _REDIRECTS and "location" in response.headers:
                    return str(response.headers["location"])
                if response.status_code != httpx.codes.OK:
                    raise BadSource(f"the server answered {response.status_code}")
                return await _read(response)
        raise BadSource("the server cannot be reached, or broke off")

    def _request(self, url: httpx.URL, address: Address) -> httpx.Request:
        """A request to the address itself; the name goes into the Host header, the TLS handshake and the check of the certificate."""
        return self._client.build_request(
            "GET",
            url.copy_with(host=str(address), userinfo=b"", fragment=None),
            headers={"Host": url.netloc.decode("ascii")},
            extensions={"sni_hostname": url.raw_host.decode("ascii")},
        )

    async def _addresses(self, url: httpx.URL) -> list[Address]:
        """Addresses of the URL's host, each of which may be reached."""
        try:
            found = await asyncio.get_running_loop().getaddrinfo(
                url.raw_host.decode("ascii"), url.port or 0, type=socket.SOCK_STREAM
            )
        except (OSError, UnicodeError) as err:
            raise BadSource("the server's name is not known") from err
        addresses = list(dict.fromkeys(ipaddress.ip_address(entry[4][0]) for entry in found))
        if not all(map(self._allowed, addresses)):
            raise BadSource("the server's address is not public, and this service does not fetch from such")
        return addresses


def is_public(address: Address) -> bool:
    """Whether an address belongs to the internet at large, and so does the IPv4 address that it may wrap."""
    if isinstance(address, ipaddress.IPv6Address):
        wrapped = address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else None)
        if address in _NAT64:
            wrapped = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if wrapped is not None:
            return is_public(wrapped)
        if address.is_site_local:
            return False
    return address.is_global and not (address.is_multicast or address.is_reserved or address.is_unspecified)


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
