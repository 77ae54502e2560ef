/** Realtime sessions over WebSocket, against the real service. */
import assert from "node:assert/strict";
import { test } from "node:test";

import {
  AuthenticationError, createClient, type DroppedFrame, type FlashbulbError, type Preview, RealtimeError, type RealtimeOutput,
} from "flashbulb";

import { relay } from "./relay.js";
import { APPLE, assertJpeg, client, ENDPOINT, fetched, KEY, SLOW, until, URL_ } from "./service.js";

/** What a session told. */
class Heard {
  readonly results: [number, RealtimeOutput][] = [];
  readonly errors: FlashbulbError[] = [];
  readonly dropped: DroppedFrame<unknown>[] = [];
  readonly handlers = {
    throttleInterval: 0,
    onResult: (result: RealtimeOutput, { frameId }: { frameId: number }) => void this.results.push([frameId, result]),
    onError: (error: FlashbulbError) => void this.errors.push(error),
    onDropped: (dropped: DroppedFrame<unknown>) => void this.dropped.push(dropped),
  };

  async result(id: number): Promise<RealtimeOutput> {
    await until(() => this.results.some(([each]) => each === id), `the picture of frame ${id} (${this.errors.join()})`);
    return this.results.find(([each]) => each === id)![1];
  }
}

async function token(apps = ["fast-lcm-diffusion"], seconds = 120): Promise<string> {
  const response = await fetch(`${URL_}/rest/tokens/`, {
    method: "POST",
    headers: { authorization: `Key ${KEY}`, "content-type": "application/json" },
    body: JSON.stringify({ allowed_apps: apps, token_expiration: seconds }),
  });
  assert.ok(response.ok, String(response.status));
  return (await response.json()) as string;
}

test("a session draws what was sent, as a direct call does", async () => {
  const heard = new Heard();
  const previews: Preview[] = [];
  const session = client().realtime.connect(ENDPOINT, { ...heard.handlers, onPreview: (preview) => previews.push(preview) });
  session.send({ ...APPLE, request_id: "mine" });
  const { images, seed, prompt, request_id, model_name } = await heard.result(1);
  assert.deepEqual([seed, prompt, request_id, images[0]?.width], [7, "a red apple", "mine", 128]);
  assert.equal(model_name, "flashbulb/tiny");
  const direct = await client().run(ENDPOINT, { input: APPLE });
  assert.equal(direct.data.model_name, model_name);
  assert.deepEqual(images[0]?.content, await fetched(direct.data.images[0]!.url));
  assert.ok(previews.length > 0);
  assertJpeg(previews[0]!.content);
  session.send({ ...APPLE });
  assert.equal("request_id" in (await heard.result(2)), false);
  session.close();
});

test("of frames that come faster than they are drawn, the newest is drawn and the others are told", async () => {
  const heard = new Heard();
  const session = client().realtime.connect(ENDPOINT, heard.handlers);
  session.send(APPLE);
  await heard.result(1);
  for (let n = 0; n < 20; n++) session.update({ prompt: `apple ${n}` });
  assert.equal((await heard.result(21)).prompt, "apple 19");
  assert.equal(heard.results.length + heard.dropped.length, 21, "every frame is answered");
  assert.ok(heard.dropped.length >= 10 && heard.dropped.every(({ reason }) => reason === "superseded"));
  session.close();
});

test("a frame is the whole input, whatever came before it", async () => {
  const heard = new Heard();
  const session = client().realtime.connect(ENDPOINT, heard.handlers);
  const { num_inference_steps: _, ...whole } = APPLE;
  session.send(whole);
  const { images } = await heard.result(1);
  session.send({ ...whole, num_inference_steps: 2, guidance_scale: 9, negative_prompt: "dogs", format: "png" });
  assert.equal((await heard.result(2)).images[0]?.content_type, "image/png");
  session.send(whole);
  assert.deepEqual((await heard.result(3)).images[0], images[0]);
  session.close();
});

