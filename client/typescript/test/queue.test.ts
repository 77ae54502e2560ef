/** The queue and direct calls, against the real service. */
import assert from "node:assert/strict";
import { test } from "node:test";

import {
  ApiError, AuthenticationError, CancelledError, createClient, DeadlineExceededError, ExpiredError, NotFinishedError, NotFoundError,
  type QueueStatus, ValidationError,
} from "flashbulb";

import { APPLE, assertJpeg, client, ENDPOINT, fetched, OTHER_KEY, SLOW, URL_ } from "./service.js";

for (const mode of ["streaming", "polling"] as const) {
  test(`subscribe hears every state and resolves to the picture (${mode})`, async () => {
    const updates: QueueStatus[] = [];
    let enqueued = "";
    const result = await client().subscribe(ENDPOINT, {
      input: APPLE,
      mode,
      pollInterval: 20,
      logs: true,
      onEnqueue: (id) => (enqueued = id),
      onQueueUpdate: (update) => updates.push(update),
    });
    assert.equal(result.requestId, enqueued);
    assert.equal(updates[0]?.status, "IN_QUEUE");
    const last = updates.at(-1);
    assert.ok(last?.status === "COMPLETED");
    assert.equal(last.outcome, "OK");
    const lines = last.logs.map((line) => line.message);
    assert.equal(new Set(lines).size, lines.length, "no line twice");
    assert.ok(lines.length >= 2 && lines.some((line) => line.startsWith("started")), lines.join());
    const [image] = result.data.images;
    assertJpeg(await fetched(image!.url));
    assert.deepEqual([image!.width, image!.height, image!.content_type], [128, 128, "image/jpeg"]);
    assert.deepEqual([result.data.seed, result.data.prompt, result.data.has_nsfw_concepts], [7, "a red apple", [false]]);
  });
}

test("run draws the same picture as the queue, by the plain id as well", async () => {
  const direct = await client().run("fast-lcm-diffusion", { input: APPLE });
  const queued = await client().subscribe(ENDPOINT, { input: APPLE });
  assert.ok(direct.requestId);
  assert.deepEqual(await fetched(direct.data.images[0]!.url), await fetched(queued.data.images[0]!.url));
});

test("stream yields what happens and ends with the pictures", async () => {
  const stream = await client().stream(ENDPOINT, { input: APPLE });
  const events: unknown[] = [];
  for await (const event of stream) events.push(event);
  assert.ok(events.length >= 2, "progress before the pictures");
  const { images } = (await stream.done()) as { images: { url: string }[] };
  assertJpeg(await fetched(images[0]!.url));
  assert.equal(await stream.done(), events.at(-1));
});

test("bad fields are named at the submission, each", async () => {
  const input = { prompt: "", num_images: 77, num_inference_steps: 0 };
  const error = await client().queue.submit(ENDPOINT, { input }).catch((reason: unknown) => reason);
  assert.ok(error instanceof ValidationError);
  assert.deepEqual(error.fieldErrors.map((each) => each.loc.at(-1)).sort(), ["num_images", "num_inference_steps", "prompt"]);
  assert.equal(error.getFieldErrors("num_images")[0]?.type, "less_than_equal");
  assert.match(error.message, /num_images/);
  assert.deepEqual([error.status, error.retryable], [422, false]);
  assert.ok(error.requestId && error.errorType);
});

test("the same idempotency key gives the same request, another call another one", async () => {
  const { queue } = client();
  const same = { input: APPLE, idempotencyKey: `key-${Date.now()}` };
  const [one, two, other] = await Promise.all([
    queue.submit(ENDPOINT, same), queue.submit(ENDPOINT, same), queue.submit(ENDPOINT, { input: APPLE }),
  ]);
  assert.equal(one.request_id, two.request_id);
  assert.notEqual(one.request_id, other.request_id);
  const clash = queue.submit(ENDPOINT, { ...same, input: { ...APPLE, seed: 8 } });
  await assert.rejects(clash, (error) => error instanceof ApiError && error.errorType === "idempotency_key_reused");
});

test("a request is not finished, then cancelled, then over", async () => {
  const { queue } = client();
  const { request_id: requestId } = await queue.submit(ENDPOINT, { input: SLOW });
  await assert.rejects(queue.result(ENDPOINT, { requestId }), NotFinishedError);
  await queue.cancel(ENDPOINT, { requestId });
  const status = await queue.subscribeToStatus(ENDPOINT, { requestId });
  assert.deepEqual([status.status, status.outcome, status.error_type], ["COMPLETED", "ERROR", "client_cancelled"]);
  await assert.rejects(queue.result(ENDPOINT, { requestId }), (error) => error instanceof CancelledError && error.requestId === requestId);
  await assert.rejects(queue.cancel(ENDPOINT, { requestId }), (error) => error instanceof ApiError && error.status === 400);
});

test("a subscription that takes too long cancels its request", async () => {
  const flash = client();
  const error = await flash.subscribe(ENDPOINT, { input: SLOW, timeout: 400 }).catch((reason: unknown) => reason);
  assert.ok(error instanceof DeadlineExceededError && error.requestId, String(error));
  const status = await flash.queue.subscribeToStatus(ENDPOINT, { requestId: error.requestId });
  assert.equal(status.error_type, "client_cancelled");
});

test("an abort rejects with its reason and cancels the request", async () => {
  const flash = client();
  const stop = new AbortController();
  const reason = new Error("the user left");
  let requestId = "";
  const options = { input: SLOW, abortSignal: stop.signal, onEnqueue: (id: string) => (requestId = id) };
  const pending = flash.subscribe(ENDPOINT, { ...options, onQueueUpdate: (update) => update.status === "IN_PROGRESS" && stop.abort(reason) });
  assert.equal(await pending.catch((error: unknown) => error), reason);
  const status = await flash.queue.subscribeToStatus(ENDPOINT, { requestId });
  assert.equal(status.error_type, "client_cancelled");
});

test("a direct call is given up after its time", async () => {
  await assert.rejects(client().run(ENDPOINT, { input: SLOW, timeout: 300 }), DeadlineExceededError);
});

test("a request that does not start in time expires", async () => {
  const flash = client();
  const busy = await Promise.all([1, 2, 3].map(() => flash.queue.submit(ENDPOINT, { input: SLOW })));
  const late = await flash.queue.submit(ENDPOINT, { input: APPLE, startTimeout: 0.2, priority: "low" });
  const requestId = late.request_id;
  const status = await flash.queue.subscribeToStatus(ENDPOINT, { requestId });
  if (status.outcome === "ERROR") {
    await assert.rejects(flash.queue.result(ENDPOINT, { requestId }), (error) => error instanceof ExpiredError && !error.retryable);
  }
  await Promise.all(busy.map(({ request_id }) => flash.queue.cancel(ENDPOINT, { requestId: request_id }).catch(() => undefined)));
  assert.equal(status.outcome, "ERROR", "three slow requests were before it");
});

test("a key that nobody knows, a request of another key, an endpoint that does not exist", async () => {
  const wrong = createClient({ url: URL_, credentials: "nobody:nothing" });
  await assert.rejects(wrong.queue.submit(ENDPOINT, { input: APPLE }), AuthenticationError);
  const { request_id: requestId } = await client().queue.submit(ENDPOINT, { input: APPLE });
  const other = createClient({ url: URL_, credentials: () => Promise.resolve(OTHER_KEY) });
  await assert.rejects(other.queue.status(ENDPOINT, { requestId }), NotFoundError);
  await assert.rejects(other.queue.submit("fal-ai/no-such-endpoint", { input: {} }), NotFoundError);
});
