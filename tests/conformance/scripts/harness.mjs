// Runs checks one after the other and prints one line of JSON about each: {"check", "ok", "error", "seconds", "pictures", "facts"}.
// What a check gives back as `pictures` is looked at by the test that started the script.

export const BASE = process.env.CONFORMANCE_BASE; // http://host:port of the gateway
export const FAULTS = process.env.CONFORMANCE_FAULTS; // of the proxy in front of it that fails when told to
export const CONTROL = process.env.CONFORMANCE_CONTROL; // of the test's own server: hold and release the worker, and so on
export const KEY = process.env.FAL_KEY;

export const ENDPOINT = "fal-ai/fast-lcm-diffusion";
export const SMALL = { image_size: { width: 128, height: 128 }, num_inference_steps: 2 };
export const APPLE = { prompt: "a red apple", seed: 7, ...SMALL };
export const LONG = { ...APPLE, num_inference_steps: 32, num_images: 4 };

const checks = [];

process.on("unhandledRejection", (error) => console.error("unhandled:", error)); // one check's, not the end of all

/** A check is a test of its own; `seconds` is the longest it may take. It may give back `{pictures, facts}`. */
export function check(name, body, { seconds = 60 } = {}) {
  checks.push({ name, body, seconds });
}

/** Runs every check and ends the process. */
export async function run() {
  for (const { name, body, seconds } of checks) {
    const started = performance.now();
    const line = { check: name, ok: true, error: null, pictures: [], facts: {} };
    try {
      Object.assign(line, (await within(seconds, body())) ?? {});
    } catch (error) {
      line.ok = false;
      line.error = described(error);
    }
    line.seconds = (performance.now() - started) / 1000;
    process.stdout.write(JSON.stringify(line) + "\n");
  }
  process.stdout.write("", () => process.exit(0)); // open sockets and timers of the clients would keep it alive
}

/** Rejects when `promise` takes longer. */
export function within(seconds, promise) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`took longer than ${seconds} s`)), seconds * 1000);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

export function sleep(seconds) {
  return new Promise((resolve) => setTimeout(resolve, seconds * 1000));
}

/** Asks again until it gives something that is true. */
export async function until(question, seconds = 40) {
  const deadline = performance.now() + seconds * 1000;
  for (;;) {
    const answer = await question();
    if (answer) return answer;
    if (performance.now() > deadline) throw new Error(`not within ${seconds} s: ${question}`);
    await sleep(0.03);
  }
}

/** The error that a promise must be rejected with. */
export async function rejection(promise) {
  let value;
  try {
    value = await promise;
  } catch (error) {
    return error;
  }
  throw new Error(`was not rejected, but gave ${JSON.stringify(value)?.slice(0, 300)}`);
}

/** A picture of an answer for the test to look at; `input` is what it must show, as the same call by gRPC draws it. */
export async function picture(image, input, more = {}) {
  const { width, height, content_type } = image;
  return { data: (await bytes(image)).toString("base64"), width, height, content_type, input, ...more };
}

/** The file of a picture that came as raw bytes, a data URI or a link. */
export async function bytes(image) {
  if (image.content) return Buffer.from(image.content);
  const response = await fetch(image.url);
  if (!response.ok) throw new Error(`${response.status} for ${image.url.slice(0, 100)}`);
  return Buffer.from(await response.arrayBuffer());
}

/** Asks the test to do something: "hold" (the worker stops), "release". */
export async function control(action) {
  const response = await fetch(`${CONTROL}/${action}`, { method: "POST" });
  if (!response.ok) throw new Error(`${action}: ${response.status} ${await response.text()}`);
  return response.json();
}

/** Runs `body` while the worker takes nothing from the queue. */
export async function held(body) {
  await control("hold");
  try {
    return await body();
  } finally {
    await control("release");
  }
}

function described(error) {
  const more = error?.body ? ` body=${JSON.stringify(error.body).slice(0, 600)}` : "";
  const status = error?.status ? ` status=${error.status}` : "";
  return `${error?.stack ?? error}${status}${more}${error?.cause ? ` cause=${error.cause}` : ""}`;
}
