/** Calls that a connection which ends did not begin: they are made again, in whole, and nobody hears of it. Others are not. */
import assert from "node:assert/strict";
import { constants, createServer, type ServerHttp2Session, type ServerHttp2Stream } from "node:http2";
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

type Turn = (stream: ServerHttp2Stream) => void;

/** A gRPC server that turns every other call away, and otherwise answers each message with an empty one; with what it has been asked. */
async function serving(t: TestContext, away: Turn): Promise<[GrpcClient, Buffer[][]]> {
  const asked: Buffer[][] = [];
  const sessions = new Set<ServerHttp2Session>();
  const server = createServer();
  let calls = 0;
  server.on("session", (session) => void sessions.add(session));
  server.on("stream", (stream: ServerHttp2Stream) => {
    stream.on("error", () => undefined);
    calls += 1;
    if (calls % 2) return away(stream);
    const parts: Buffer[] = [];
    stream.on("data", (data: Buffer) => parts.push(data));
    stream.on("end", () => {
      asked.push(messages(Buffer.concat(parts)));
      stream.respond({ ":status": 200, "content-type": "application/grpc" }, { waitForTrailers: true });
      stream.on("wantTrailers", () => stream.sendTrailers({ "grpc-status": "0" }));
      for (let each = 0; each < asked.at(-1)!.length; each++) stream.write(Buffer.alloc(5));
      stream.end();
    });
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const client = createGrpcClient({ host: `127.0.0.1:${(server.address() as AddressInfo).port}`, credentials: "k:s" });
  t.after(() => {
    client.close();
    server.close();
    for (const session of sessions) session.destroy();
  });
  return [client, asked];
}

/** As is said of calls that come while a connection ends: nothing of them has been looked at. */
const refused: Turn = (stream) => stream.close(constants.NGHTTP2_REFUSED_STREAM);

test("calls with one message", async (t) => {
  const [client, asked] = await serving(t, refused);
  for (let call = 0; call < CALLS; call++) await client.generation.generate({});
  for (let call = 0; call < CALLS; call++) for await (const event of client.generation.generateStream({})) assert.ok(event);
  assert.equal(asked.length, 2 * CALLS);
});

test("calls with a stream of messages, which are sent again from the first one", async (t) => {
  const [client, asked] = await serving(t, refused);
  async function* pings(): AsyncGenerator<{ message: { case: "ping"; value: { nonce: bigint } } }> {
    for (let nonce = 1n; nonce <= 6n; nonce++) yield { message: { case: "ping", value: { nonce } } };
  }
  for (let call = 0; call < CALLS; call++) {
    let answers = 0;
    for await (const answer of client.sessions.connect(pings())) answers += answer ? 1 : 0;
    assert.equal(answers, 6);
  }
  assert.equal(new Set(asked[0]!.map(String)).size, 6);
  for (const each of asked) assert.deepEqual(each, asked[0]);
  assert.equal(asked.length, CALLS);
});

test("a call that may have been seen is not made again", async (t) => {
  const [client, asked] = await serving(t, (stream) => stream.close(constants.NGHTTP2_INTERNAL_ERROR));
  await assert.rejects(client.generation.generate({}));
  assert.equal(asked.length, 0);
  await client.generation.generate({});
  assert.equal(asked.length, 1);
});

test("a stream of which too much was sent is not made again", async (t) => {
  const [client, asked] = await serving(t, (stream) => {
    let size = 0;
    stream.on("data", (data: Buffer) => {
      size += data.length;
      if (size > 40_000) stream.close(constants.NGHTTP2_REFUSED_STREAM);
    });
  });
  async function* chunks(): AsyncGenerator<{ message: { case: "chunk"; value: Uint8Array } }> {
    for (let each = 0; each < 100; each++) yield { message: { case: "chunk", value: new Uint8Array(1000) } };
  }
  await assert.rejects(client.storage.upload(chunks()));
  assert.equal(asked.length, 0);
});
