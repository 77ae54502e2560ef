/** What a page loads. */
import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { test } from "node:test";
import { gzipSync } from "node:zlib";

import { build } from "esbuild";

/** Bytes that the README states. */
const MINIFIED = 46_000;
const GZIPPED = 15_500;
const root = new URL("..", import.meta.url).pathname;

async function bundle(contents: string, platform: "browser" | "node"): Promise<{ bytes: Uint8Array; inputs: string[] }> {
  const { outputFiles, metafile } = await build({
    stdin: { contents, resolveDir: root }, bundle: true, minify: true, format: "esm", platform, write: false, metafile: true,
    tsconfigRaw: "{}", // as in a program that uses the package
  });
  return { bytes: outputFiles[0]!.contents, inputs: Object.keys(metafile.inputs) };
}

test("a page loads this package and msgpack, nothing else, and little of it", async () => {
  const { bytes, inputs } = await bundle('export * from "flashbulb";', "browser");
  const packages = new Set(inputs.flatMap((path) => /node_modules\/((?:@[^/]+\/)?[^/]+)/.exec(path)?.[1] ?? []));
  assert.deepEqual([...packages], ["@msgpack/msgpack"]);
  assert.ok(inputs.some((path) => path.endsWith("websocket.js")) && !inputs.some((path) => path.includes("grpc/") || path.includes("_pb")));
  const gzipped = gzipSync(bytes, { level: 9 }).length;
  assert.ok(bytes.length <= MINIFIED && gzipped <= GZIPPED, `${bytes.length} bytes, ${gzipped} gzipped`);
});

test("the README states the size", async () => {
  const readme = await readFile(`${root}/README.md`, "utf8");
  assert.match(readme, new RegExp(`${MINIFIED / 1000} kB minified, ${GZIPPED / 1000} kB gzipped`));
});

test("gRPC is for Node alone", async () => {
  await assert.rejects(bundle('export * from "flashbulb/grpc";', "browser"), /grpc/);
  const { inputs } = await bundle('export { createGrpcClient } from "flashbulb/grpc";', "node");
  assert.ok(inputs.some((path) => path.includes("connect-node")));
});
