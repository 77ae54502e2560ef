"""mosec: its Rust front and one Python worker, batches of what comes within 1 ms. Raw bytes out."""

from __future__ import annotations

import sys

from engine import MAX_BATCH, PORT, encode, sleep
from mosec import Server, Worker


class Painter(Worker):
    def forward(self, data: object) -> object:
        if MAX_BATCH == 1:
            sleep(1)
            return encode()
        sleep(len(data))
        return [encode() for _ in data]

    def serialize(self, data: bytes) -> bytes:
        return data


if __name__ == "__main__":
    sys.argv += ["--address", "127.0.0.1", "--port", str(PORT), "--log-level", "error"]
    server = Server()
    server.append_worker(Painter, num=1, max_batch_size=MAX_BATCH, max_wait_time=1, start_method="spawn")
    server.run()
