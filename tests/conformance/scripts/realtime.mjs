// Realtime of @fal-ai/client: frames, tokens, drops, ends.

import assert from "node:assert/strict";
import WebSocket from "ws";
import { decode } from "@msgpack/msgpack";
import { createFalClient } from "@fal-ai/client";
import { fetchOn, socketOnOneOrigin } from "./addresses.mjs";
import { APPLE, BASE, ENDPOINT, KEY, bytes, check, picture, run, sleep, until } from "./harness.mjs";

const opened = [];
globalThis.WebSocket = class extends WebSocket {
  constructor(address, protocols) {
    super(socketOnOneOrigin(BASE, address), protocols);
    opened.push(this);
    this.on("message", (data, binary) => (this.heard ??= []).push(binary ? decode(data) : JSON.parse(data.toString())));
  }
};

const fal = createFalClient({ credentials: KEY, fetch: fetchOn(BASE) });

/** A connection that remembers what it was told. */
function connected(options = {}, client = fal) {
  const results = [];
  const errors = [];
  const connection = client.realtime.connect(ENDPOINT, {
    throttleInterval: 0,
    onResult: (result) => results.push(result),
    onError: (error) => errors.push(error),
    ...options,
  });
  return { connection, results, errors, socket: () => opened.at(-1) };
}

async function token(allowed = ["fast-lcm-diffusion"]) {
  const response = await fetchOn(BASE)("https://rest.fal.ai/tokens/", {
    method: "POST",
    headers: { authorization: `Key ${KEY}`, "content-type": "application/json" },
    body: JSON.stringify({ allowed_apps: allowed, token_expiration: 120 }),
  });
  assert.equal(response.status, 200);
  const value = await response.json();
  assert.equal(typeof value, "string");
  return value;
}

check("a picture for every prompt, as bytes", async () => {
  const { connection, results, errors } = connected();
  connection.send({ ...APPLE, request_id: "first" });
  await until(() => results.length === 1);
  connection.send({ ...APPLE, prompt: "a green apple", request_id: "second" });
  await until(() => results.length === 2);
  connection.close();
  assert.deepEqual(errors, []);
  assert.deepEqual(results.map((one) => one.request_id), ["first", "second"]);
  const [red, green] = results;
  assert.equal(red.prompt, "a red apple");
  assert.equal(red.seed, 7);
  assert.equal(red.images[0].url, undefined);
  assert.deepEqual(red.has_nsfw_concepts, [false]);
  return {
    pictures: [
      await picture(red.images[0], APPLE, { looks: "red" }),
      await picture(green.images[0], { ...APPLE, prompt: "a green apple" }, { looks: "green" }),
    ],
  };
});

check("close is no error, and the next send connects again", async () => {
  const { connection, results, errors, socket } = connected();
  connection.send(APPLE);
  await until(() => results.length === 1);
  const first = socket();
  connection.close();
  await until(() => first.readyState === WebSocket.CLOSED);
  connection.send(APPLE);
  await until(() => results.length === 2);
  assert.notEqual(socket(), first);
  connection.close();
  await sleep(0.2);
  assert.deepEqual(errors, []);
});

check("a burst ends with the newest frame, and not every frame is drawn", async () => {
  const { connection, results, errors, socket } = connected({ maxBuffering: 1 });
  connection.send({ ...APPLE, request_id: "warm" });
  await until(() => results.length === 1);
  for (let n = 0; n < 30; n++) connection.send({ ...APPLE, num_inference_steps: 8, seed: n, request_id: `burst-${n}` });
  await until(() => results.at(-1).request_id === "burst-29");
  connection.close();
  assert.deepEqual(errors, []);
  assert.ok(results.length < 25, `${results.length} of 31 were drawn`);
  const numbers = results.slice(1).map((one) => Number(one.request_id.split("-")[1]));
  assert.deepEqual(numbers, [...numbers].sort((a, b) => a - b), "never an older one after a newer one");
  assert.match(socket().url, /max_buffering=1/);
});

check("max_buffering keeps so many frames", async () => {
  const { connection, results, errors } = connected({ maxBuffering: 60 });
  connection.send({ ...APPLE, request_id: "warm" });
  await until(() => results.length === 1);
  for (let n = 0; n < 12; n++) connection.send({ ...APPLE, seed: n, request_id: `kept-${n}` });
  await until(() => results.length === 13);
  connection.close();
  assert.deepEqual(errors, []);
  assert.deepEqual(results.slice(1).map((one) => one.request_id), Array.from({ length: 12 }, (_, n) => `kept-${n}`));
});

check("a bad frame is an error that names the field, and ends nothing", async () => {
  const { connection, results, errors } = connected();
  connection.send({ ...APPLE, num_inference_steps: 99 });
  await until(() => errors.length === 1);
  assert.equal(errors[0].status, 400);
  assert.match(errors[0].message, /num_inference_steps/);
  connection.send(APPLE);
  await until(() => results.length === 1);
  connection.close();
  assert.equal(errors.length, 1);
  assert.equal(opened.at(-1).heard.filter((one) => one.type === "x-fal-error").length, 1);
});

