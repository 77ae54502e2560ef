// What @fal-ai/client sees when the service's processes are lost. Has a service of its own.

import assert from "node:assert/strict";
import WebSocket from "ws";
import { createFalClient } from "@fal-ai/client";
import { fetchOn, socketOnOneOrigin } from "./addresses.mjs";
import { APPLE, BASE, ENDPOINT, KEY, LONG, check, control, picture, run, sleep, until } from "./harness.mjs";

let socket;
globalThis.WebSocket = class extends WebSocket {
  constructor(address, protocols) {
    super(socketOnOneOrigin(BASE, address), protocols);
    socket = this;
  }
};

const fal = createFalClient({ credentials: KEY, fetch: fetchOn(BASE) });

check("realtime is answered again after the api was lost", async () => {
  const results = [];
  const errors = [];
  const connection = fal.realtime.connect(ENDPOINT, {
    throttleInterval: 0,
    onResult: (result) => results.push(result),
    onError: (error) => errors.push(error),
  });
  connection.send(APPLE);
  await until(() => results.length === 1);
  const first = socket;
  await control("kill-api");
  await until(() => first.readyState === WebSocket.CLOSED);
  assert.equal(errors[0].status, 1006, "the loss is said");
  const drawn = await until(async () => {
    connection.send(APPLE);
    await sleep(0.3);
    return results[1];
  }, 60);
  connection.close();
  return { pictures: [await picture(drawn.images[0], APPLE)] };
}, { seconds: 110 });

check("a subscriber outlives the api", async () => {
  let requestId;
  const waiting = fal.subscribe(ENDPOINT, { input: LONG, pollInterval: 100, onEnqueue: (id) => (requestId = id) });
  await until(() => requestId);
  await control("kill-api");
  const result = await waiting;
  assert.equal(result.requestId, requestId);
  return { pictures: [await picture(result.data.images[0], { ...APPLE, num_inference_steps: 32 })] };
}, { seconds: 110 });

check("a request outlives the worker", async () => {
  const { request_id } = await fal.queue.submit(ENDPOINT, { input: LONG });
  await until(async () => (await fal.queue.status(ENDPOINT, { requestId: request_id })).status === "IN_PROGRESS");
  await control("kill-worker");
  const status = await fal.queue.subscribeToStatus(ENDPOINT, { requestId: request_id, pollInterval: 100 });
  assert.equal(status.error, undefined);
  const result = await fal.queue.result(ENDPOINT, { requestId: request_id });
  return { pictures: [await picture(result.data.images[0], { ...APPLE, num_inference_steps: 32 })] };
}, { seconds: 110 });

await run();
