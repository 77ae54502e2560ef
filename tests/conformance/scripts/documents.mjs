// What docs/browser.md and docs/fal.md tell writers of pages to do, done as it is written, with the client unmodified. It must draw, and must
// call nobody but one's own service: neither the client's calls nor its sockets may go to the hosts that it has built in.

import assert from "node:assert/strict";
import { rmSync } from "node:fs";
import { mkdtemp, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { fal } from "@fal-ai/client";
import { NextRequest } from "next/server.js";
import WebSocket from "ws";
import { APPLE, BASE, ENDPOINT, check, picture, run, until } from "./harness.mjs";

const PAGE = "https://page.example.com";
const own = new URL(BASE).host;
const elsewhere = [];
const direct = globalThis.fetch;
const server = {}; // what answers the page at its own address, by path

globalThis.location = { href: `${PAGE}/` };
globalThis.fetch = async (address, init) => {
  const url = new URL(address, PAGE);
  if (url.origin === PAGE) return server[url.pathname](url, init);
  if (!mayCall(url)) throw new Error(`${url.host} was called`);
  return direct(address, init);
};
globalThis.WebSocket = class extends WebSocket {
  constructor(address, protocols) {
    super(mayCall(new URL(address)) ? address : BASE.replace("http", "ws"), protocols);
  }
};
const builtIn = globalThis.WebSocket;

function mayCall(url) {
  const may = url.host === own || url.protocol === "data:";
  if (!may) elsewhere.push(url.href);
  return may;
}

const folder = await mkdtemp(fileURLToPath(new URL("documents-", import.meta.url))); // here, where the packages are found
process.on("exit", () => rmSync(folder, { recursive: true }));

/** The blocks of a document as modules, for the service that there is. They are found by their first lines. */
async function modules(document) {
  const text = await readFile(new URL(`../../../docs/${document}`, import.meta.url), "utf8");
  const blocks = [...text.matchAll(/```js\n(.*?)```/gs)].map((match) => match[1]);
  return blocks.map((block) => block.replaceAll("https://pictures.example.com", BASE).replaceAll("http://127.0.0.1:8080", BASE).replaceAll("pictures.example.com", own));
}

let number = 0;
async function imported(code, name = `block-${(number += 1)}.mjs`) {
  await writeFile(join(folder, name), code);
  return import(join(folder, name));
}

const [here, token, page, gateway, proxied, route] = await modules("browser.md");
await writeFile(join(folder, "package.json"), '{"type": "module"}');
await imported(here, "here.js");

check("browser.md: a token and no proxy", async () => {
  const { token: made } = await imported(token);
  server["/my/token"] = async () => new Response(await made());
  const shown = [];
  globalThis.show = (content) => shown.push(content);
  const { connection } = await imported(`${page}\nexport { connection };`);
  connection.send(APPLE);
  await until(() => shown.length || elsewhere.length);
  assert.deepEqual(elsewhere, []);
  connection.close();
  return { pictures: [await picture({ content: shown[0], width: 128, height: 128, content_type: "image/jpeg" }, APPLE)] };
});

check("browser.md: the gateway as the proxy", async () => {
  await imported(gateway); // each call brings the key of the environment, which a page has not
  return await drawn();
});

check("browser.md: a proxy on one's own server", async () => {
  globalThis.knowsUser = () => true;
  const handlers = await imported(route);
  server["/api/fal/proxy"] = (url, { method, headers, body }) => handlers[method](new NextRequest(url, { method, headers, body }));
  await imported(proxied);
  return await drawn();
});

check("fal.md: a client with a key", async () => {
  globalThis.WebSocket = builtIn;
  const [leading] = await modules("fal.md");
  await imported(leading);
  return await drawn();
});

check("an address of the hosted service that is not known is not called", async () => {
  const { here } = await import(join(folder, "here.js"));
  for (const address of ["https://rest.alpha.fal.ai/tokens/", "wss://ws.fal.run/x", "https://v3.fal.media/files/x"]) assert.throws(() => here(address));
  assert.equal(here("wss://fal.run/a?b=c"), `${BASE.replace("http", "ws")}/run/a?b=c`);
  assert.equal(here("https://elsewhere.example.com/a?b=c"), "https://elsewhere.example.com/a?b=c");
  assert.equal(here("/mine"), `${PAGE}/mine`);
});

await run();

/** A direct call and a frame of a session, as the client is set up now. */
async function drawn() {
  const { data } = await fal.run(ENDPOINT, { input: APPLE });
  const results = [];
  const errors = [];
  const connection = fal.realtime.connect(ENDPOINT, { throttleInterval: 0, onResult: (one) => results.push(one), onError: (error) => errors.push(error) });
  connection.send(APPLE);
  await until(() => results.length || errors.length || elsewhere.length);
  connection.close();
  assert.deepEqual([elsewhere, errors], [[], []]);
  return { pictures: [await picture(data.images[0], APPLE), await picture(results[0].images[0], APPLE)] };
}
