/** The snippets of the README: they are those of the original page, they compile, and they run. */
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { text } from "node:stream/consumers";
import { test } from "node:test";
import { promisify } from "node:util";

import { APPLE, ENDPOINT, HOST, KEY, until, URL_ } from "./service.js";

const run = promisify(execFile);
const root = new URL("..", import.meta.url).pathname;
const snippets = [...(await readFile(`${root}/README.md`, "utf8")).matchAll(/```ts\n(.*?)```/gs)].map((match) => match[1]!);
const page = snippets.filter((snippet) => snippet.includes('from "flashbulb"'));

/** The snippets of the original page, word for word but for white space. */
const ORIGINAL = [
  `import { fal } from "@fal-ai/client";
const result = await fal.subscribe("fal-ai/fast-lcm-diffusion", {
input: {
prompt: "Self-portrait oil painting, a beautiful cyborg with golden hair, 8k."
},
logs: true,
onQueueUpdate: (update) => {
if (update.status === "IN_PROGRESS") {
update.logs.map((log) => log.message).forEach(console.log);
}
},
});
console.log(result.data);
console.log(result.requestId);`,
  `import { fal } from "@fal-ai/client";
const connection = fal.realtime.connect("fal-ai/fast-lcm-diffusion", {
onResult: (result) => {
console.log(result);
},
onError: (error) => {
console.error(error);
}
});
connection.send({
prompt: "Self-portrait oil painting, a beautiful cyborg with golden hair, 8k."
});`,
  `import { fal } from "@fal-ai/client";
fal.config({
credentials: "YOUR_FAL_KEY"
});`,
  `import { fal } from "@fal-ai/client";
const { request_id } = await fal.queue.submit("fal-ai/fast-lcm-diffusion", {
input: {
prompt: "Self-portrait oil painting, a beautiful cyborg with golden hair, 8k."
},
webhookUrl: "https://optional.webhook.url/for/results",
});`,
  `import { fal } from "@fal-ai/client";
const status = await fal.queue.status("fal-ai/fast-lcm-diffusion", {
requestId: "764cabcf-b745-4b3e-ae38-1200304cf45b",
logs: true,
});`,
  `import { fal } from "@fal-ai/client";
const result = await fal.queue.result("fal-ai/fast-lcm-diffusion", {
requestId: "764cabcf-b745-4b3e-ae38-1200304cf45b"
});
console.log(result.data);
console.log(result.requestId);`,
  `import { fal } from "@fal-ai/client";
const file = new File(["Hello, World!"], "hello.txt", { type: "text/plain" });
const url = await fal.storage.upload(file);`,
];
const bare = (text: string): string => text.replace(/\s+/g, " ").trim();

test("they are the original page's with import and address changed, and nothing else", () => {
  const changed = page.map((snippet) => snippet.replace('"flashbulb"', '"@fal-ai/client"').replace(/ *url: "http:[^"]*",\n/, ""));
  assert.deepEqual(changed.map(bare), ORIGINAL.map(bare));
  assert.equal(snippets.length, page.length + 1, "and the one of gRPC");
});

test("they compile", async () => {
  const folder = await mkdtemp(`${root}/build/readme-`);
  try {
    await Promise.all(snippets.map((snippet, index) => writeFile(`${folder}/snippet-${index}.ts`, snippet)));
    const options = ["--module", "nodenext", "--target", "es2022", "--strict", "--noEmit", "--lib", "es2023,dom,dom.iterable", "--types", "node"];
    const files = snippets.map((_, index) => `${folder}/snippet-${index}.ts`);
    await run(`${root}/node_modules/.bin/tsc`, [...options, "--ignoreConfig", ...files], { cwd: root }).catch((error: { stdout: string }) => assert.fail(error.stdout));
  } finally {
    await rm(folder, { recursive: true });
  }
});

/** Runs a snippet as a program of its own. `more` is put behind it. */
async function program(snippet: string, more = ""): Promise<{ stdout: string; stderr: string }> {
  const env = { ...process.env, FLASHBULB_URL: URL_, FLASHBULB_HOST: HOST, FLASHBULB_KEY: KEY, NODE_OPTIONS: "" };
  return run(process.execPath, ["--input-type=module", "--eval", `${snippet}\n${more}`], { cwd: root, env, timeout: 60_000 });
}

const [subscribe, realtime, config, submit, status, result, upload] = page as [string, string, string, string, string, string, string];

test("subscribe runs", async () => {
  const { stdout, stderr } = await program(subscribe);
  assert.match(stdout, /images: \[/);
  assert.match(stdout, /^[0-9a-f-]{36}$/m);
  assert.equal(stderr, "");
});

test("realtime runs", async () => {
  const { stdout } = await program(realtime.replace("console.log(result);", "console.log(result); process.exit();"));
  assert.match(stdout, /content: \[Uint8Array\]/);
});

test("the key and the address are taken", async () => {
  const here = config.replace("http://127.0.0.1:8080", URL_).replace("YOUR_FAL_KEY", KEY);
  const { stdout } = await program(here, `process.env.FLASHBULB_KEY = ""; console.log((await fal.run("${ENDPOINT}", { input: ${JSON.stringify(APPLE)} })).data.seed);`);
  assert.equal(stdout.trim(), "7");
});

test("submit runs, and the request's status and result are had by its id", async () => {
  const hooks: { request_id: string; status: string }[] = [];
  const receiver = createServer(async (request, response) => {
    hooks.push(JSON.parse(await text(request)));
    response.end();
  });
  await new Promise<void>((resolve) => receiver.listen(0, "127.0.0.1", resolve));
  const here = `http://127.0.0.1:${(receiver.address() as AddressInfo).port}/for/results`;
  const { stdout } = await program(submit.replace("https://optional.webhook.url/for/results", here), "console.log(request_id);");
  const id = stdout.trim();
  assert.match(id, /^[0-9a-f-]{36}$/);
  await until(() => hooks.length > 0, "the webhook");
  receiver.close();
  assert.deepEqual([hooks[0]?.request_id, hooks[0]?.status], [id, "OK"]);
  const named = (snippet: string): string => snippet.replace("764cabcf-b745-4b3e-ae38-1200304cf45b", id);
  const { stdout: told } = await program(named(status), "console.log(status);");
  assert.match(told, /COMPLETED/);
  const { stdout: pictures } = await program(named(result));
  assert.match(pictures, /images: \[/);
  assert.ok(pictures.includes(id));
});

test("upload runs", async () => {
  const { stdout } = await program(upload, "console.log(await (await fetch(url)).text());");
  assert.equal(stdout.trim(), "Hello, World!");
});

test("gRPC runs", async () => {
  const { stdout } = await program(snippets.find((snippet) => snippet.includes("flashbulb/grpc"))!.replace("127.0.0.1:50051", HOST));
  assert.match(stdout, /^\d+n\nUint8Array/);
});
