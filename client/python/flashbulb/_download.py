"""Pictures over HTTP. Links are signed and need no key, so none is sent: they may lead to another host."""

from __future__ import annotations

import httpx

from flashbulb._errors import DownloadFailed

TIMEOUT = httpx.Timeout(60.0, connect=10.0)


def download(url: str) -> bytes:
    """The body behind a link. DownloadFailed if there is none."""
    try:
        return _body(httpx.get(_checked(url), timeout=TIMEOUT))
    except httpx.HTTPError as error:
        raise DownloadFailed(f"cannot get {_unsigned(url)}: {error}") from error


async def download_async(url: str) -> bytes:
    """The body behind a link, for coroutines. DownloadFailed if there is none."""
    try:
        async with httpx.AsyncClient(timeout=TIMEOUT) as client:
            return _body(await client.get(_checked(url)))
    except httpx.HTTPError as error:
        raise DownloadFailed(f"cannot get {_unsigned(url)}: {error}") from error


def _unsigned(url: str) -> str:
    """The link without its signature, which opens the file to whoever reads it."""
    return url.partition("?")[0]


def _checked(url: str) -> str:
    if not url:
        raise DownloadFailed("the picture has neither bytes nor a link")
    return url


def _body(response: httpx.Response) -> bytes:
    if not response.is_success:
        hint = "; links expire, ask for the result again" if response.status_code in (403, 404) else ""
        raise DownloadFailed(
            f"HTTP {response.status_code} for {_unsigned(str(response.url))}{hint}",
            metadata={"status": str(response.status_code)},
        )
    return response.content
