/** Calls over connections that the server ends: none is lost, none is made twice, and nobody hears of it. */
import assert from "node:assert/strict";
import { constants, createServer, type ServerHttp2Stream } from "node:http2";
import type { AddressInfo } from "node:net";
import { test, type TestContext } from "node:test";

import { createGrpcClient, type GrpcClient } from "flashbulb/grpc";

const CALLS = 30;

/** Messages in the bytes that came. */
function messages(data: Buffer): Buffer[] {
  const found: Buffer[] = [];
  for (let at = 0; at + 5 <= data.length && at + 5 + data.readUInt32BE(at + 1) <= data.length; at += 5 + data.readUInt32BE(at + 1)) {
    found.push(data.subarray(at + 5, at + 5 + data.readUInt32BE(at + 1)));
  }
  return found;
}

/** A gRPC server, with the messages of each call that it saw. */
async function serving(t: TestContext, answer: (stream: ServerHttp2Stream, asked: Buffer[]) => void): Promise<[GrpcClient, Buffer[][]]> {
  const seen: Buffer[][] = [];
  const server = createServer();
  server.on("stream", (stream: ServerHttp2Stream) => {
    const parts: Buffer[] = [];
    stream.on("error", () => undefined);
    stream.on("data", (data: Buffer) => parts.push(data));
    stream.on("end", () => {
      seen.push(messages(Buffer.concat(parts)));
      answer(stream, seen.at(-1)!);
    });
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const client = createGrpcClient({ host: `127.0.0.1:${(server.address() as AddressInfo).port}`, credentials: "k:s" });
  t.after(() => {
    client.close();
    server.close();
  });
  return [client, seen];
}

/** Answers each message with an empty one, and says GOAWAY with the answer: the next call may run into it. */
function leave(stream: ServerHttp2Stream, asked: Buffer[]): void {
  stream.respond({ ":status": 200, "content-type": "application/grpc" }, { waitForTrailers: true });
  stream.on("wantTrailers", () => stream.sendTrailers({ "grpc-status": "0" }));
  for (let each = 0; each < asked.length; each++) stream.write(Buffer.alloc(5));
  stream.end();
  stream.session?.goaway(0);
}

test("calls with one message", async (t) => {
  const [client, seen] = await serving(t, leave);
  for (let call = 0; call < CALLS; call++) await client.generation.generate({});
  for (let call = 0; call < CALLS; call++) for await (const event of client.generation.generateStream({})) assert.ok(event);
  assert.equal(seen.length, 2 * CALLS);
});

test("calls with a stream of messages, which are sent again from the first one", async (t) => {
  const [client, seen] = await serving(t, leave);
  async function* pings(): AsyncGenerator<{ message: { case: "ping"; value: { nonce: bigint } } }> {
    for (let nonce = 1n; nonce <= 6n; nonce++) yield { message: { case: "ping", value: { nonce } } };
  }
  for (let call = 0; call < CALLS; call++) {
    let answers = 0;
    for await (const answer of client.sessions.connect(pings())) answers += answer ? 1 : 0;
    assert.equal(answers, 6);
  }
  assert.equal(new Set(seen[0]!.map(String)).size, 6);
  for (const asked of seen) assert.deepEqual(asked, seen[0]);
  assert.equal(seen.length, CALLS);
});

test("a call that may have been seen is not made again", async (t) => {
  const [client, seen] = await serving(t, (stream) => stream.close(constants.NGHTTP2_INTERNAL_ERROR));
  await assert.rejects(client.generation.generate({}));
  assert.equal(seen.length, 1);
});
