"""MLServer: ModelInfer over gRPC, the model in the server's process, the batcher of the floor (its own waits for a fixed time)."""

from __future__ import annotations

import asyncio

from engine import HTTP_PORT, PORT, Batcher
from mlserver import MLModel, MLServer, ModelSettings, Settings
from mlserver.types import InferenceRequest, InferenceResponse, ResponseOutput


class Painter(MLModel):
    async def load(self) -> bool:
        self._batcher = Batcher()
        self._running = asyncio.create_task(self._batcher.run())
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        picture = await self._batcher.draw()
        output = ResponseOutput(name="picture", shape=[1], datatype="BYTES", data=[picture])
        return InferenceResponse(model_name=self.name, outputs=[output])


async def main() -> None:
    settings = Settings(
        host="127.0.0.1",
        http_port=HTTP_PORT,
        grpc_port=PORT,
        metrics_endpoint=None,
        parallel_workers=0,
        debug=False,
        use_structured_logging=False,
    )
    server = MLServer(settings)
    await server.start([ModelSettings(name="painter", implementation=Painter, parallel_workers=0)])


asyncio.run(main())
