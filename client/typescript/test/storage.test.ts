/** Files, against the real service. */
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { test } from "node:test";

import { APPLE, assertJpeg, client, ENDPOINT, fetched } from "./service.js";

test("a file is stored with its name and type, and its link needs no key", async () => {
  const url = await client().storage.upload(new File(["Hello, World!"], "hello.txt", { type: "text/plain" }));
  const response = await fetch(url);
  assert.equal(response.status, 200);
  assert.match(response.headers.get("content-type") ?? "", /^text\/plain/);
  assert.equal(await response.text(), "Hello, World!");
});

test("a file of more than 90 MB goes in parts and comes back whole", async () => {
  const block = new Uint8Array(1024 * 1024).map((_, index) => (index * 31) % 251);
  const bytes = new Uint8Array(91 * block.length);
  for (let n = 0; n < 91; n++) bytes.set(block.map((byte) => byte ^ n), n * block.length);
  const url = await client().storage.upload(bytes, { lifecycle: { expiresIn: "1h" } });
  const digest = (content: Uint8Array): string => createHash("sha256").update(content).digest("hex");
  assert.equal(digest(await fetched(url)), digest(bytes));
});

test("pictures in an input are uploaded by themselves", async () => {
  const flash = client();
  const apple = await flash.run(ENDPOINT, { input: APPLE });
  const bytes = await fetched(apple.data.images[0]!.url);
  const input = { ...APPLE, prompt: "a green apple", strength: 0.5 };
  const forms = [bytes, new Blob([bytes as Uint8Array<ArrayBuffer>], { type: "image/jpeg" }), bytes.buffer as ArrayBuffer, apple.data.images[0]!.url];
  const pictures: Uint8Array[] = [];
  for (const image_url of forms) {
    const { data } = await flash.subscribe(`${ENDPOINT}/image-to-image`, { input: { ...input, image_url } });
    pictures.push(await fetched(data.images[0]!.url));
  }
  assertJpeg(pictures[0]);
  for (const picture of pictures) assert.deepEqual(picture, pictures[0]);
});

test("an upload that is aborted rejects with the reason", async () => {
  const reason = new Error("the user left");
  const upload = client().storage.upload(new Blob(["x"]), { abortSignal: AbortSignal.abort(reason) });
  assert.equal(await upload.catch((error: unknown) => error), reason);
});
