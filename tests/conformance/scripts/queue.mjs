// The queue of @fal-ai/client, its failures and its retries.

import assert from "node:assert/strict";
import { createFalClient, ApiError, ValidationError } from "@fal-ai/client";
import { fetchOn } from "./addresses.mjs";
import { APPLE, BASE, ENDPOINT, FAULTS, KEY, LONG, check, control, held, picture, rejection, run, until } from "./harness.mjs";

const fal = createFalClient({ credentials: KEY, fetch: fetchOn(BASE) });
const faulty = createFalClient({ credentials: KEY, fetch: fetchOn(FAULTS) });

const authorized = { headers: { authorization: `Key ${KEY}` } };

const status = (requestId, more = {}) => fal.queue.status(ENDPOINT, { requestId, ...more });
const completed = (requestId) => until(async () => (await status(requestId)).status === "COMPLETED");

check("a direct run", async () => {
  const result = await fal.run(ENDPOINT, { input: APPLE });
  assert.match(result.requestId, /^[0-9a-f-]{36}$/);
  assert.equal(result.data.seed, 7);
  return { pictures: [await picture(result.data.images[0], APPLE, { looks: "red" })] };
});

check("four pictures, png, as links", async () => {
  const input = { ...APPLE, num_images: 4, format: "png", sync_mode: false };
  const { data } = await fal.subscribe(ENDPOINT, { input });
  assert.equal(data.images.length, 4);
  assert.ok(data.images.every((image) => /^http/.test(image.url) && image.content_type === "image/png"));
  const pictures = data.images.map((image, index) => picture(image, { ...APPLE, format: "png", seed: 7 + index }));
  return { pictures: await Promise.all(pictures) };
});

check("the answer to a submit", async () => {
  const answer = await fal.queue.submit(ENDPOINT, { input: APPLE });
  assert.equal(answer.status, "IN_QUEUE");
  assert.ok(Number.isInteger(answer.queue_position) && answer.queue_position >= 0);
  const own = `${BASE}/queue/${ENDPOINT}/requests/${answer.request_id}`;
  assert.deepEqual(
    [answer.response_url, answer.status_url, answer.cancel_url],
    [own, `${own}/status`, `${own}/cancel`],
  );
  await completed(answer.request_id);
});

check("status: queued, running, completed", async () => {
  const seen = [];
  const requestId = await held(async () => {
    const first = await fal.queue.submit(ENDPOINT, { input: LONG });
    const second = await fal.queue.submit(ENDPOINT, { input: APPLE });
    const now = await status(second.request_id, { logs: true });
    assert.equal(now.status, "IN_QUEUE");
    assert.ok(now.queue_position >= 0 && now.queue_position <= 1, `position ${now.queue_position}`);
    assert.equal((await fetchOn(BASE)(`https://queue.fal.run/${ENDPOINT}/requests/${second.request_id}/status`, authorized)).status, 202);
    return first.request_id;
  });
  await until(async () => {
    const now = await status(requestId, { logs: true });
    if (seen.at(-1)?.status !== now.status) seen.push(now);
    return now.status === "COMPLETED";
  });
  const names = seen.map((one) => one.status);
  assert.deepEqual(names.slice(-2), ["IN_PROGRESS", "COMPLETED"]);
  assert.ok(seen.at(-1).logs.length >= seen.at(-2).logs.length, "polled logs are cumulative");
  assert.ok(seen.at(-1).metrics.inference_time > 0);
  assert.equal((await status(requestId)).logs, null, "no logs unless asked");
});

check("the result of a request that is not done", async () => {
  await held(async () => {
    const { request_id } = await fal.queue.submit(ENDPOINT, { input: APPLE });
    const error = await rejection(fal.queue.result(ENDPOINT, { requestId: request_id }));
    assert.equal(error.status, 400);
    assert.match(error.body.detail, /in progress|not (yet )?(done|finished|completed)/i);
    await fal.queue.cancel(ENDPOINT, { requestId: request_id });
  });
});

check("cancel of a queued request", async () => {
  await held(async () => {
    const { request_id } = await fal.queue.submit(ENDPOINT, { input: APPLE });
    await fal.queue.cancel(ENDPOINT, { requestId: request_id });
    const now = await until(async () => {
      const answer = await status(request_id);
      return answer.status === "COMPLETED" && answer;
    });
    assert.match(now.error, /cancel/i);
    assert.equal(now.error_type, "client_cancelled");
    const error = await rejection(fal.queue.result(ENDPOINT, { requestId: request_id }));
    assert.equal(error.status, 499);
    assert.equal(error.body.error_type, "client_cancelled");
    assert.match(error.message, /cancel/i);
  });
});

check("cancel of a running request", async () => {
  const { request_id } = await fal.queue.submit(ENDPOINT, { input: LONG });
  await until(async () => (await status(request_id)).status === "IN_PROGRESS");
  const started = performance.now();
  await fal.queue.cancel(ENDPOINT, { requestId: request_id });
  await completed(request_id);
  assert.ok(performance.now() - started < 2000, "it stops at the next step");
  assert.equal((await rejection(fal.queue.result(ENDPOINT, { requestId: request_id }))).status, 499);
});

