/** Sessions over WebSocket whose server the test plays. */
import assert from "node:assert/strict";
import { once } from "node:events";
import type { AddressInfo } from "node:net";
import { test, type TestContext } from "node:test";

import { decode, encode } from "@msgpack/msgpack";
import { createClient, type DroppedFrame, type FlashbulbError, type RealtimeConnection } from "flashbulb";
import { type WebSocket, WebSocketServer } from "ws";

type Fields = Record<string, unknown>;
type Input = { prompt: string; seed?: number; num_images?: number; guidance_scale?: number };

/** A server that says what it is told to, and a session with it. */
class Bench {
  readonly sockets: WebSocket[] = [];
  readonly frames: Fields[] = [];
  readonly results: [number, string][] = [];
  readonly errors: FlashbulbError[] = [];
  readonly dropped: DroppedFrame<unknown>[] = [];
  previews = 0;

  static async begin(t: TestContext): Promise<[Bench, RealtimeConnection<Input>]> {
    const bench = new Bench();
    const server = new WebSocketServer({ host: "127.0.0.1", port: 0 });
    server.on("connection", (socket) => {
      bench.sockets.push(socket);
      socket.on("message", (data) => bench.frames.push(decode(data as Buffer) as Fields));
    });
    await once(server, "listening");
    const session = createClient({ url: `http://127.0.0.1:${(server.address() as AddressInfo).port}` }).realtime.connect("fast-lcm-diffusion", {
      throttleInterval: 0,
      tokenProvider: async () => "token",
      onResult: ({ prompt }, { frameId }) => bench.results.push([frameId, prompt]),
      onError: (error) => bench.errors.push(error),
      onDropped: (dropped) => bench.dropped.push(dropped),
      onPreview: () => bench.previews++,
    });
    t.after(() => {
      session.close();
      for (const socket of bench.sockets) socket.terminate();
      server.close();
    });
    return [bench, session];
  }

  draw(request_id: string, prompt: string): void {
    this.sockets.at(-1)!.send(encode({ images: [], seed: 1, prompt, request_id }));
  }

  say(message: Fields): void {
    this.sockets.at(-1)!.send(JSON.stringify(message));
  }

  refuse(request_id: string): void {
    const detail = [{ loc: ["body", "num_images"], msg: "is too much", type: "value_error" }];
    this.say({ type: "x-fal-error", error: "INVALID_INPUT", reason: "num_images: is too much", request_id, detail });
  }
}

/** Waits until a condition holds, without the timers that a test may have in its hands. */
async function until(condition: () => boolean, what: string): Promise<void> {
  const end = performance.now() + 5_000;
  while (!condition()) {
    assert.ok(performance.now() < end, `${what} did not happen`);
    await new Promise((resolve) => setImmediate(resolve));
  }
}

// First, since a mocked clock clears no real timer, and a socket of another test may still have one.
test("a socket on which nothing comes while an answer is due counts as broken", async (t) => {
  const [bench, session] = await Bench.begin(t);
  t.mock.timers.enable({ apis: ["setTimeout"] });
  session.send({ prompt: "a" });
  await until(() => bench.frames.length === 1, "the frame");
  t.mock.timers.tick(30_000);
  bench.say({ type: "x-fal-message", action: "preview", url: "data:image/jpeg;base64,anBlZw==" });
  await until(() => bench.previews === 1, "a preview");
  session.update({ prompt: "b" });
  await until(() => bench.frames.length === 2, "another frame, which is no sign of life");
  t.mock.timers.tick(44_000);
  assert.equal(bench.sockets[0]!.readyState, 1, "nothing came for 44 s only");
  t.mock.timers.tick(1_000);
  await until(() => bench.sockets[0]!.readyState === 3, "the end of the silent socket");
  t.mock.timers.tick(1_000);
  await until(() => bench.frames.length === 3, "the newest frame on another socket");
  assert.deepEqual(bench.frames[2], { prompt: "b", request_id: "3" });
  bench.draw("3", "b");
  await until(() => bench.results.length === 1, "the picture");
  t.mock.timers.tick(100_000);
  await new Promise((resolve) => setImmediate(resolve));
  assert.equal(bench.sockets[1]!.readyState, 1, "nothing is due");
  assert.deepEqual([bench.sockets.length, bench.results, bench.errors], [2, [[2, "b"]], []]);
});

test("a frame that was sent after a refused one is sent again in full, and only that is answered", async (t) => {
  const [bench, session] = await Bench.begin(t);
  session.send({ prompt: "a", seed: 1 });
  await until(() => bench.frames.length === 1, "the first frame");
  session.update({ num_images: 99, guidance_scale: 2 });
  session.update({ num_images: 1 });
  await until(() => bench.frames.length === 3, "two differences");
  assert.deepEqual(bench.frames.slice(1), [{ num_images: 99, guidance_scale: 2, request_id: "2" }, { num_images: 1, request_id: "3" }]);
  bench.draw("1", "a");
  bench.refuse("2");
  await until(() => bench.frames.length === 4, "the third frame again");
  assert.deepEqual(bench.frames[3], { prompt: "a", seed: 1, num_images: 1, guidance_scale: 2, request_id: "4" });
  bench.draw("3", "without the guidance of the refused frame");
  session.update({ prompt: "b" });
  await until(() => bench.frames.length === 5, "another frame");
  assert.deepEqual(bench.frames[4], { prompt: "b", request_id: "5" });
  bench.draw("4", "a");
  bench.draw("5", "b");
  await until(() => bench.results.length === 3, "the pictures");
  assert.deepEqual(bench.results, [[1, "a"], [3, "a"], [4, "b"]]);
  assert.deepEqual([bench.dropped.map(({ frameId, reason }) => [frameId, reason]), bench.errors.length], [[[2, "invalid"]], 1]);
});
