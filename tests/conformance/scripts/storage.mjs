// Uploads of @fal-ai/client.

import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { createFalClient } from "@fal-ai/client";
import { fetchOn } from "./addresses.mjs";
import { APPLE, BASE, ENDPOINT, KEY, bytes, check, picture, rejection, run } from "./harness.mjs";

const fal = createFalClient({ credentials: KEY, fetch: fetchOn(BASE) });
const digest = (data) => createHash("sha256").update(data).digest("hex");

check("an uploaded picture is an input", async () => {
  const { data } = await fal.run(ENDPOINT, { input: { ...APPLE, format: "png" } });
  const url = await fal.storage.upload(new Blob([await bytes(data.images[0])], { type: "image/png" }));
  const edited = await fal.subscribe(`${ENDPOINT}/image-to-image`, { input: { ...APPLE, image_url: url, strength: 0.3 } });
  return { pictures: [await picture(edited.data.images[0], undefined, { looks: "red" })] };
});

check("Files in the input are uploaded wherever they are", async () => {
  const { data } = await fal.run(ENDPOINT, { input: { ...APPLE, format: "png" } });
  const file = new File([await bytes(data.images[0])], "äpfel & birnen.png", { type: "image/png" });
  const mask = await bytes((await fal.run(ENDPOINT, { input: { ...APPLE, prompt: "a white moon", format: "png" } })).data.images[0]);
  const input = { ...APPLE, image_url: file, mask_url: new Blob([mask], { type: "image/png" }), strength: 0.5 };
  const edited = await fal.subscribe(`${ENDPOINT}/inpainting`, { input });
  return { pictures: [await picture(edited.data.images[0], undefined, { looks: "coloured" })] };
});

check("a file without a name or a type; and why there is no empty one", async () => {
  const url = await fal.storage.upload(new Blob([new Uint8Array([1, 2, 3])]));
  assert.deepEqual([...(await bytes({ url }))], [1, 2, 3]);
  const error = await rejection(fal.storage.upload(new File([], "empty.txt", { type: "text/plain" })));
  assert.equal(error.status, 422);
  assert.match(error.message, /empty/);
});

check("storage settings are taken", async () => {
  const url = await fal.storage.upload(new File(["one hour"], "hour.txt", { type: "text/plain" }), {
    lifecycle: { expiresIn: "1h", initialAcl: { default: "allow" } },
  });
  assert.equal((await bytes({ url })).toString(), "one hour");
});

check("a file that others may not read, and one that they do not see", async () => {
  const answers = async (decision) => {
    const url = await fal.storage.upload(new File(["mine"], "mine.txt", { type: "text/plain" }), { lifecycle: { initialAcl: { default: decision } } });
    const own = await fetch(url, { headers: { authorization: `Key ${KEY}` } });
    assert.equal(await own.text(), "mine");
    return (await fetch(url)).status;
  };
  assert.equal(await answers("forbid"), 403);
  assert.equal(await answers("hide"), 404);
});

check("more than 90 MB go up in parts", async () => {
  const block = crypto.getRandomValues(new Uint8Array(65536));
  const size = 91 * 1024 * 1024 + 17;
  const data = new Uint8Array(size);
  for (let at = 0; at < size; at += block.length) data.set(block.subarray(0, Math.min(block.length, size - at)), at);
  const parts = [];
  const watching = (address, init) => {
    if (init?.method === "PUT") parts.push(String(address));
    return fetchOn(BASE)(address, init);
  };
  const client = createFalClient({ credentials: KEY, fetch: watching });
  const url = await client.storage.upload(new File([data], "large.bin", { type: "application/octet-stream" }));
  assert.equal(parts.length, 10);
  const back = await bytes({ url });
  assert.equal(back.length, size);
  assert.equal(digest(back), digest(data));
}, { seconds: 90 });

check("uploads need a key", async () => {
  const stranger = createFalClient({ credentials: "nobody:nothing", fetch: fetchOn(BASE) });
  assert.equal((await rejection(stranger.storage.upload(new File(["x"], "x.txt")))).status, 401);
});

check("a browser may put to the upload's address", async () => {
  const initiated = await fetchOn(BASE)("https://rest.fal.ai/storage/upload/initiate?storage_type=fal-cdn-v3", {
    method: "POST",
    headers: { authorization: `Key ${KEY}`, "content-type": "application/json" },
    body: JSON.stringify({ content_type: "text/plain", file_name: "a.txt" }),
  });
  const { upload_url, file_url } = await initiated.json();
  const headers = { origin: "https://app.example", "access-control-request-method": "PUT", "access-control-request-headers": "content-type" };
  const preflight = await fetch(upload_url, { method: "OPTIONS", headers });
  assert.ok(preflight.ok, `${preflight.status}`);
  assert.match(preflight.headers.get("access-control-allow-methods") ?? "", /PUT|\*/);
  const put = await fetch(upload_url, { method: "PUT", body: "hello", headers: { "content-type": "text/plain", origin: "https://app.example" } });
  assert.ok(put.ok && put.headers.get("access-control-allow-origin"));
  const got = await fetch(file_url, { headers: { origin: "https://app.example" } });
  assert.ok(got.ok && got.headers.get("access-control-allow-origin"));
  assert.equal(await got.text(), "hello");
});

await run();
