/** Sessions over connections that the tests hold in their hands. */
import assert from "node:assert/strict";
import { openAsBlob } from "node:fs";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";

import { AuthenticationError, ConnectionError, type DroppedFrame, FlashbulbError, RealtimeError } from "flashbulb";

import { type Handlers, Session, WINDOW } from "../dist/session.js";
import type { Frame, WireEvents } from "../dist/wire.js";
import { until } from "./service.js";

interface Input {
  prompt?: string;
  seed?: number;
  image_url?: Uint8Array | Blob;
}

/** A session with what it sent and what it told. */
class Bench {
  readonly sent: Frame<Input>[] = [];
  readonly results: [number, string][] = [];
  readonly errors: FlashbulbError[] = [];
  readonly dropped: DroppedFrame<Input>[] = [];
  readonly wires: WireEvents<string>[] = [];
  readonly refusals: unknown[] = [];
  congested = false;
  closed = 0;
  letIn = (): void => undefined;
  readonly session: Session<Input, string>;

  constructor({ throttle = 0, hold = false } = {}) {
    const handlers: Handlers<Input, string> = {
      onResult: (result, { frameId }) => this.results.push([frameId, result]),
      onError: (error) => this.errors.push(error),
      onDropped: (dropped) => this.dropped.push(dropped),
    };
    this.session = new Session<Input, string>(
      async (events) => {
        if (hold) await new Promise<void>((resolve) => (this.letIn = resolve));
        const refusal = this.refusals.shift();
        if (refusal) throw refusal;
        this.wires.push(events);
        const bench = this;
        return {
          send: (frame) => void this.sent.push(frame),
          close: () => void this.closed++,
          get congested() {
            return bench.congested;
          },
        };
      },
      handlers,
      throttle,
    );
  }

  get wire(): WireEvents<string> {
    return this.wires.at(-1)!;
  }

  get prompts(): (string | undefined)[] {
    return this.sent.map((frame) => frame.input.prompt);
  }
}

const turn = (milliseconds = 0): Promise<void> => new Promise((resolve) => setTimeout(resolve, milliseconds));

test("while the connection is made, the newest frame alone is kept", async () => {
  const bench = new Bench({ hold: true });
  for (const prompt of ["a", "b", "c"]) bench.session.send({ prompt });
  await turn();
  bench.letIn();
  await turn();
  assert.deepEqual(bench.prompts, ["c"]);
  assert.deepEqual(bench.dropped.map(({ frameId, reason, input }) => [frameId, reason, input.prompt]), [[1, "superseded", "a"], [2, "superseded", "b"]]);
  bench.wire.result(3, "picture");
  assert.deepEqual(bench.results, [[3, "picture"]]);
});

test("of many frames at once the first and the last are sent", async () => {
  const bench = new Bench({ throttle: 1_000 });
  bench.session.send({ prompt: "0" });
  await turn();
  const start = performance.now();
  for (const prompt of ["1", "2", "3"]) bench.session.send({ prompt });
  assert.deepEqual(bench.prompts, ["0"]);
  await until(() => bench.sent.length > 1, "the next frame");
  assert.ok(performance.now() - start > 300);
  assert.deepEqual(bench.prompts, ["0", "3"]);
});

test("update changes what was sent last, and takes out what is undefined", async () => {
  const bench = new Bench();
  bench.session.send({ prompt: "a", seed: 1 });
  await turn();
  bench.session.update({ prompt: "b" });
  bench.session.update({ seed: undefined as unknown as number });
  assert.deepEqual(bench.sent.map((frame) => frame.input), [{ prompt: "a", seed: 1 }, { prompt: "b", seed: 1 }, { prompt: "b", seed: undefined }]);
});

test("a frame is what it was when it was sent", async () => {
  const bench = new Bench({ hold: true });
  const input = { prompt: "a", image_url: new Uint8Array([1]) };
  bench.session.send(input);
  input.prompt = "b";
  input.image_url[0] = 2;
  await turn();
  bench.letIn();
  await turn();
  assert.deepEqual(bench.sent[0]?.input, { prompt: "a", image_url: new Uint8Array([1]) });
});

test("blobs are read, and a frame that was overtaken meanwhile is not sent", async () => {
  const bench = new Bench();
  bench.session.send({ prompt: "first" });
  await turn();
  bench.session.send({ prompt: "slow", image_url: new Blob([new Uint8Array([1, 2])]) });
  bench.session.send({ prompt: "new" });
  await until(() => bench.sent.length + bench.dropped.length === 3, "all is sent or dropped");
  bench.session.send({ image_url: new Blob([new Uint8Array([3])]) });
  await until(() => bench.sent.at(-1)?.input.image_url !== undefined, "bytes are sent");
  assert.deepEqual(bench.sent.at(-1)?.input.image_url, new Uint8Array([3]));
});

