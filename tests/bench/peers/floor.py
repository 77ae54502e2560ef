"""The floor: grpc.aio and a batcher, nothing else. Bytes in, bytes out."""

from __future__ import annotations

import grpc
import uvloop
from engine import PORT, Batcher


async def main() -> None:
    batcher = Batcher()

    async def draw(request: bytes, context: object) -> bytes:
        return await batcher.draw()

    server = grpc.aio.server()
    handler = grpc.unary_unary_rpc_method_handler(draw)  # without serializers bytes stay bytes
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("bench.Floor", {"Draw": handler}),))
    server.add_insecure_port(f"127.0.0.1:{PORT}")
    await server.start()
    await batcher.run()


uvloop.run(main())
