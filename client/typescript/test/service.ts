/** The service that the tests speak to, from the environment, and inputs that are drawn quickly. */
import assert from "node:assert/strict";

import { createClient } from "flashbulb";
import { createGrpcClient } from "flashbulb/grpc";

function variable(name: string): string {
  const value = process.env[name];
  assert.ok(value, `${name} is not set: run these tests by tests/client_typescript`);
  return value;
}

export const URL_ = variable("FLASHBULB_URL");
export const HOST = variable("FLASHBULB_HOST");
export const KEY = variable("FLASHBULB_KEY");
export const OTHER_KEY = variable("FLASHBULB_OTHER_KEY");

export const ENDPOINT = "fal-ai/fast-lcm-diffusion";

/** An input of two steps at the embedded model's own size. */
export const APPLE = { prompt: "a red apple", image_size: { width: 128, height: 128 }, num_inference_steps: 2, seed: 7 } as const;
/** An input that is drawn for seconds. */
export const SLOW = { ...APPLE, image_size: "square_hd", num_inference_steps: 32, num_images: 8 } as const;

export const client = (): ReturnType<typeof createClient> => createClient({ url: URL_, credentials: KEY });
export const grpc = (): ReturnType<typeof createGrpcClient> => createGrpcClient({ host: HOST, credentials: KEY });

/** The first bytes of JPEG. */
export function assertJpeg(bytes: Uint8Array | undefined): void {
  assert.ok(bytes && bytes.length > 500, `no picture: ${bytes?.length} bytes`);
  assert.deepEqual([...bytes.slice(0, 3)], [0xff, 0xd8, 0xff]);
}

/** The bytes behind a link or a data URI. */
export async function fetched(url: string): Promise<Uint8Array> {
  const response = await fetch(url);
  assert.equal(response.status, 200);
  return new Uint8Array(await response.arrayBuffer());
}

/** Waits until a condition holds. */
export async function until(condition: () => boolean, what: string, seconds = 20): Promise<void> {
  const end = performance.now() + seconds * 1000;
  while (!condition()) {
    assert.ok(performance.now() < end, `${what} did not happen within ${seconds} s`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}
