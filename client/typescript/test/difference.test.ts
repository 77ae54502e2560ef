/** What a server must be told of a frame. */
import assert from "node:assert/strict";
import { test } from "node:test";

import { Difference } from "../dist/difference.js";

test("only what changed is said, and what was taken out is reset", () => {
  const known = new Difference();
  const first = { prompt: "a", image_size: { width: 1 }, image_url: new Uint8Array([1, 2]), loras: [{ path: "x" }] };
  assert.deepEqual(known.to(first), { changed: first, reset: [] });
  const same = { prompt: "b", image_size: { width: 1 }, image_url: new Uint8Array([1, 2]), loras: [{ path: "x" }] };
  assert.deepEqual(known.to(same), { changed: { prompt: "b" }, reset: [] });
  const other = { prompt: "b", image_size: { width: 2 }, image_url: new Uint8Array([1, 3]), loras: [{ path: "x" }, { path: "y" }] };
  const { prompt: _, ...changed } = other;
  assert.deepEqual(known.to(other), { changed, reset: [] });
  assert.deepEqual(known.to({ prompt: "b", seed: undefined }), { changed: {}, reset: ["image_size", "image_url", "loras"] });
  assert.deepEqual(known.to({ prompt: "b" }), { changed: {}, reset: [] });
});

test("where nothing is known, all is said", () => {
  const known = new Difference();
  known.to({ prompt: "a", seed: 1 });
  known.forget();
  assert.deepEqual(known.to({ prompt: "a" }), { changed: { prompt: "a" }, reset: ["seed"] });
  assert.deepEqual(known.to({ prompt: "a" }), { changed: {}, reset: [] });
});