test("a connection that breaks is made again, and the newest unanswered frame is sent again", async () => {
  const bench = new Bench();
  bench.session.send({ prompt: "a" });
  await turn();
  bench.session.send({ prompt: "b" });
  bench.refusals.push(new ConnectionError("still down"));
  bench.wire.closed(new ConnectionError("cut"));
  await until(() => bench.sent.length === 3, "it is sent again");
  assert.deepEqual(bench.prompts, ["a", "b", "b"]);
  assert.deepEqual(bench.dropped.map(({ frameId, reason }) => [frameId, reason]), [[1, "superseded"]]);
  bench.wires[0]!.result(2, "too late: of the connection before");
  bench.wire.result(2, "picture");
  bench.wire.result(2, "again");
  assert.deepEqual([bench.results, bench.errors], [[[2, "picture"]], []]);
});

test("a connection that ends as it should is made again with the next frame", async () => {
  const bench = new Bench();
  bench.session.send({ prompt: "a" });
  await turn();
  bench.wire.result(1, "picture");
  bench.wire.closed();
  await turn(30);
  assert.equal(bench.wires.length, 1, "nothing to send, no connection");
  bench.session.send({ prompt: "b" });
  await turn();
  assert.deepEqual([bench.wires.length, bench.prompts], [2, ["a", "b"]]);
});

test("an error that no connection mends is told once, and ends what waits", async () => {
  const bench = new Bench();
  const refusal = new AuthenticationError("no such key", { status: 401, body: null });
  bench.refusals.push(refusal);
  bench.session.send({ prompt: "a" });
  await turn(20);
  assert.deepEqual(bench.errors, [refusal]);
  assert.deepEqual(bench.dropped.map(({ reason }) => reason), ["failed"]);
  bench.session.send({ prompt: "b" });
  await turn();
  assert.deepEqual(bench.prompts, ["b"], "the next frame tries again");
  bench.wire.closed(new RealtimeError("TOO_MANY_SESSIONS", "too many"));
  assert.equal(bench.errors.length, 2);
  assert.deepEqual(bench.dropped.map(({ input }) => input.prompt), ["a", "b"]);
  bench.session.send({ prompt: "c" });
  await turn();
  bench.wire.result(3, "picture");
  bench.wire.closed(new RealtimeError("CONNECTION_CLOSED", "1008"));
  assert.equal(bench.errors.length, 3, "also where nothing waits for an answer");
});

test("a connection that the server closes while it is made counts as failed", async () => {
  const errors: FlashbulbError[] = [];
  const session = new Session<Input, string>(
    async (events) => {
      events.closed(new RealtimeError("UNAUTHORIZED", "no"));
      return { send: () => assert.fail("nothing can be sent"), close: () => undefined, congested: false };
    },
    { onResult: () => undefined, onError: (error) => errors.push(error) },
    0,
  );
  session.send({ prompt: "a" });
  await turn(10);
  assert.deepEqual(errors.map((error) => (error as RealtimeError).code), ["UNAUTHORIZED"]);
});

test("a refused frame is told, and the session goes on", async () => {
  const bench = new Bench();
  bench.session.send({ prompt: "" });
  await turn();
  bench.wire.dropped(1, "invalid", new RealtimeError("INVALID_INPUT", "prompt: is required"));
  bench.session.send({ prompt: "b" });
  bench.wire.result(2, "picture");
  assert.deepEqual(bench.dropped.map(({ reason, error }) => [reason, error?.code]), [["invalid", "INVALID_INPUT"]]);
  assert.deepEqual([bench.errors.length, bench.results.length], [1, 1]);
});

test("what was sent after a refused frame goes again, the newest alone, and is answered once", async () => {
  const bench = new Bench();
  for (const prompt of ["a", "b", "c", "d"]) {
    bench.session.send({ prompt });
    await turn();
  }
  bench.wire.dropped(2, "overflow");
  assert.deepEqual(bench.prompts, ["a", "b", "c", "d", "d"]);
  assert.equal(bench.sent.at(-1), bench.sent.at(-2), "it is the same frame");
  bench.wire.result(1, "of the frame before");
  bench.wire.result(3, "of what the refused frame left out");
  bench.wire.result(4, "picture");
  bench.wire.result(4, "again");
  assert.deepEqual(bench.results, [[1, "of the frame before"], [4, "picture"]]);
  assert.deepEqual(bench.dropped.map(({ frameId, reason }) => [frameId, reason]), [[2, "overflow"], [3, "superseded"]]);
});

test("of a frame that is dropped but kept by the server, nothing is sent again", async () => {
  const bench = new Bench();
  for (const prompt of ["a", "b", "c"]) {
    bench.session.send({ prompt });
    await turn();
  }
  bench.wire.dropped(1, "superseded");
  bench.wire.dropped(2, "similar");
  bench.wire.result(3, "picture");
  assert.deepEqual([bench.prompts, bench.results], [["a", "b", "c"], [[3, "picture"]]]);
});

