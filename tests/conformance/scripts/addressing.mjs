// The ways to lead @fal-ai/client to a gateway, other than `fetch` with prefixes, which the other scripts use.

import assert from "node:assert/strict";
import http from "node:http";
import WebSocket from "ws";
import { createFalClient } from "@fal-ai/client";
import { SURFACES, onOneOrigin } from "./addresses.mjs";
import { APPLE, BASE, ENDPOINT, KEY, bytes, check, picture, rejection, run, until } from "./harness.mjs";

/** fetch that reaches the gateway under fal's own names, as a reverse proxy with TLS before it would. */
async function byHost(address, init = {}) {
  const url = new URL(address);
  if (!SURFACES[url.host]) return fetch(address, init);
  const headers = { ...Object.fromEntries(new Headers(init.headers)), host: url.host, "x-forwarded-proto": "https" };
  const body = init.body === undefined ? undefined : Buffer.from(await new Response(init.body).arrayBuffer());
  return new Promise((resolve, reject) => {
    const request = http.request(BASE + url.pathname + url.search, { method: init.method, headers }, async (answer) => {
      const chunks = [];
      for await (const chunk of answer) chunks.push(chunk);
      resolve(new Response(Buffer.concat(chunks), { status: answer.statusCode, statusText: answer.statusMessage, headers: answer.headers }));
    });
    request.on("error", reject);
    request.end(body);
  });
}

globalThis.WebSocket = class extends WebSocket {
  constructor(address) {
    const url = new URL(address);
    super(`${BASE.replace(/^http/, "ws")}${url.pathname}${url.search}`, { headers: { host: url.host, "x-forwarded-proto": "https" } });
  }
};

const named = createFalClient({ credentials: KEY, fetch: byHost });

check("real host names: subscribe", async () => {
  const result = await named.subscribe(ENDPOINT, { input: APPLE, pollInterval: 50 });
  return { pictures: [await picture(result.data.images[0], APPLE)] };
});

check("real host names: links are under the names", async () => {
  const answer = await named.queue.submit(ENDPOINT, { input: APPLE });
  assert.equal(answer.status_url, `https://queue.fal.run/${ENDPOINT}/requests/${answer.request_id}/status`);
  const url = await named.storage.upload(new File(["Hello, World!"], "hello.txt", { type: "text/plain" }));
  assert.match(url, /^https:\/\/v3b?\.fal\.media\//);
  assert.equal(await (await byHost(url)).text(), "Hello, World!");
});

check("real host names: realtime", async () => {
  const results = [];
  const errors = [];
  const connection = named.realtime.connect(ENDPOINT, { onResult: (one) => results.push(one), onError: (one) => errors.push(one) });
  connection.send(APPLE);
  await until(() => results.length || errors.length);
  connection.close();
  assert.deepEqual(errors, []);
  return { pictures: [await picture(results[0].images[0], APPLE)] };
});

check("requestMiddleware", async () => {
  const fal = createFalClient({
    credentials: KEY,
    requestMiddleware: async (request) => ({ ...request, url: onOneOrigin(BASE, request.url) }),
  });
  const result = await fal.subscribe(ENDPOINT, { input: APPLE, pollInterval: 50 });
  const url = await fal.storage.upload(new File(["Hello, World!"], "hello.txt", { type: "text/plain" }));
  assert.equal((await bytes({ url })).toString(), "Hello, World!");
  return { pictures: [await picture(result.data.images[0], APPLE)] };
});

const proxied = createFalClient({ credentials: KEY, proxyUrl: { url: `${BASE}/api/fal/proxy`, when: "always" } });

check("the gateway's own proxy: queue and run", async () => {
  const queued = await proxied.subscribe(ENDPOINT, { input: APPLE, pollInterval: 50, logs: true });
  const direct = await proxied.run(ENDPOINT, { input: APPLE });
  return { pictures: [await picture(queued.data.images[0], APPLE), await picture(direct.data.images[0], APPLE)] };
});

check("the gateway's own proxy: streams", async () => {
  const stream = await proxied.stream(ENDPOINT, { input: APPLE });
  const last = await stream.done();
  const streamed = await proxied.subscribe(ENDPOINT, { input: APPLE, mode: "streaming" });
  return { pictures: [await picture(last.images[0], APPLE), await picture(streamed.data.images[0], APPLE)] };
});

check("the gateway's own proxy: errors keep their status, cancel works", async () => {
  const error = await rejection(proxied.subscribe(ENDPOINT, { input: { ...APPLE, num_inference_steps: 99 } }));
  assert.equal(error.status, 422);
  const { requestId } = await proxied.subscribe(ENDPOINT, { input: APPLE, pollInterval: 50 });
  assert.equal((await rejection(proxied.queue.cancel(ENDPOINT, { requestId }))).body.status, "ALREADY_COMPLETED");
});

check("the gateway's own proxy: uploads and tokens", async () => {
  const url = await proxied.storage.upload(new File(["Hello, World!"], "hello.txt", { type: "text/plain" }));
  assert.equal((await bytes({ url })).toString(), "Hello, World!");
  const response = await fetch(`${BASE}/api/fal/proxy`, {
    method: "POST",
    headers: { authorization: `Key ${KEY}`, "content-type": "application/json", "x-fal-target-url": "https://rest.fal.ai/tokens/" },
    body: JSON.stringify({ allowed_apps: ["fast-lcm-diffusion"], token_expiration: 60 }),
  });
  assert.equal(typeof (await response.json()), "string");
});

check("the gateway's own proxy: what it refuses", async () => {
  const ask = (target, authorization = `Key ${KEY}`) =>
    fetch(`${BASE}/api/fal/proxy`, {
      headers: { ...(target && { "x-fal-target-url": target }), ...(authorization && { authorization }) },
    });
  assert.equal((await ask(undefined)).status, 400);
  assert.equal((await ask("https://example.com/")).status, 400, "it reaches nothing but the gateway itself");
  assert.equal((await ask("http://169.254.169.254/latest")).status, 400);
  assert.equal((await ask(`https://queue.fal.run/${ENDPOINT}/requests/764cabcf-b745-4b3e-ae38-1200304cf45b/status`, "")).status, 401);
});

await run();
