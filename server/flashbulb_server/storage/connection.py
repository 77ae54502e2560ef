"""The connection to the S3 server: clients of the minio SDK, the threads its blocking calls run in, and what its errors mean.

Every wait has a limit: 2 s to connect, 30 s without a byte, and one for a whole call with its retries and its wait for a thread.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar
from urllib.parse import urlsplit

import urllib3
from minio import Minio
from minio.error import MinioException, S3Error

from flashbulb_server.config import FilesSettings
from flashbulb_server.core.files import uri_of
from flashbulb_server.errors import FileNotFound, Misconfigured, StoreUnavailable

_SDK_ERRORS = (MinioException, urllib3.exceptions.HTTPError, OSError)

_THREADS = 8
_UPLOAD_THREADS = 16  # of their own: a slow caller holds one for long, and small calls must not wait for it
_REFUSED_SECONDS = 3.0  # a starting store may refuse keys that it has not loaded yet
_RETRY_SECONDS = 0.2
_SETTLE_SECONDS = 5.0
_MISSING = frozenset({"NoSuchKey", "NoSuchObject"})
_REFUSED = frozenset({"AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "AllAccessDisabled"})
_MADE_MEANWHILE = frozenset({"BucketAlreadyOwnedByYou", "BucketAlreadyExists"})

_log = logging.getLogger(__name__)
_P = ParamSpec("_P")
_T = TypeVar("_T")


class StoreRefused(Misconfigured):
    """The S3 server refuses the keys, or rights that are needed; the operator must mend the settings."""


class Connection:
    """Clients and threads. `client` reaches the server as the service does, `public` only signs links, as callers reach it."""

    def __init__(self, settings: FilesSettings, *, call_seconds: float) -> None:
        self._settings = settings
        self._call_seconds = call_seconds
        self._http = urllib3.PoolManager(
            maxsize=_THREADS + _UPLOAD_THREADS,
            timeout=urllib3.Timeout(connect=2, read=30),
            # read=1: a server that restarts drops kept connections; all our calls may be repeated
            retries=urllib3.Retry(
                total=3, connect=2, read=1, status=2, backoff_factor=0.1, status_forcelist=(500, 502, 503, 504)
            ),
        )
        self.client = self._connect(settings.endpoint, secure=settings.secure)
        public = urlsplit(settings.public_url)
        self.public = self._connect(public.netloc, secure=public.scheme == "https") if public.netloc else self.client
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="files")
        self.upload_threads = ThreadPoolExecutor(_UPLOAD_THREADS, thread_name_prefix="uploads")

    def _connect(self, endpoint: str, *, secure: bool) -> Minio:
        return Minio(
            endpoint,
            access_key=self._settings.access_key,
            secret_key=self._settings.secret_key.get_secret_value(),
            secure=secure,
            region=self._settings.region,
            http_client=self._http,
        )

    async def open(self, ready_seconds: float) -> None:
        """Makes the bucket if it is missing, trying for `ready_seconds`. Raises StoreUnavailable or StoreRefused."""
        start = time.monotonic()
        while True:
            try:
                async with asyncio.timeout(max(ready_seconds, 1.0)):
                    return await self.call(self._make_bucket)
            except (StoreUnavailable, StoreRefused) as err:
                limit = min(_REFUSED_SECONDS, ready_seconds) if isinstance(err, StoreRefused) else ready_seconds
                if time.monotonic() - start >= limit:
                    raise
            except TimeoutError as err:
                raise StoreUnavailable("files") from err
            await asyncio.sleep(_RETRY_SECONDS)

    def close(self) -> None:
        """Calls that still run end by their own limits."""
        for threads in (self._threads, self.upload_threads):
            threads.shutdown(wait=False, cancel_futures=True)
        self._http.clear()

    async def call(self, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Runs `function` in a thread. Its errors become ours; a missing object is FileNotFound.

        When cancelled, a call that waits for a thread never runs, and one that runs goes on unseen.
        """
        try:
            async with asyncio.timeout(self._call_seconds):
                return await asyncio.get_running_loop().run_in_executor(
                    self._threads, partial(function, *args, **kwargs)
                )
        except _SDK_ERRORS as err:
            raise _translated(err) from err

    async def write(self, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """As `call`. When cancelled it waits until what runs is over, so that a caller who deletes next deletes what it wrote."""
        job = self._threads.submit(partial(function, *args, **kwargs))
        try:
            async with asyncio.timeout(self._call_seconds):
                return await outcome(job)
        except TimeoutError as err:
            raise StoreUnavailable("files") from err
        except asyncio.CancelledError:
            await settle(job)
            raise

    def _make_bucket(self) -> None:
        bucket = self._settings.bucket
        try:
            if not self.client.bucket_exists(bucket):
                self.client.make_bucket(bucket, location=self._settings.region)
        except S3Error as err:
            if err.code in _REFUSED:
                raise StoreRefused(
                    "FLASHBULB_FILES__ACCESS_KEY and FLASHBULB_FILES__SECRET_KEY: the S3 server at "
                    f"{self._settings.endpoint} refuses the key, its secret or its rights: {err.code}"
                ) from err
            if err.code not in _MADE_MEANWHILE:
                raise


async def outcome(job: Future[_T]) -> _T:
    """What a thread gives. Does not cancel it. Its errors become ours."""
    try:
        return await asyncio.shield(asyncio.wrap_future(job))
    except _SDK_ERRORS as err:
        raise _translated(err) from err


async def settle(job: Future[_T]) -> None:
    """Takes back what no thread has begun, or waits a little until it is over, however it ends."""
    if job.cancel():
        return
    ended = asyncio.wrap_future(job)
    ended.add_done_callback(lambda done: done.cancelled() or done.exception())  # its error is nobody's any more
    await asyncio.wait([ended], timeout=_SETTLE_SECONDS)


def _translated(err: Exception) -> Exception:
    """What an error of the SDK, of HTTP or of the socket means."""
    if isinstance(err, S3Error):
        if err.code in _MISSING:
            return FileNotFound(uri_of(err.object_name or ""))
        _log.error("the S3 server refused a call", extra={"code": err.code, "detail": err.message})
    return StoreUnavailable("files")
