"""Bytes that come in chunks and were said to be so many."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator

from flashbulb_server.errors import FieldViolation, InvalidRequest


async def sized(
    chunks: AsyncIterator[bytes], size: int, *, stall_seconds: float, field: str = ""
) -> AsyncGenerator[bytes, None]:
    """The chunks, if they are `size` bytes together and none is late. `field`: what is wrong otherwise. Raises InvalidRequest.

    It is told after what came: whoever stores them must throw away what it has.
    """
    come = 0
    while True:
        try:
            async with asyncio.timeout(stall_seconds):
                chunk = await anext(chunks, None)
        except TimeoutError as err:
            raise _bad(field, f"none came for {stall_seconds:g} s, after {come} of {size} bytes") from err
        if chunk is None:
            break
        come += len(chunk)
        if come > size:
            raise _bad(field, f"more than the {size} bytes that were said came")
        yield chunk
    if come < size:
        raise _bad(field, f"{come} bytes came, not the {size} that were said")


def _bad(field: str, problem: str) -> InvalidRequest:
    return InvalidRequest([FieldViolation(field, problem)])
