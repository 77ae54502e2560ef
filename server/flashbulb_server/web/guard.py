"""Requests to URLs that callers choose, so that nothing inside the installation can be reached by them.

1. A host's addresses are looked up here, every one must be allowed, and the connection is made to the very address that was looked at:
   a name that changes its mind between the look and the connection gains nothing.
2. Environment proxies, cookies and credentials in the URL are not used, and redirects are not followed.
3. Names are looked up in threads of our own: uvloop looks up two slow ones at a time, so that a caller's dead name server would hold up
   everybody.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, asynccontextmanager
from http.cookiejar import CookieJar, DefaultCookiePolicy
from types import TracebackType

import httpx

CONNECT_SECONDS = 5.0
_ADDRESSES_TRIED = 3
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_LOOKERS = ThreadPoolExecutor(64, thread_name_prefix="flashbulb-lookup")  # threads are made when they are needed
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class NameUnknown(Exception):
    """The host's name has no address."""


class AddressForbidden(Exception):
    """One of the host's addresses may not be reached."""


class Unreachable(Exception):
    """No address of the host takes a connection."""


class GuardedClient:
    """`async with`: owns the connections. `allowed`: whether an address may be reached; `headers` go with every request."""

    def __init__(
        self, *, allowed: Callable[[Address], bool], timeout: float | None, headers: Mapping[str, str]
    ) -> None:
        self._allowed = allowed
        self._client = httpx.AsyncClient(
            trust_env=False,
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),
            follow_redirects=False,
            timeout=httpx.Timeout(timeout, connect=CONNECT_SECONDS),
            # No connection is used twice: one is known by its address, and another name at that address needs its own handshake.
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=0),
            headers=headers,
        )

    async def __aenter__(self) -> GuardedClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.aclose()

    @asynccontextmanager
    async def send(
        self, method: str, url: httpx.URL, *, content: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> AsyncIterator[httpx.Response]:
        """The answer, its body still to be read. Raises NameUnknown, AddressForbidden, Unreachable, httpx.HTTPError."""
        addresses = await look_up(url, self._allowed)
        last: Exception | None = None
        for address in addresses[:_ADDRESSES_TRIED]:
            request = self._request(method, url, address, content, headers or {})
            try:
                response = await self._client.send(request, stream=True)
            except (httpx.ConnectError, httpx.ConnectTimeout) as err:
                last = err
                continue
            async with aclosing(response):
                yield response
                return
        raise Unreachable from last

    def _request(
        self, method: str, url: httpx.URL, address: Address, content: bytes | None, headers: Mapping[str, str]
    ) -> httpx.Request:
        """A request to the address itself; the name goes into the Host header, the TLS handshake and the check of the certificate."""
        return self._client.build_request(
            method,
            url.copy_with(host=str(address), userinfo=b"", fragment=None),
            content=content,
            headers={**headers, "Host": url.netloc.decode("ascii")},
            extensions={"sni_hostname": url.raw_host.decode("ascii")},
        )


def resolve(host: str, port: int) -> list[str]:
    """Addresses of a host, as texts, those to be tried first first. Raises OSError, UnicodeError."""
    return [str(entry[4][0]) for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]


async def look_up(url: httpx.URL, allowed: Callable[[Address], bool]) -> list[Address]:
    """Addresses of the URL's host, each of which may be reached. Raises NameUnknown, AddressForbidden."""
    try:
        host, port = url.raw_host.decode("ascii"), url.port or 0
        found = await asyncio.get_running_loop().run_in_executor(_LOOKERS, resolve, host, port)
    except (OSError, UnicodeError) as err:
        raise NameUnknown from err
    addresses = list(dict.fromkeys(map(ipaddress.ip_address, found)))
    if not all(map(allowed, addresses)):
        raise AddressForbidden
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
