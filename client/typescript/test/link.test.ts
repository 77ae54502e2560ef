/** Sessions over gRPC whose server the test plays. */
import assert from "node:assert/strict";
import { test } from "node:test";

import { create, toJson } from "@bufbuild/protobuf";

import { GenerationInputSchema } from "../dist/gen/flashbulb/v1/input_pb.js";
import { type ConnectRequest, type ConnectResponse, ConnectResponseSchema, DropReason } from "../dist/gen/flashbulb/v1/realtime_pb.js";
import { grpcDial } from "../dist/grpc/link.js";
import { Outgoing } from "../dist/grpc/outgoing.js";
import type { RealtimeOutput } from "../dist/realtime.js";
import { Session } from "../dist/session.js";
import { until } from "./service.js";

/** What a frame says, by its number. */
function frameOf({ message }: ConnectRequest): [bigint, unknown] | undefined {
  if (message.case !== "frame") return undefined;
  const { frameId, changes } = message.value;
  return [frameId, (toJson(GenerationInputSchema, changes!) as Record<string, unknown>)["fastLcmTextToImage"]];
}

test("a frame that was sent after a refused one is sent again in full, and only that is answered", async () => {
  const answers = new Outgoing<ConnectResponse>();
  const asked: ConnectRequest[] = [];
  const say = (message: object): void => answers.push(create(ConnectResponseSchema, { message } as Parameters<typeof create<typeof ConnectResponseSchema>>[1]));
  const read = async (requests: AsyncIterable<ConnectRequest>): Promise<void> => {
    for await (const request of requests) asked.push(request);
  };
  const dial = grpcDial(
    (requests) => {
      void read(requests);
      return answers;
    },
    "fast-lcm-diffusion",
    { previews: () => false, maxBuffering: 1, renew: () => false },
  );
  const results: [number, number][] = [];
  const dropped: [number, string][] = [];
  const session = new Session<Record<string, unknown>, RealtimeOutput>(
    dial,
    {
      onResult: ({ seed }, { frameId }) => results.push([frameId, seed]),
      onDropped: ({ frameId, reason }) => dropped.push([frameId, reason]),
    },
    0,
  );
  session.send({ prompt: "a" });
  say({ case: "opened", value: { resumeToken: "again" } });
  await until(() => asked.length === 2, "the first frame");
  session.update({ num_images: 99, guidance_scale: 2 });
  await until(() => asked.length === 3, "the second frame");
  session.update({ num_images: 1 });
  await until(() => asked.length === 4, "the third frame");
  assert.deepEqual(asked.slice(1).map(frameOf), [[1n, {}], [2n, { numImages: 99, guidanceScale: 2 }], [3n, { numImages: 1 }]]);
  say({ case: "dropped", value: { frameId: 2n, reason: DropReason.INVALID } });
  await until(() => asked.length === 5, "the third frame again");
  assert.deepEqual(frameOf(asked[4]!), [4n, { prompt: "a", numImages: 1, guidanceScale: 2 }]);
  for (const number of [1n, 3n, 4n]) say({ case: "frame", value: { frameId: number, seed: number } });
  await until(() => asked.length === 8, "an acknowledgement of each picture");
  assert.deepEqual([results, dropped], [[[1, 1], [3, 4]], [[2, "invalid"]]]);
  session.close();
  answers.end();
});