test("a frame that is refused is told, by its fields, and leaves no trace", async () => {
  const heard = new Heard();
  const session = client().realtime.connect(ENDPOINT, heard.handlers);
  session.send({ ...APPLE, num_inference_steps: 99 });
  await until(() => heard.errors.length === 1, "the refusal");
  assert.ok(heard.errors[0] instanceof RealtimeError);
  assert.deepEqual(heard.errors[0].fieldErrors.map((each) => each.loc), [["body", "num_inference_steps"]]);
  session.send(APPLE);
  await heard.result(2);
  session.send({ ...APPLE, prompt: "" });
  await until(() => heard.errors.length === 2, "the refusal of a frame between good ones");
  session.send({ ...APPLE, format: "png" });
  assert.equal((await heard.result(4)).prompt, "a red apple");
  assert.deepEqual(heard.dropped.map(({ frameId, reason }) => [frameId, reason]), [[1, "invalid"], [3, "invalid"]]);
  session.close();
});

test("a connection that breaks is taken up again: one late picture, the same seed", async () => {
  const between = await relay(new URL(URL_).host);
  const heard = new Heard();
  const session = createClient({ url: `http://${between.address}`, credentials: KEY }).realtime.connect(ENDPOINT, heard.handlers);
  const { seed: _, ...whole } = APPLE;
  session.send(whole);
  const { seed } = await heard.result(1);
  between.open(false);
  between.cut();
  session.send({ ...whole, prompt: "a green apple" });
  await new Promise((resolve) => setTimeout(resolve, 300));
  assert.equal(heard.results.length, 1);
  between.open(true);
  const after = await heard.result(2);
  assert.deepEqual([after.seed, after.prompt, heard.errors], [seed, "a green apple", []]);
  session.close();
  between.close();
});

test("connections of one key are one connection, and the last handlers hear of it", async () => {
  const between = await relay(new URL(URL_).host);
  const flash = createClient({ url: `http://${between.address}` });
  const provide = { tokenProvider: () => token(), connectionKey: "canvas" };
  const [one, two] = [new Heard(), new Heard()];
  flash.realtime.connect(ENDPOINT, { ...one.handlers, ...provide }).send(APPLE);
  await one.result(1);
  const session = flash.realtime.connect("fast-lcm-diffusion", { ...two.handlers, ...provide });
  session.send(APPLE);
  await two.result(2);
  assert.deepEqual([one.results.length, between.count()], [1, 1], "tokens come another way, so one socket is one connection");
  session.close();
  const three = new Heard();
  const next = flash.realtime.connect(ENDPOINT, { ...three.handlers, ...provide });
  next.send(APPLE);
  await three.result(1);
  assert.equal(between.count(), 2);
  next.close();
  between.close();
});

test("a token opens a session without a key, and one that is over is fetched anew, unnoticed", async () => {
  const heard = new Heard();
  const asked: string[] = [];
  const tokens = [await token(["fast-lcm-diffusion"], 1), await token()];
  const between = await relay(new URL(URL_).host);
  const session = createClient({ url: `http://${between.address}` }).realtime.connect(ENDPOINT, {
    ...heard.handlers,
    tokenProvider: async (app) => tokens[Math.min(asked.push(app), 2) - 1]!, // used until it is refused
  });
  session.send(APPLE);
  await heard.result(1);
  await new Promise((resolve) => setTimeout(resolve, 8_000)); // the server lets clocks differ by 5 s, and a token ends at a whole second
  between.cut();
  session.send(APPLE);
  await heard.result(2);
  assert.deepEqual([asked, heard.errors], [Array(2).fill(`${ENDPOINT}/realtime`), []]);
  session.close();
  between.close();
});

