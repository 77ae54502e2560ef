/** What cannot be made to happen on a real service at will: busy and broken answers, cut connections. */
import assert from "node:assert/strict";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { test, type TestContext } from "node:test";

import { ApiError, BusyError, ConfigurationError, ConnectionError, createClient, DeadlineExceededError, UnavailableError } from "flashbulb";

import { until } from "./service.js";

type Reply = (request: IncomingMessage, response: ServerResponse, body: string) => void;

/** A server that answers each call with the next reply; the test fails if one is not asked for. */
async function scripted(t: TestContext, ...replies: Reply[]): Promise<{ url: string; seen: IncomingMessage[] }> {
  const seen: IncomingMessage[] = [];
  const server = createServer((request, response) => {
    let body = "";
    request.on("data", (chunk) => (body += chunk));
    request.on("end", () => {
      seen.push(request);
      const reply = replies.shift();
      if (reply) reply(request, response, body);
      else response.writeHead(500).end("nothing more in the script");
    });
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  t.after(() => {
    server.closeAllConnections();
    server.close();
    assert.equal(replies.length, 0, "every reply is asked for");
  });
  return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, seen };
}

const json = (status: number, body: unknown, headers: Record<string, string> = {}): Reply => (_request, response) =>
  void response.writeHead(status, { "content-type": "application/json", ...headers }).end(JSON.stringify(body));
const cut: Reply = (request) => request.socket.destroy();
const queued = json(200, { status: "IN_QUEUE", request_id: "r1", queue_position: 0 });
const busy = (seconds: string): Reply => json(429, { detail: "full", error_type: "queue_full" }, { "retry-after": seconds });
const input = { prompt: "a red apple" };
const id = "fast-lcm-diffusion";

test("a submission is repeated with one key over all attempts", async (t) => {
  const { url, seen } = await scripted(t, cut, json(503, { detail: "no" }), busy("0.01"), queued);
  const { request_id } = await createClient({ url, credentials: "k:s" }).queue.submit(id, { input });
  assert.equal(request_id, "r1");
  const keys = seen.map((request) => request.headers["idempotency-key"]);
  assert.equal(new Set(keys).size, 1);
  assert.match(String(keys[0]), /^[0-9a-f]{32}$/);
  assert.deepEqual(seen.map((request) => request.url), Array(4).fill("/queue/fal-ai/fast-lcm-diffusion"));
  assert.equal(seen[0]?.headers.authorization, "Key k:s");
});

test("a submission that is aborted before its answer came is found by its key and cancelled", async (t) => {
  const stop = new AbortController();
  const { url, seen } = await scripted(t, () => stop.abort(new Error("the user left")), queued, json(202, { status: "CANCELLATION_REQUESTED" }));
  const pending = createClient({ url }).subscribe(id, { input, abortSignal: stop.signal });
  await assert.rejects(pending, /the user left/);
  assert.equal(seen[0]?.headers["idempotency-key"], seen[1]?.headers["idempotency-key"]);
  assert.deepEqual([seen[2]?.method, seen[2]?.url], ["PUT", "/queue/fal-ai/fast-lcm-diffusion/requests/r1/cancel"]);
});

test("the server's delay is kept, and one beyond the deadline is not waited for", async (t) => {
  const { url } = await scripted(t, busy("0.3"), queued, busy("90"));
  const client = createClient({ url, timeout: 5_000 });
  let start = performance.now();
  await client.queue.submit(id, { input });
  assert.ok(performance.now() - start >= 300);
  start = performance.now();
  const error = await client.queue.submit(id, { input }).catch((reason: unknown) => reason);
  assert.ok(error instanceof BusyError && error.retryAfter === 90 && error.retryable, String(error));
  assert.ok(performance.now() - start < 2_000);
});

test("a direct call is not repeated where it may have been drawn", async (t) => {
  const { url } = await scripted(t, cut, json(502, "<html>nginx</html>"), busy("0.01"), json(200, { images: [] }, { "x-fal-request-id": "r2" }));
  const client = createClient({ url });
  await assert.rejects(client.run(id, { input }), ConnectionError);
  await assert.rejects(client.run(id, { input }), (error) => error instanceof UnavailableError && error.status === 502);
  const result = await client.run(id, { input });
  assert.equal(result.requestId, "r2");
});

test("the server's word on retrying goes over the status", async (t) => {
  const { url } = await scripted(t, json(503, { detail: "for good", message: "for good" }, { "x-fal-needs-retry": "0" }));
  const error = await createClient({ url }).queue.status(id, { requestId: "r1" }).catch((reason: unknown) => reason);
  assert.ok(error instanceof UnavailableError && !error.retryable && error.message === "for good");
});

test("a server that answers nothing is given up after the client's time", async (t) => {
  const { url } = await scripted(t, () => undefined);
  await assert.rejects(createClient({ url, timeout: 200 }).queue.status(id, { requestId: "r1" }), DeadlineExceededError);
});

const event = (status: object): string => `data: ${JSON.stringify({ request_id: "r1", ...status })}\n\n`;
const line = (message: string): object => ({ message, timestamp: "", level: "INFO", source: "USER" });

test("a status stream that breaks is taken up again, and no log line comes twice", async (t) => {
  const running = event({ status: "IN_PROGRESS", logs: [line("one")] });
  const { url, seen } = await scripted(
    t,
    (_request, response) => {
      response.writeHead(200, { "content-type": "text/event-stream" });
      response.write(`: hello\n\n${running.slice(0, 20)}`);
      setTimeout(() => {
        response.write(running.slice(20));
        setTimeout(() => response.destroy(), 20);
      }, 20);
    },
    (_request, response) => {
      response.writeHead(200, { "content-type": "text/event-stream" });
      response.end(running + event({ status: "COMPLETED", logs: [line("two")], metrics: {} }));
    },
  );
  const lengths: number[] = [];
  const status = await createClient({ url }).queue.subscribeToStatus(id, {
    requestId: "r1",
    logs: true,
    onQueueUpdate: (update) => "logs" in update && lengths.push(update.logs.length),
  });
  assert.deepEqual(status.logs.map((each) => each.message), ["one", "two"]);
  assert.deepEqual(lengths, [1, 1, 2]);
  assert.deepEqual(seen.map((request) => request.url), Array(2).fill("/queue/fal-ai/fast-lcm-diffusion/requests/r1/status/stream?logs=1"));
});

test("through a proxy, calls carry the real address and no key", async (t) => {
  const { url, seen } = await scripted(t, queued);
  const client = createClient({ url: "http://service:1", credentials: "k:s", proxyUrl: { url: `${url}/api/proxy`, when: "always" } });
  await client.queue.submit(id, { input, webhookUrl: "https://me/hook?a=1" });
  const [request] = seen;
  assert.equal(request?.url, "/api/proxy");
  assert.equal(request.headers["x-fal-target-url"], "http://service:1/queue/fal-ai/fast-lcm-diffusion?fal_webhook=https%3A%2F%2Fme%2Fhook%3Fa%3D1");
  assert.equal(request.headers.authorization, undefined);
});

test("options become headers", async (t) => {
  const { url, seen } = await scripted(t, queued);
  const options = { input, priority: "low", hint: "warm", startTimeout: 12.5, idempotencyKey: "mine", headers: { "x-fal-no-retry": "1" } } as const;
  await createClient({ url }).queue.submit("flux-lora/inpainting", { ...options, input: { ...input, image_url: "data:,", mask_url: "data:," } });
  const names = ["x-fal-queue-priority", "x-fal-runner-hint", "x-fal-request-timeout", "idempotency-key", "x-fal-no-retry"];
  assert.deepEqual(names.map((name) => seen[0]?.headers[name]), ["low", "warm", "12.5", "mine", "1"]);
  assert.equal(seen[0]?.url, "/queue/fal-ai/flux-lora/inpainting");
});

test("bytes are uploaded, the same bytes once, and links take their place", async (t) => {
  let [submitted, put] = ["", ""];
  const { url, seen } = await scripted(
    t,
    (request, response) => json(200, { upload_url: `http://${request.headers.host}/put/a`, file_url: "https://files/a" })(request, response, ""),
    (request, response, body) => {
      put = body;
      json(200, {})(request, response, body);
    },
    (request, response, body) => {
      submitted = body;
      queued(request, response, body);
    },
  );
  const picture = new Uint8Array(Buffer.from("bytes of a picture"));
  const client = createClient({ url, credentials: "k:s" });
  await client.queue.submit("omnigen-v1", { input: { ...input, input_image_urls: [picture, "https://there", picture] } });
  assert.deepEqual(JSON.parse(submitted).input_image_urls, ["https://files/a", "https://there", "https://files/a"]);
  assert.equal(put, "bytes of a picture");
  assert.deepEqual([seen[1]?.method, seen[1]?.headers.authorization], ["PUT", undefined], "the key goes to the service alone");
});

test("what cannot be called is said before a call", async () => {
  await assert.rejects(createClient({ url: "service:8080" }).queue.submit(id, { input }), ConfigurationError);
  await assert.rejects(createClient({}).queue.status(id, { requestId: "" }), ConfigurationError);
});

test("a session that is closed asks for no token any more", async (t) => {
  let [asked, ended] = [false, false];
  const { url } = await scripted(t, (request) => {
    asked = true;
    request.socket.on("close", () => (ended = true));
  });
  const session = createClient({ url, credentials: "k:s" }).realtime.connect(id, { onResult: () => undefined });
  session.send(input);
  await until(() => asked, "the request of a token");
  session.close();
  await until(() => ended, "the end of the request");
});

test("an answer that is no JSON is an error with its text", async (t) => {
  const { url } = await scripted(t, (_request, response) => void response.writeHead(418).end("a teapot"));
  const error = await createClient({ url }).queue.status(id, { requestId: "r1" }).catch((reason: unknown) => reason);
  assert.ok(error instanceof ApiError && error.status === 418 && error.body === "a teapot");
});
