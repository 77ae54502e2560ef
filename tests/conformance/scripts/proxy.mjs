// @fal-ai/server-proxy 1.2.1 between @fal-ai/client and the gateway, as an application's server runs it: the key is the server's, the
// browser has none. The process is started with redirect.mjs, so that client and proxy keep fal's addresses and the default allow-list.

import assert from "node:assert/strict";
import { serve } from "@hono/node-server";
import { createFalClient } from "@fal-ai/client";
import { createHandler } from "@fal-ai/server-proxy/express";
import { createRouteHandler as createHonoHandler } from "@fal-ai/server-proxy/hono";
import { createRouteHandler as createNextHandler } from "@fal-ai/server-proxy/nextjs";
import express from "express";
import { Hono } from "hono";
import { NextRequest } from "next/server.js";
import { onOneOrigin } from "./addresses.mjs";
import { APPLE, BASE, ENDPOINT, KEY, bytes, check, picture, rejection, run, until } from "./harness.mjs";

const ROUTE = "/api/fal/proxy";

/** A browser's client: no key, everything through the route. */
const browser = (port) => createFalClient({ credentials: undefined, proxyUrl: { url: `http://127.0.0.1:${port}${ROUTE}`, when: "always" } });

const byExpress = await listening((ready) => {
  const app = express();
  app.use(express.json());
  app.all(ROUTE, createHandler());
  const server = app.listen(0, "127.0.0.1", () => ready(server.address().port));
});
const byHono = await listening((ready) => {
  const app = new Hono();
  app.all(ROUTE, createHonoHandler({ resolveApiKey: async () => `Key ${KEY}` }));
  serve({ fetch: app.fetch, port: 0, hostname: "127.0.0.1", overrideGlobalObjects: false }, ({ port }) => ready(port));
});
const byNext = await listening((ready) => servedByNext(createNextHandler(), ready));

check("express: subscribe, run", drawing(byExpress));
check("hono: subscribe, run", drawing(byHono));
check("next: subscribe, run", drawing(byNext));

check("express: streaming", streaming(byExpress));
check("hono: streaming", streaming(byHono));
check("next: streaming", streaming(byNext));

check("express: an upload and a File in the input", uploading(byExpress));
check("hono: an upload and a File in the input", uploading(byHono));
check("next: an upload and a File in the input", uploading(byNext));

check("express: cancel", cancelling(byExpress));
check("next: cancel", cancelling(byNext));

check("hono: bad input is a ValidationError", refusing(byHono));
check("next: bad input is a ValidationError", refusing(byNext));

check("express drops the status, so the message has to be in the body", async () => {
  const { data } = await browser(byExpress).run(ENDPOINT, { input: { ...APPLE, num_inference_steps: 99 } });
  assert.deepEqual(data.detail[0].loc, ["body", "num_inference_steps"]);
  assert.match(data.message, /num_inference_steps/);
});

check("next: the gateway's own addresses in place of fal's, as docs/browser.md tells", async () => {
  const { host } = new URL(BASE);
  const route = createNextHandler({
    allowedUrlPatterns: [`${host}/**`],
    isAuthenticated: async (request) => request.getHeader("x-fal-user") === "known",
    allowUnauthorizedRequests: false,
  });
  const port = await listening((ready) => servedByNext(route, ready));
  const page = (headers) =>
    createFalClient({
      credentials: undefined,
      proxyUrl: { url: `http://127.0.0.1:${port}${ROUTE}`, when: "always" },
      requestMiddleware: async (request) => ({ ...request, url: onOneOrigin(BASE, request.url), headers: { ...request.headers, ...headers } }),
    });
  assert.equal((await rejection(page({}).run(ENDPOINT, { input: APPLE }))).status, 401);
  const result = await page({ "x-fal-user": "known" }).subscribe(ENDPOINT, { input: APPLE, pollInterval: 50 });
  return { pictures: [await picture(result.data.images[0], APPLE)] };
});

await run();

/** An app router's route, called as Next calls it. */
function servedByNext(route, ready) {
  const app = async (request) => {
    const body = request.method === "GET" ? undefined : await request.arrayBuffer();
    return route[request.method](new NextRequest(request.url, { method: request.method, headers: request.headers, body }));
  };
  serve({ fetch: app, port: 0, hostname: "127.0.0.1", overrideGlobalObjects: false }, ({ port }) => ready(port));
}

function listening(start) {
  return new Promise(start);
}

function drawing(port) {
  return async () => {
    const fal = browser(port);
    const updates = [];
    const queued = await fal.subscribe(ENDPOINT, { input: APPLE, logs: true, pollInterval: 50, onQueueUpdate: (one) => updates.push(one) });
    assert.ok(updates.at(-1).logs.length > 0);
    const direct = await fal.run(ENDPOINT, { input: APPLE });
    assert.match(direct.requestId, /^[0-9a-f-]{36}$/);
    return { pictures: [await picture(queued.data.images[0], APPLE, { looks: "red" }), await picture(direct.data.images[0], APPLE)] };
  };
}

function streaming(port) {
  return async () => {
    const fal = browser(port);
    const events = [];
    const stream = await fal.stream(ENDPOINT, { input: { ...APPLE, num_inference_steps: 4 } });
    for await (const event of stream) events.push(event);
    const last = await stream.done();
    assert.ok(events.length >= 2);
    return { pictures: [await picture(last.images[0], { ...APPLE, num_inference_steps: 4 })] };
  };
}

function uploading(port) {
  return async () => {
    const fal = browser(port);
    const apple = await bytes((await fal.run(ENDPOINT, { input: { ...APPLE, format: "png" } })).data.images[0]);
    const image_url = new File([apple], "apple.png", { type: "image/png" });
    const result = await fal.subscribe(`${ENDPOINT}/image-to-image`, { input: { ...APPLE, image_url, strength: 0.3 }, pollInterval: 50 });
    return { pictures: [await picture(result.data.images[0], undefined, { looks: "red" })] };
  };
}

function cancelling(port) {
  return async () => {
    const fal = browser(port);
    const { request_id } = await fal.queue.submit(ENDPOINT, { input: { ...APPLE, num_inference_steps: 32, num_images: 8 } });
    await fal.queue.cancel(ENDPOINT, { requestId: request_id });
    const status = await until(async () => {
      const now = await fal.queue.status(ENDPOINT, { requestId: request_id });
      return now.status === "COMPLETED" && now;
    });
    assert.equal(status.error_type, "client_cancelled");
  };
}

function refusing(port) {
  return async () => {
    const error = await rejection(browser(port).subscribe(ENDPOINT, { input: { ...APPLE, num_inference_steps: 99 } }));
    assert.equal(error.status, 422);
    assert.equal(error.getFieldErrors("num_inference_steps").length, 1);
    assert.match(error.message, /num_inference_steps/);
  };
}
