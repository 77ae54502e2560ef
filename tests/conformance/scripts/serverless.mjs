// @fal-ai/serverless-client 0.15.0, which the page still names: no `data` around results, tokens and uploads at rest.alpha.fal.ai.

import assert from "node:assert/strict";
import * as fal from "@fal-ai/serverless-client";
import WebSocket from "ws";
import { fetchOn, socketOnOneOrigin } from "./addresses.mjs";
import { APPLE, BASE, ENDPOINT, KEY, LONG, bytes, check, held, picture, rejection, run, sleep, until } from "./harness.mjs";

globalThis.WebSocket = class extends WebSocket {
  constructor(address, protocols) {
    super(socketOnOneOrigin(BASE, address), protocols);
  }
};

fal.config({ credentials: KEY, fetch: fetchOn(BASE) });

check("subscribe with logs", async () => {
  const updates = [];
  const result = await fal.subscribe(ENDPOINT, {
    input: APPLE,
    logs: true,
    pollInterval: 50,
    onQueueUpdate: (update) => updates.push(update),
  });
  assert.equal(updates.at(-1).status, "COMPLETED");
  assert.ok(updates.at(-1).logs.length > 0);
  return { pictures: [await picture(result.images[0], APPLE, { looks: "red" })] };
});

check("subscribe in mode streaming", async () => {
  const updates = [];
  const result = await fal.subscribe(ENDPOINT, { input: APPLE, logs: true, mode: "streaming", onQueueUpdate: (one) => updates.push([...(one.logs ?? [])]) });
  const lines = updates.at(-1).map((log) => log.timestamp + log.message);
  assert.ok(lines.length > 0 && new Set(lines).size === lines.length);
  return { pictures: [await picture(result.images[0], APPLE)] };
});

check("run and stream", async () => {
  const direct = await fal.run(ENDPOINT, { input: APPLE });
  const stream = await fal.stream(ENDPOINT, { input: APPLE });
  const last = await stream.done();
  return { pictures: [await picture(direct.images[0], APPLE), await picture(last.images[0], APPLE)] };
});

check("queue.submit, status, result", async () => {
  const { request_id } = await fal.queue.submit(ENDPOINT, { input: APPLE });
  await until(async () => (await fal.queue.status(ENDPOINT, { requestId: request_id })).status === "COMPLETED");
  const result = await fal.queue.result(ENDPOINT, { requestId: request_id });
  return { pictures: [await picture(result.images[0], APPLE)] };
});

check("a sub-path given apart from the id", async () => {
  const apple = await bytes((await fal.run(ENDPOINT, { input: { ...APPLE, format: "png" } })).images[0]);
  const image_url = `data:image/png;base64,${apple.toString("base64")}`;
  const result = await fal.run(ENDPOINT, { path: "/image-to-image", input: { ...APPLE, image_url, strength: 0.3 } });
  return { pictures: [await picture(result.images[0], undefined, { looks: "red" })] };
});

check("queue.cancel", async () => {
  await held(async () => {
    const { request_id } = await fal.queue.submit(ENDPOINT, { input: LONG });
    await fal.queue.cancel(ENDPOINT, { requestId: request_id });
    assert.equal((await rejection(fal.queue.result(ENDPOINT, { requestId: request_id }))).status, 499);
  });
});

check("storage.upload, and a File in the input", async () => {
  const url = await fal.storage.upload(new File(["Hello, World!"], "hello.txt", { type: "text/plain" }));
  assert.equal((await bytes({ url })).toString(), "Hello, World!");
  const apple = await bytes((await fal.run(ENDPOINT, { input: { ...APPLE, format: "png" } })).images[0]);
  const image_url = new File([apple], "apple.png", { type: "image/png" });
  const result = await fal.subscribe(`${ENDPOINT}/image-to-image`, { input: { ...APPLE, image_url, strength: 0.3 } });
  return { pictures: [await picture(result.images[0], undefined, { looks: "red" })] };
});

check("bad input is a ValidationError", async () => {
  const error = await rejection(fal.subscribe(ENDPOINT, { input: { ...APPLE, num_inference_steps: 99 } }));
  assert.ok(error instanceof fal.ValidationError);
  assert.equal(error.getFieldErrors("num_inference_steps").length, 1);
  assert.match(error.message, /num_inference_steps/);
});

check("realtime.connect", async () => {
  const results = [];
  const errors = [];
  const connection = fal.realtime.connect(ENDPOINT, {
    throttleInterval: 0,
    onResult: (result) => results.push(result),
    onError: (error) => errors.push(error),
  });
  connection.send(APPLE);
  await until(() => results.length === 1 || errors.length);
  connection.send({ ...APPLE, request_id: "mine" });
  await until(() => results.length === 2 || errors.length);
  connection.close();
  assert.deepEqual(errors, []);
  assert.match(results[0].request_id, /^[0-9a-f-]{36}$/, "this client gives frames an id of its own");
  assert.equal(results[1].request_id, "mine");
  return { pictures: [await picture(results[0].images[0], APPLE)] };
});

check("realtime: a refused token is said once, and the next send gets a new one", async () => {
  let tokens = 0;
  const badAtFirst = async (address, init) => {
    const answer = await fetchOn(BASE)(address, init);
    if (!String(address).endsWith("/tokens/") || ++tokens > 1) return answer;
    const token = await answer.json();
    return Response.json(`${token.slice(0, -8)}AAAAAAAA`);
  };
  fal.config({ credentials: KEY, fetch: badAtFirst });
  const results = [];
  const errors = [];
  const connection = fal.realtime.connect(ENDPOINT, { throttleInterval: 0, onResult: (one) => results.push(one), onError: (one) => errors.push(one) });
  connection.send(APPLE);
  await until(() => errors.length === 1);
  assert.match(errors[0].message, /^UNAUTHORIZED: .{10,}/);
  await sleep(0.3);
  connection.send(APPLE);
  await until(() => results.length === 1);
  assert.deepEqual([errors.length, tokens], [1, 2]);
  connection.close();
});

await run();