check("a picture as raw bytes is an input", async () => {
  const { data } = await fal.run(ENDPOINT, { input: { ...APPLE, format: "png" } });
  const results = [];
  const errors = [];
  const connection = fal.realtime.connect(`${ENDPOINT}/image-to-image`, {
    onResult: (result) => results.push(result),
    onError: (error) => errors.push(error),
  });
  connection.send({ ...APPLE, image_bytes: new Uint8Array(await bytes(data.images[0])), strength: 0.3 });
  await until(() => results.length || errors.length);
  connection.close();
  assert.deepEqual(errors, []);
  return { pictures: [await picture(results[0].images[0], undefined, { looks: "red" })] };
});

check("JSON frames are answered in JSON, with data URIs", async () => {
  const { connection, results, errors, socket } = connected({
    encodeMessage: (input) => JSON.stringify(input),
    decodeMessage: (data) => JSON.parse(data.toString()),
  });
  connection.send({ ...APPLE, request_id: "json" });
  await until(() => results.length || errors.length);
  connection.close();
  assert.deepEqual(errors, []);
  assert.equal(results[0].request_id, "json");
  assert.match(results[0].images[0].url, /^data:image\/jpeg;base64,/);
  assert.equal(results[0].images[0].content, undefined);
  assert.ok(socket().heard.length >= 1);
  return { pictures: [await picture(results[0].images[0], APPLE)] };
});

check("a frame that is neither msgpack nor JSON", async () => {
  const { connection, results, errors } = connected();
  connection.send(new Uint8Array([0xc1, 0xff, 0x00]));
  await until(() => errors.length === 1);
  assert.equal(errors[0].status, 400);
  connection.send(APPLE);
  await until(() => results.length === 1);
  connection.close();
});

check("a tokenProvider is asked with the whole id", async () => {
  const asked = [];
  const { connection, results, errors } = connected({
    tokenProvider: async (app) => {
      asked.push(app);
      const response = await fetchOn(BASE)("https://rest.fal.ai/tokens/realtime", {
        method: "POST",
        headers: { authorization: `Key ${KEY}`, "content-type": "application/json" },
        body: JSON.stringify({ allowed_apps: [app], duration: 60 }),
      });
      return (await response.json()).token;
    },
    tokenExpirationSeconds: 60,
  });
  connection.send(APPLE);
  await until(() => results.length || errors.length);
  connection.close();
  assert.deepEqual(errors, []);
  assert.deepEqual(asked, [`${ENDPOINT}/realtime`]);
});

check("an expired token is said once, and the next send gets a new one", refusing(async () => {
  await until(() => Date.now() / 1000 > Number(process.env.CONFORMANCE_BRIEF_TOKEN_BAD_FROM));
  return process.env.CONFORMANCE_BRIEF_TOKEN;
}));
check("a forged token is said once, and the next send gets a new one", refusing(async () => forged(await token())));
check("a token for another endpoint is said once, and the next send gets a new one", refusing(async () => token(["flux-lora"])));
check("no token at all is said once, and the next send gets a new one", refusing(async () => ""));

check("an idle session is closed quietly, and the next send opens one", async () => {
  const { connection, results, errors, socket } = connected({}, fal);
  connection.send(APPLE);
  await until(() => results.length === 1);
  const first = socket();
  await until(() => first.readyState === WebSocket.CLOSED, 20);
  assert.equal(first.heard.filter((one) => one.error === "TIMEOUT").length, 1);
  connection.send(APPLE);
  await until(() => results.length === 2);
  connection.close();
  assert.deepEqual(errors, []);
}, { seconds: 40 });

await run();

/** A check of what a connection is told whose first token is bad. */
function refusing(bad) {
  return async () => {
    let calls = 0;
    const { connection, results, errors } = connected({ tokenProvider: async () => (++calls === 1 ? bad() : token()) });
    connection.send(APPLE);
    await until(() => errors.length >= 1);
    await sleep(0.3);
    assert.equal(errors.length, 1, errors.map(String).join("; "));
    assert.equal(errors[0].status, 400);
    assert.match(errors[0].message, /^UNAUTHORIZED: .{10,}/);
    assert.deepEqual(results, []);
    connection.send(APPLE);
    await until(() => results.length === 1);
    assert.equal(calls, 2);
    connection.close();
  };
}

function forged(value) {
  const [head, body, signature] = value.split(".");
  if (signature === undefined) return `${value.slice(0, -4)}AAAA`;
  const flipped = signature[0] === "A" ? "B" : "A";
  return [head, body, flipped + signature.slice(1)].join(".");
}