check("cancel of a request that is done", async () => {
  const { request_id } = await fal.queue.submit(ENDPOINT, { input: APPLE });
  await completed(request_id);
  const error = await rejection(fal.queue.cancel(ENDPOINT, { requestId: request_id }));
  assert.equal(error.status, 400);
  assert.equal(error.body.status, "ALREADY_COMPLETED");
  assert.equal((await fal.queue.result(ENDPOINT, { requestId: request_id })).data.seed, 7, "its result is still there");
});

check("subscribe with a client's timeout cancels", async () => {
  const requestId = await held(async () => {
    let requestId;
    const waiting = fal.subscribe(ENDPOINT, { input: APPLE, timeout: 300, pollInterval: 50, onEnqueue: (id) => (requestId = id) });
    const error = await rejection(waiting);
    assert.match(error.message, /timed out/);
    return requestId;
  });
  await completed(requestId);
  assert.equal((await rejection(fal.queue.result(ENDPOINT, { requestId }))).status, 499);
});

check("a start timeout is the user's own 504 and is not retried", async () => {
  await held(async () => {
    const { request_id } = await fal.queue.submit(ENDPOINT, { input: APPLE, startTimeout: 1.1 });
    await until(async () => (await status(request_id)).status === "COMPLETED");
    const started = performance.now();
    const error = await rejection(fal.queue.result(ENDPOINT, { requestId: request_id }));
    assert.equal(error.status, 504);
    assert.equal(error.isUserTimeout, true);
    assert.ok(performance.now() - started < 900, "a retry would take a second");
    assert.equal(error.body.error_type, "request_timeout");
    assert.match(error.message, /start|time/i);
  });
});

check("bad input is a ValidationError that names every field, at submit", async () => {
  const input = { prompt: "", num_inference_steps: 99, image_size: { width: 0, height: 128 }, guidance_scale: "much" };
  for (const call of [() => fal.queue.submit(ENDPOINT, { input }), () => fal.run(ENDPOINT, { input })]) {
    const error = await rejection(call());
    assert.ok(error instanceof ValidationError && error instanceof ApiError);
    assert.equal(error.status, 422);
    const fields = error.fieldErrors.map(({ loc }) => loc.join("."));
    assert.deepEqual(fields.sort(), ["body.guidance_scale", "body.image_size.width", "body.num_inference_steps", "body.prompt"]);
    const [steps] = error.getFieldErrors("num_inference_steps");
    assert.equal(steps.type, "less_than_equal");
    assert.equal(steps.ctx.le, 32);
    assert.ok(error.fieldErrors.every(({ msg, type, url }) => msg && type && url.endsWith(`#${type}`)));
    assert.match(error.message, /num_inference_steps/, "the message says more than Unprocessable Entity");
    assert.match(error.requestId, /^[0-9a-f-]{36}$/);
  }
});

check("a missing prompt", async () => {
  const error = await rejection(fal.subscribe(ENDPOINT, { input: {} }));
  assert.deepEqual(error.fieldErrors[0].loc, ["body", "prompt"]);
  assert.equal(error.fieldErrors[0].type, "missing");
});

check("a picture that cannot be read is said of its field", async () => {
  const fail = async (image_url) =>
    (await rejection(fal.subscribe(`${ENDPOINT}/image-to-image`, { input: { ...APPLE, image_url } }))).fieldErrors[0];
  const unreadable = await fail("data:image/png;base64,aGVsbG8=");
  assert.deepEqual(unreadable.loc, ["body", "image_url"]);
  assert.equal(unreadable.type, "image_load_error");
  const missing = await fail("http://127.0.0.1:1/none.png");
  assert.deepEqual(missing.loc, ["body", "image_url"]);
  assert.equal(missing.type, "file_download_error");
});

check("an endpoint that does not exist", async () => {
  for (const call of [fal.queue.submit("fal-ai/none-such", { input: APPLE }), fal.run("fal-ai/none-such", { input: APPLE })]) {
    const error = await rejection(call);
    assert.equal(error.status, 404);
    assert.match(error.message, /none-such/);
  }
});

check("no key, a wrong key, a key in the wrong form", async () => {
  const say = async (credentials) => {
    const client = createFalClient({ credentials, fetch: fetchOn(BASE) });
    const error = await rejection(client.queue.submit(ENDPOINT, { input: APPLE }));
    assert.equal(error.status, 401);
    assert.ok(error.message.length > 10 && error.body.detail);
  };
  await say(() => undefined);
  await say("tester:wrong");
  await say("no-colon");
});

check("requests of another key are not found", async () => {
  const { request_id } = await fal.queue.submit(ENDPOINT, { input: APPLE });
  const stranger = createFalClient({ credentials: process.env.CONFORMANCE_OTHER_KEY, fetch: fetchOn(BASE) });
  for (const call of ["status", "result", "cancel"]) {
    assert.equal((await rejection(stranger.queue[call](ENDPOINT, { requestId: request_id }))).status, 404, call);
  }
  await completed(request_id);
});