test("a newer frame that waits, or is sent by who hears of the refusal, goes in the place of those after the refused one", async () => {
  const bench = new Bench();
  for (const prompt of ["a", "b"]) {
    bench.session.send({ prompt });
    await turn();
  }
  bench.congested = true;
  bench.session.send({ prompt: "c" });
  bench.congested = false;
  bench.wire.dropped(1, "invalid", new RealtimeError("INVALID_INPUT", "prompt: is bad"));
  assert.deepEqual(bench.prompts, ["a", "b", "c"]);
  bench.session.send({ prompt: "d" });
  bench.session.handlers = { ...bench.session.handlers, onError: () => void bench.session.send({ prompt: "e" }) };
  bench.wire.dropped(3, "invalid", new RealtimeError("INVALID_INPUT", "prompt: is bad"));
  bench.wire.result(5, "picture");
  assert.deepEqual([bench.prompts, bench.results], [["a", "b", "c", "d", "e"], [[5, "picture"]]]);
  assert.deepEqual(bench.dropped.map(({ frameId, reason }) => [frameId, reason]), [[1, "invalid"], [2, "superseded"], [3, "invalid"], [4, "superseded"]]);
});

test("an input that cannot be read is a bad frame, and the session goes on", async (t) => {
  const folder = await mkdtemp(join(tmpdir(), "flashbulb-"));
  t.after(() => rm(folder, { recursive: true }));
  const path = join(folder, "picture");
  await writeFile(path, "bytes");
  const file = await openAsBlob(path);
  await writeFile(path, "other bytes, of which the blob does not know");
  const bench = new Bench();
  bench.session.send({ prompt: "a", image_url: file });
  await until(() => bench.errors.length > 0, "the error");
  assert.deepEqual(bench.dropped.map(({ frameId, reason, error }) => [frameId, reason, error?.code]), [[1, "invalid", "INVALID_INPUT"]]);
  assert.equal(bench.dropped[0]?.error, bench.errors[0]);
  bench.session.send({ prompt: "b" });
  await turn();
  assert.deepEqual([bench.prompts, bench.errors.length], [["b"], 1]);
});

test("a frame that is sent by who hears of a failed connection is not lost", async () => {
  const bench = new Bench();
  bench.refusals.push(new AuthenticationError("no such key", { status: 401, body: null }));
  bench.session.handlers = { ...bench.session.handlers, onError: () => void bench.session.send({ prompt: "b" }) };
  bench.session.send({ prompt: "a" });
  await until(() => bench.sent.length > 0, "the frame of the handler");
  assert.deepEqual([bench.prompts, bench.dropped.map(({ frameId, reason }) => [frameId, reason])], [["b"], [[1, "failed"]]]);
});

test("a picture answers older frames, too, of which the server said nothing", async () => {
  const bench = new Bench();
  for (const prompt of ["a", "b"]) {
    bench.session.send({ prompt });
    await turn();
  }
  bench.wire.result(2, "picture");
  assert.deepEqual(bench.dropped.map(({ frameId }) => frameId), [1]);
});

test("a server that answers nothing, or a network that is behind, costs no memory", async () => {
  const bench = new Bench();
  for (let n = 1; n <= WINDOW + 5; n++) {
    bench.session.send({ seed: n });
    await turn();
  }
  assert.equal(bench.sent.length, WINDOW);
  bench.wire.result(WINDOW, "picture");
  assert.equal(bench.sent.at(-1)?.input.seed, WINDOW + 5, "the newest goes next");
  bench.congested = true;
  bench.session.send({ seed: 100 });
  bench.session.send({ seed: 101 });
  await turn(40);
  assert.equal(bench.sent.at(-1)?.input.seed, WINDOW + 5);
  bench.congested = false;
  await until(() => bench.sent.at(-1)?.input.seed === 101, "the newest is sent once there is room");
});

test("a session that was closed is over", async () => {
  const bench = new Bench();
  bench.session.send({ prompt: "a" });
  await turn();
  bench.session.close();
  bench.session.close();
  bench.wire.result(1, "picture");
  bench.wire.closed(new ConnectionError("cut"));
  assert.throws(() => bench.session.send({ prompt: "b" }), (error) => error instanceof RealtimeError && error.code === "CLOSED");
  await turn(20);
  assert.deepEqual([bench.closed, bench.results, bench.errors, bench.wires.length], [1, [], [], 1]);
});

test("what a handler throws is the program's, and the session goes on", async (t) => {
  const bench = new Bench();
  bench.session.handlers = {
    onResult: () => {
      throw new Error("a mistake of the program");
    },
  };
  bench.session.send({ prompt: "a" });
  await turn();
  t.mock.timers.enable({ apis: ["setTimeout"] });
  bench.wire.result(1, "picture");
  assert.throws(() => t.mock.timers.runAll(), /a mistake of the program/);
  bench.session.send({ prompt: "b" });
  assert.deepEqual(bench.prompts, ["a", "b"]);
});
