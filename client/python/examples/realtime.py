"""Types a prompt for you, one letter at a time, and keeps the newest picture in a file.

python realtime.py "a red apple on a table" [live.jpeg]

FLASHBULB_HOST and FLASHBULB_KEY say which server, and who asks.
"""

from __future__ import annotations

import asyncio
import sys

import flashbulb
from flashbulb import realtime

LETTERS_PER_SECOND = 12


async def main() -> None:
    prompt = sys.argv[1] if len(sys.argv) > 1 else "a red apple on a table"
    path = sys.argv[2] if len(sys.argv) > 2 else "live.jpeg"
    async with (
        realtime.connect(image_size=(256, 256), num_inference_steps=4, seed=7) as session,
        asyncio.TaskGroup() as tasks,
    ):
        tasks.create_task(write(session, prompt))
        async for frame in session.frames():
            await frame.images[0].asave(path)
            print(
                f"frame {frame.frame_id:3}  {1000 * frame.latency:4.0f} ms after its letter  "
                f"{1000 * frame.age:4.0f} ms at the server  {frame.superseded} superseded"
            )
            if frame.frame_id == len(prompt):  # the newest is never dropped
                return


async def write(session: flashbulb.AsyncSession, prompt: str) -> None:
    """Sends the prompt letter by letter; frames are numbered from 1."""
    for end in range(1, len(prompt) + 1):
        await session.send(prompt=prompt[:end])
        await asyncio.sleep(1 / LETTERS_PER_SECOND)


if __name__ == "__main__":
    asyncio.run(main())
