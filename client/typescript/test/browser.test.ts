/** The package in a real browser, in a page of another origin than the service. */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { text } from "node:stream/consumers";
import { test } from "node:test";

import { build } from "esbuild";

import { APPLE, ENDPOINT, KEY, URL_ } from "./service.js";

const CHROMIUM = ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"].find((path) => existsSync(path));
const root = new URL("..", import.meta.url).pathname;

/** What the page does; it reports what it saw. */
const SCRIPT = `
import { fal, ValidationError } from "flashbulb";

const report = { warnings: [] };
console.warn = (text) => report.warnings.push(String(text));
const done = () => fetch("/done", { method: "POST", body: JSON.stringify(report) });
addEventListener("error", (event) => { report.failure = event.message; done(); });
const size = (url) => new Promise((resolve, reject) => {
  const image = new Image();
  image.onload = () => resolve([image.width, image.height]);
  image.onerror = () => reject(new Error("no picture: " + url.slice(0, 80)));
  image.src = url;
});

async function realtime(key, prompts) {
  const results = [];
  const errors = [];
  await new Promise((resolve) => {
    const session = fal.realtime.connect(ENDPOINT, {
      connectionKey: key,
      throttleInterval: 0,
      onResult: (result, info) => { results.push(result); if (info.frameId === prompts.length) { session.close(); resolve(); } },
      onError: (error) => { errors.push(String(error)); resolve(); },
    });
    for (const prompt of prompts) session.send({ ...APPLE, prompt });
  });
  const picture = results.at(-1)?.images[0];
  const shown = picture && await size(URL.createObjectURL(new Blob([picture.content], { type: picture.content_type })));
  return { errors, shown, prompt: results.at(-1)?.prompt, binary: picture?.content instanceof Uint8Array };
}

try {
  fal.config({ url: SERVICE, credentials: KEY });
  const states = [];
  const result = await fal.subscribe(ENDPOINT, { input: APPLE, logs: true, onQueueUpdate: (update) => states.push(update.status) });
  report.subscribe = { id: result.requestId, size: await size(result.data.images[0].url), first: states[0], last: states.at(-1) };
  const direct = await fal.run(ENDPOINT, { input: APPLE });
  report.run = { id: direct.requestId, size: await size(direct.data.images[0].url) };
  report.invalid = await fal.queue.submit(ENDPOINT, { input: { num_images: 77 } }).catch((error) => [
    error instanceof ValidationError, error.requestId !== undefined, error.errorType, error.fieldErrors.length,
  ]);
  report.realtime = await realtime("one", ["a", "b", "c"]);
  const blob = await (await fetch(direct.data.images[0].url)).blob();
  const file = new File([blob], "apple.jpeg", { type: "image/jpeg" });
  const other = await fal.run(ENDPOINT + "/image-to-image", { input: { ...APPLE, prompt: "a green apple", image_url: file } });
  report.uploaded = await size(other.data.images[0].url);
  report.text = await (await fetch(await fal.storage.upload(new File(["Hello, World!"], "hello.txt", { type: "text/plain" })))).text();
  const stream = await fal.stream(ENDPOINT, { input: APPLE });
  report.stream = (await stream.done()).images.length;
} catch (error) {
  report.failure = String(error?.stack ?? error);
}
done();
`;

async function page(): Promise<string> {
  const define = { ENDPOINT: JSON.stringify(ENDPOINT), SERVICE: JSON.stringify(URL_), KEY: JSON.stringify(KEY), APPLE: JSON.stringify(APPLE) };
  const { outputFiles } = await build({
    stdin: { contents: SCRIPT, resolveDir: root }, bundle: true, format: "esm", platform: "browser", write: false, define, tsconfigRaw: "{}",
  });
  return outputFiles[0]!.text;
}

/** Opens a page in Chromium and waits for what it reports. */
async function report(script: string): Promise<Record<string, unknown>> {
  const profile = await mkdtemp(`${tmpdir()}/flashbulb-page-`);
  let told: (value: Record<string, unknown>) => void = () => undefined;
  const reported = new Promise<Record<string, unknown>>((resolve) => (told = resolve));
  const server = createServer(async (request, response) => {
    if (request.method === "POST") told(JSON.parse(await text(request)));
    const isScript = request.url === "/page.js";
    response.writeHead(200, { "content-type": isScript ? "text/javascript" : "text/html" });
    response.end(isScript ? script : '<!doctype html><script type="module" src="/page.js"></script>');
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", `--user-data-dir=${profile}`];
  const browser = spawn(CHROMIUM!, [...options, `http://127.0.0.1:${(server.address() as AddressInfo).port}/`], { stdio: "ignore" });
  const silent = new Promise<never>((_, reject) => setTimeout(() => reject(new Error("the page reported nothing")), 80_000).unref());
  try {
    return await Promise.race([reported, silent]);
  } finally {
    const gone = new Promise((resolve) => browser.once("exit", resolve));
    browser.kill();
    await gone;
    server.closeAllConnections();
    server.close();
    await rm(profile, { recursive: true, force: true, maxRetries: 5 });
  }
}

test("a page draws, watches, uploads and draws as somebody types", { skip: !CHROMIUM && "there is no Chromium" }, async () => {
  const seen = await report(await page());
  assert.equal(seen["failure"], undefined);
  const { id, ...subscribed } = seen["subscribe"] as { id: string };
  assert.match(id, /^[0-9a-f-]{36}$/);
  assert.deepEqual(subscribed, { size: [128, 128], first: "IN_QUEUE", last: "COMPLETED" });
  assert.match((seen["run"] as { id: string }).id, /^[0-9a-f-]{36}$/, "the header may be read by pages of other origins");
  assert.deepEqual(seen["invalid"], [true, true, "missing", 2]);
  assert.deepEqual(seen["realtime"], { errors: [], shown: [128, 128], prompt: "c", binary: true });
  assert.deepEqual([seen["uploaded"], seen["text"], seen["stream"]], [[128, 128], "Hello, World!", 1]);
  assert.equal((seen["warnings"] as string[]).length, 1, "the key in the page is warned of, once");
});
