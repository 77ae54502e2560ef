"""LitServe: one worker process, its own batching, its faster queue. Raw bytes out."""

from __future__ import annotations

import litserve
from engine import MAX_BATCH, PORT, encode, sleep
from fastapi import Response


class Api(litserve.LitAPI):
    def setup(self, device: str) -> None:
        """Nothing to load."""

    def decode_request(self, request: dict) -> object:
        return request["prompt"]

    def predict(self, x: object) -> object:
        if MAX_BATCH == 1:
            sleep(1)
            return encode()
        sleep(len(x))
        return [encode() for _ in x]

    def encode_response(self, output: bytes) -> Response:
        return Response(content=output, media_type="image/jpeg")


if __name__ == "__main__":
    # A batch timeout of 0 polls without a pause, which costs a core; 1 ms is the least that does not.
    api = Api(max_batch_size=MAX_BATCH, batch_timeout=0.001 if MAX_BATCH > 1 else 0)
    server = litserve.LitServer(api, accelerator="cpu", fast_queue=True)
    server.run(host="127.0.0.1", port=PORT, generate_client_file=False, log_level="error")
