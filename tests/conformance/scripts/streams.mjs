// Server-sent events: the status of a request, and a model's own steps.

import assert from "node:assert/strict";
import { createFalClient } from "@fal-ai/client";
import { fetchOn } from "./addresses.mjs";
import { APPLE, BASE, ENDPOINT, KEY, check, held, picture, rejection, run } from "./harness.mjs";

const fal = createFalClient({ credentials: KEY, fetch: fetchOn(BASE) });
const STEPS = 8;
const SLOW = { ...APPLE, num_inference_steps: STEPS, num_images: 4 };

check("queue.streamStatus ends at COMPLETED and repeats no log line", async () => {
  const requestId = await held(async () => (await fal.queue.submit(ENDPOINT, { input: SLOW })).request_id);
  const stream = await fal.queue.streamStatus(ENDPOINT, { requestId, logs: true });
  const events = [];
  for await (const event of stream) events.push(event);
  const last = await stream.done();
  assert.equal(last.status, "COMPLETED");
  assert.ok(events.every((event) => ["IN_QUEUE", "IN_PROGRESS", "COMPLETED"].includes(event.status)));
  const streamed = events.flatMap((event) => event.logs ?? []).map((log) => log.timestamp + log.message);
  const polled = (await fal.queue.status(ENDPOINT, { requestId, logs: true })).logs.map((log) => log.timestamp + log.message);
  assert.deepEqual(streamed, polled, "each line once, in order, and none is missing");
});

check("subscribe in mode streaming", async () => {
  const updates = [];
  const result = await fal.subscribe(ENDPOINT, {
    input: SLOW,
    mode: "streaming",
    logs: true,
    onQueueUpdate: (update) => updates.push({ status: update.status, logs: [...(update.logs ?? [])] }),
  });
  assert.equal(updates.at(-1).status, "COMPLETED");
  const lines = updates.at(-1).logs.map((log) => log.timestamp + log.message);
  assert.ok(lines.length > 0);
  assert.equal(new Set(lines).size, lines.length, "no line twice");
  return { pictures: [await picture(result.data.images[0], { ...APPLE, num_inference_steps: STEPS })] };
});

check("the stream of a request that is done", async () => {
  const { requestId } = await fal.subscribe(ENDPOINT, { input: APPLE });
  const stream = await fal.queue.streamStatus(ENDPOINT, { requestId, logs: false });
  assert.equal((await stream.done()).status, "COMPLETED");
});

check("the stream of an id that is not there", async () => {
  const stream = await fal.queue.streamStatus(ENDPOINT, { requestId: "764cabcf-b745-4b3e-ae38-1200304cf45b" });
  assert.equal((await rejection(stream.done())).status, 404);
});

check("fal.stream gives steps and ends with the picture", async () => {
  const stream = await fal.stream(ENDPOINT, { input: { ...APPLE, num_inference_steps: STEPS } });
  const events = [];
  for await (const event of stream) events.push(event);
  const last = await stream.done();
  assert.ok(events.length >= 2, "something before the end");
  assert.equal(last.seed, 7);
  return { pictures: [await picture(last.images[0], { ...APPLE, num_inference_steps: STEPS })] };
});

check("fal.stream with a token in place of the key", async () => {
  const tokens = [];
  const watching = async (address, init) => {
    const onRun = String(address).includes("//fal.run/");
    if (onRun) tokens.push(new URL(address).searchParams.get("fal_jwt_token"));
    assert.ok(!onRun || !new Headers(init.headers).has("authorization"));
    return fetchOn(BASE)(address, init);
  };
  const browser = createFalClient({ credentials: KEY, fetch: watching });
  const stream = await browser.stream(ENDPOINT, { input: APPLE, connectionMode: "client" });
  const last = await stream.done();
  assert.ok(tokens.length === 1 && tokens[0]);
  return { pictures: [await picture(last.images[0], APPLE)] };
});

check("fal.stream with a tokenProvider, which is asked with the whole id", async () => {
  const asked = [];
  const browser = createFalClient({ fetch: fetchOn(BASE) });
  const stream = await browser.stream(ENDPOINT, {
    input: APPLE,
    connectionMode: "client",
    tokenProvider: async (app) => {
      asked.push(app);
      const response = await fetchOn(BASE)("https://rest.fal.ai/tokens/realtime", {
        method: "POST",
        headers: { authorization: `Key ${KEY}`, "content-type": "application/json" },
        body: JSON.stringify({ allowed_apps: [app], duration: 60 }),
      });
      return (await response.json()).token;
    },
  });
  const last = await stream.done();
  assert.deepEqual(asked, [`${ENDPOINT}/stream`]);
  return { pictures: [await picture(last.images[0], APPLE)] };
});

check("fal.stream with bad input", async () => {
  const stream = await fal.stream(ENDPOINT, { input: { ...APPLE, num_inference_steps: 99 } });
  const error = await rejection(stream.done());
  assert.equal(error.status, 422);
  assert.match(error.message, /num_inference_steps/);
});

check("a stream that is left stops the drawing", async () => {
  const stream = await fal.stream(ENDPOINT, { input: { ...APPLE, num_inference_steps: 32, num_images: 8 } });
  await new Promise((resolve) => stream.on("data", resolve));
  stream.abort();
  const started = performance.now();
  await fal.run(ENDPOINT, { input: APPLE });
  assert.ok(performance.now() - started < 2500, "the engine is free again");
});

await run();