test("a wrong key and a wrong token are told once, with a reason", async () => {
  const wrong = new Heard();
  createClient({ url: URL_, credentials: "nobody:nothing" }).realtime.connect(ENDPOINT, wrong.handlers).send(APPLE);
  await until(() => wrong.errors.length > 0, "the refusal of the key");
  assert.ok(wrong.errors[0] instanceof AuthenticationError, String(wrong.errors[0]));
  const broken = new Heard();
  const session = createClient({ url: URL_ }).realtime.connect(ENDPOINT, { ...broken.handlers, tokenProvider: async () => "broken" });
  session.send(APPLE);
  await until(() => broken.errors.length > 0, "the refusal of the token");
  await new Promise((resolve) => setTimeout(resolve, 300));
  assert.deepEqual(broken.errors.map((error) => (error as RealtimeError).code), ["UNAUTHORIZED"]);
  assert.deepEqual(broken.dropped.map(({ reason }) => reason), ["failed"]);
  const elsewhere = new Heard();
  const other = await token(["flux-lora"]);
  createClient({ url: URL_ }).realtime.connect(ENDPOINT, { ...elsewhere.handlers, tokenProvider: async () => other }).send(APPLE);
  await until(() => elsewhere.errors.length > 0, "the refusal of another endpoint's token");
});

test("pictures are given as bytes in any form", async () => {
  const direct = await client().run(ENDPOINT, { input: APPLE });
  const bytes = await fetched(direct.data.images[0]!.url);
  const heard = new Heard();
  const session = client().realtime.connect(`${ENDPOINT}/image-to-image`, heard.handlers);
  const whole = { ...APPLE, prompt: "a green apple", strength: 0.5 };
  session.send({ ...whole, image_url: bytes });
  const first = await heard.result(1);
  session.send({ ...whole, image_url: new Blob([bytes as Uint8Array<ArrayBuffer>]) });
  assert.deepEqual((await heard.result(2)).images, first.images);
  session.send({ ...whole, image_url: direct.data.images[0]!.url });
  assert.deepEqual((await heard.result(3)).images, first.images);
  session.send({ ...whole, image_url: new Uint8Array(17 * 1024 * 1024) });
  await until(() => heard.errors.length === 1, "the refusal of a large frame");
  assert.match(heard.errors[0]!.message, /upload/);
  session.close();
});

test("a frame whose picture does not differ is dropped by option, with several frames in flight", async () => {
  const direct = await client().run(ENDPOINT, { input: APPLE });
  const heard = new Heard();
  const options = { ...heard.handlers, similarImageThreshold: 0, maxFramesInFlight: 2 };
  const session = client().realtime.connect(`${ENDPOINT}/image-to-image`, options);
  const whole = { ...APPLE, prompt: "a green apple", strength: 0.5, image_url: direct.data.images[0]!.url };
  session.send(whole);
  await heard.result(1);
  session.send(whole);
  await until(() => heard.dropped.length === 1, "the second frame to be dropped");
  assert.deepEqual([heard.dropped[0]!.frameId, heard.dropped[0]!.reason], [2, "similar"]);
  session.send({ ...whole, prompt: "a blue apple" });
  await heard.result(3);
  assert.deepEqual(heard.errors, []);
  session.close();
});

test("a session that is closed is gone, and stops drawing", async () => {
  const heard = new Heard();
  const session = client().realtime.connect(ENDPOINT, heard.handlers);
  session.send(SLOW);
  await new Promise((resolve) => setTimeout(resolve, 300));
  session.close();
  assert.throws(() => session.send(APPLE), RealtimeError);
  const other = client().realtime.connect(ENDPOINT, heard.handlers);
  other.send(APPLE);
  await heard.result(1);
  assert.deepEqual([heard.results.length, heard.errors], [1, []]);
  other.close();
});

test("where a page is made on a server, nothing is connected", () => {
  const session = client().realtime.connect(ENDPOINT, { onResult: () => assert.fail("no connection"), clientOnly: true });
  assert.equal(session.send(APPLE), 0);
  session.close();
});
