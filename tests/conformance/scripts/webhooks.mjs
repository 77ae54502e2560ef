// A receiver of webhooks as fal describes it for JavaScript: libsodium and the published keys, five minutes of tolerance.

import assert from "node:assert/strict";
import crypto from "node:crypto";
import http from "node:http";
import sodium from "libsodium-wrappers";
import { createFalClient } from "@fal-ai/client";
import { fetchOn } from "./addresses.mjs";
import { APPLE, BASE, ENDPOINT, KEY, check, picture, run, sleep, until } from "./harness.mjs";

const fal = createFalClient({ credentials: KEY, fetch: fetchOn(BASE) });
const JWKS = "https://rest.fal.ai/.well-known/jwks.json";
await sodium.ready;

/** The receiver's side, from the public description alone. */
async function verified(headers, body, now = Date.now() / 1000) {
  const [requestId, userId, timestamp, signature] = ["request-id", "user-id", "timestamp", "signature"].map((name) => headers[`x-fal-webhook-${name}`]);
  if (![requestId, userId, timestamp, signature].every(Boolean)) return false;
  if (Math.abs(now - Number.parseInt(timestamp, 10)) > 300) return false;
  const digest = crypto.createHash("sha256").update(body).digest("hex");
  const message = Buffer.from([requestId, userId, timestamp, digest].join("\n"), "utf-8");
  const { keys } = await (await fetchOn(BASE)(JWKS)).json();
  return keys.some(({ x }) => {
    try {
      return sodium.crypto_sign_verify_detached(Buffer.from(signature, "hex"), message, Buffer.from(x, "base64url"));
    } catch {
      return false;
    }
  });
}

const deliveries = [];
let failures = 0;
const receiver = http.createServer(async (request, response) => {
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  const body = Buffer.concat(chunks);
  const answered = failures-- > 0 ? 500 : 200;
  deliveries.push({ path: request.url, headers: request.headers, body, json: JSON.parse(body), answered });
  response.writeHead(answered).end();
});
await new Promise((ready) => receiver.listen(0, "127.0.0.1", ready));
const url = (path) => `http://127.0.0.1:${receiver.address().port}${path}`;
const arrived = (path, count = 1) =>
  until(() => {
    const found = deliveries.filter((one) => one.path === path);
    return found.length >= count && found;
  });

check("a result is delivered and signed", async () => {
  const { request_id } = await fal.queue.submit(ENDPOINT, { input: APPLE, webhookUrl: url("/done?who=me&what=a%20b") });
  const [{ json, headers, body }] = await arrived("/done?who=me&what=a%20b");
  assert.deepEqual([json.request_id, json.gateway_request_id, json.status], [request_id, request_id, "OK"]);
  assert.equal(headers["x-fal-webhook-request-id"], request_id);
  assert.equal(await verified(headers, body), true);
  const polled = (await fal.queue.result(ENDPOINT, { requestId: request_id })).data;
  assert.equal(json.payload.seed, polled.seed);
  await sleep(1);
  assert.equal(deliveries.filter((one) => one.json.request_id === request_id).length, 1, "once");
  return { pictures: [await picture(json.payload.images[0], APPLE)] };
});

check("a failure is delivered with its reason", async () => {
  const input = { ...APPLE, image_url: "http://127.0.0.1:1/none.png" };
  const { request_id } = await fal.queue.submit(`${ENDPOINT}/image-to-image`, { input, webhookUrl: url("/failed") });
  const [{ json, headers, body }] = await arrived("/failed");
  assert.deepEqual([json.request_id, json.status], [request_id, "ERROR"]);
  assert.match(json.error, /422/);
  assert.deepEqual(json.payload.detail[0].loc, ["body", "image_url"]);
  assert.equal(await verified(headers, body), true);
});

check("a receiver that fails twice gets it a third time", async () => {
  failures = 2;
  const { request_id } = await fal.queue.submit(ENDPOINT, { input: APPLE, webhookUrl: url("/retried") });
  const found = await arrived("/retried", 3);
  assert.deepEqual(found.map(({ answered }) => answered), [500, 500, 200]);
  assert.ok(found.every(({ json }) => json.request_id === request_id));
  for (const { headers, body } of found) assert.equal(await verified(headers, body), true);
});

check("a changed body, an old timestamp, another's signature do not pass", async () => {
  const [{ headers, body }] = await arrived("/done?who=me&what=a%20b");
  const changed = Buffer.from(body.toString().replace('"seed":7', '"seed":8').replace('"seed": 7', '"seed": 8'));
  assert.notDeepEqual(changed, body);
  assert.equal(await verified(headers, body), true);
  assert.equal(await verified(headers, changed), false);
  assert.equal(await verified(headers, body, Date.now() / 1000 + 301), false);
  assert.equal(await verified({ ...headers, "x-fal-webhook-timestamp": `${Number(headers["x-fal-webhook-timestamp"]) + 1}` }, body), false);
  assert.equal(await verified({ ...headers, "x-fal-webhook-user-id": "somebody-else" }, body), false);
  const { privateKey } = sodium.crypto_sign_keypair();
  const forged = Buffer.from(sodium.crypto_sign_detached(Buffer.from("x"), privateKey)).toString("hex");
  assert.equal(await verified({ ...headers, "x-fal-webhook-signature": forged }, body), false);
});

await run();