check("priority, hint, lifecycle and headers of one's own are taken", async () => {
  const { request_id } = await fal.queue.submit(ENDPOINT, {
    input: APPLE,
    priority: "low",
    hint: "warm-one",
    storageSettings: { expiresIn: "1h", initialAcl: { default: "allow" } },
    headers: { "X-Fal-No-Retry": "1", "x-my-own": "1" },
  });
  await completed(request_id);
  const { data } = await fal.queue.result(ENDPOINT, { requestId: request_id });
  return { pictures: [await picture(data.images[0], APPLE)] };
});

check("low priority waits for normal", async () => {
  const finished = [];
  const ids = await held(async () => {
    const low = [];
    for (let n = 0; n < 3; n++) low.push((await fal.queue.submit(ENDPOINT, { input: { ...LONG, seed: n }, priority: "low" })).request_id);
    const normal = (await fal.queue.submit(ENDPOINT, { input: APPLE })).request_id;
    assert.equal((await status(normal)).queue_position, 0, "it is ahead of the low ones");
    for (const requestId of low.slice(1)) await fal.queue.cancel(ENDPOINT, { requestId });
    return [low[0], normal];
  });
  await Promise.all(ids.map(async (id) => (await completed(id), finished.push(id))));
  assert.deepEqual(finished, [ids[1], ids[0]]);
});

check("a service that is away twice is asked three times", async () => {
  await control("faults?answers=503,503");
  const result = await faulty.subscribe(ENDPOINT, { input: APPLE });
  const { requests } = await control("faults?answers=");
  assert.deepEqual(requests.slice(0, 3).map(({ answered }) => answered), [503, 503, 200]);
  return { pictures: [await picture(result.data.images[0], APPLE)] };
});

check("a submit whose answer is lost is sent twice, and drawn once if it has an Idempotency-Key", async () => {
  const ids = async (headers) => {
    await control("faults?answers=lost");
    const { request_id } = await faulty.queue.submit(ENDPOINT, { input: APPLE, headers });
    const { requests } = await control("faults?answers=");
    await completed(request_id);
    assert.equal(requests.length, 2);
    assert.equal(requests[1].request_id, request_id);
    return requests.map((request) => request.request_id);
  };
  const key = { "Idempotency-Key": crypto.randomUUID() };
  const [first, second] = await ids(key);
  assert.equal(first, second);
  const apart = await ids({ "Idempotency-Key": crypto.randomUUID() });
  assert.notEqual(apart[0], first);
});

check("an Idempotency-Key with another input is refused, and not with 409", async () => {
  const headers = { "Idempotency-Key": crypto.randomUUID() };
  const { request_id } = await fal.queue.submit(ENDPOINT, { input: APPLE, headers });
  const error = await rejection(fal.queue.submit(ENDPOINT, { input: { ...APPLE, seed: 8 }, headers }));
  assert.equal(error.status, 422); // 409 would be hammered by fal's Python client
  assert.match(error.message, /idempotency/i);
  await completed(request_id);
});

check("status and result under the full id, with a slash, and as /response", async () => {
  const i2i = await fal.queue.submit(ENDPOINT, { input: APPLE });
  await completed(i2i.request_id);
  for (const path of ["/status", "/status/", "", "/", "/response"]) {
    const response = await fetchOn(BASE)(`https://queue.fal.run/${ENDPOINT}/requests/${i2i.request_id}${path}`, authorized);
    assert.equal(response.status, 200, path);
    await response.arrayBuffer();
  }
  const deep = await fetchOn(BASE)(`https://queue.fal.run/${ENDPOINT}/image-to-image/requests/${i2i.request_id}/status`, authorized);
  assert.ok([200, 404].includes(deep.status), `${deep.status}`);
});

check("a browser's preflight and the headers it may read", async () => {
  const asked = "authorization,content-type,x-fal-queue-priority,x-fal-request-timeout,x-fal-runner-hint,x-fal-object-lifecycle-preference,idempotency-key";
  const headers = { origin: "https://app.example", "access-control-request-method": "POST", "access-control-request-headers": asked };
  const preflight = await fetchOn(BASE)(`https://queue.fal.run/${ENDPOINT}`, { method: "OPTIONS", headers });
  assert.ok(preflight.ok, `${preflight.status}`);
  const allowed = preflight.headers.get("access-control-allow-headers").toLowerCase();
  assert.ok(allowed === "*" || asked.split(",").every((name) => allowed.includes(name)), allowed);
  const answer = await fetchOn(BASE)(`https://fal.run/${ENDPOINT}`, {
    method: "POST",
    headers: { ...authorized.headers, "content-type": "application/json", origin: "https://app.example" },
    body: JSON.stringify(APPLE),
  });
  assert.ok(["*", "https://app.example"].includes(answer.headers.get("access-control-allow-origin")));
  assert.match(answer.headers.get("access-control-expose-headers").toLowerCase(), /x-fal-request-id/);
  await answer.arrayBuffer();
});

await run();
