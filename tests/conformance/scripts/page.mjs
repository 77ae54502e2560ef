// Every snippet of the model's page, word for word. The process is started with redirect.mjs and FAL_KEY, and nothing else is done to it.

import assert from "node:assert/strict";
import { fal } from "@fal-ai/client";
import { APPLE, KEY, SMALL, bytes, check, picture, run, until } from "./harness.mjs";

let apple;
const CYBORG = { prompt: "Self-portrait oil painting, a beautiful cyborg with golden hair, 8k." };

check("subscribe with logs", async () => {
  const console = recorder();
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
  console.log(result.requestId);

  assert.match(result.requestId, /^[0-9a-f-]{36}$/);
  assert.deepEqual(console.lines.slice(-2), [result.data, result.requestId]);
  assert.ok(console.lines.slice(0, -2).every((line) => typeof line === "string"), "logs are text");
  return answered(result.data);
});

check("realtime connect", async () => {
  const seen = [];
  const errors = [];
  const console = { log: (result) => seen.push(result), error: (error) => errors.push(error) };
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
  });

  await until(() => seen.length || errors.length);
  connection.close();
  assert.deepEqual(errors, []);
  const [result] = seen;
  assert.ok(result.images[0].content instanceof Uint8Array, "realtime pictures are bytes");
  assert.equal(result.images[0].url, undefined);
  return { pictures: [await picture(result.images[0], { ...CYBORG, seed: Number(result.seed) })] };
});

check("config with credentials", async () => {
  const refusedOnce = await withoutKey(() => fal.run("fal-ai/fast-lcm-diffusion", { input: APPLE }).catch((error) => error));
  assert.equal(refusedOnce.status, 401);
  const YOUR_FAL_KEY = KEY;
  fal.config({
    credentials: YOUR_FAL_KEY
  });

  const result = await withoutKey(() => fal.run("fal-ai/fast-lcm-diffusion", { input: APPLE }));
  fal.config({});
  return { pictures: [await picture(result.data.images[0], APPLE)] };
});

check("queue.submit with webhookUrl, queue.status with logs, queue.result", async () => {
  const { request_id } = await fal.queue.submit("fal-ai/fast-lcm-diffusion", {
    input: {
      prompt: "Self-portrait oil painting, a beautiful cyborg with golden hair, 8k."
    },
    webhookUrl: "https://optional.webhook.url/for/results",
  });

  const ask = async () => {
    const status = await fal.queue.status("fal-ai/fast-lcm-diffusion", {
      requestId: request_id,
      logs: true,
    });
    return status;
  };
  const status = await until(async () => {
    const now = await ask();
    return now.status === "COMPLETED" && now;
  });
  assert.ok(status.logs.length > 0 && status.logs.every((log) => typeof log.message === "string" && !isNaN(new Date(log.timestamp))));
  assert.equal(typeof status.metrics.inference_time, "number");

  const result = await fal.queue.result("fal-ai/fast-lcm-diffusion", {
    requestId: request_id
  });
  assert.equal(result.requestId, request_id);
  return answered(result.data);
});

check("queue.status and queue.result of an id that is not there", async () => {
  for (const call of ["status", "result"]) {
    const error = await fal.queue[call]("fal-ai/fast-lcm-diffusion", {
      requestId: "764cabcf-b745-4b3e-ae38-1200304cf45b",
      logs: true,
    }).catch((caught) => caught);
    assert.equal(error.status, 404, call);
  }
});

check("storage.upload", async () => {
  const file = new File(["Hello, World!"], "hello.txt", { type: "text/plain" });
  const url = await fal.storage.upload(file);

  const response = await fetch(url);
  assert.equal(await response.text(), "Hello, World!");
  assert.match(response.headers.get("content-type"), /^text\/plain/);
});

check("a File in the input is uploaded by itself", async () => {
  const apple = await drawn();
  const file = new File([apple], "apple.png", { type: "image/png" });
  const result = await fal.subscribe("fal-ai/fast-lcm-diffusion/image-to-image", {
    input: { ...APPLE, image_url: file, strength: 0.3 },
  });
  return { pictures: [await picture(result.data.images[0], undefined, { looks: "red" })] };
});

check("a data URI as input", async () => {
  const uri = `data:image/png;base64,${(await drawn()).toString("base64")}`;
  const result = await fal.subscribe("fal-ai/fast-lcm-diffusion/image-to-image", {
    input: { ...APPLE, image_url: uri, strength: 0.3 },
  });
  return { pictures: [await picture(result.data.images[0], undefined, { looks: "red" })] };
});

check("the page's example input", async () => {
  const input = {
    model_name: "stabilityai/stable-diffusion-xl-base-1.0",
    prompt: "Self-portrait oil painting, a beautiful cyborg with golden hair, 8k.",
    negative_prompt: "cartoon, illustration, animation. face. male, female",
    image_size: "square_hd",
    num_inference_steps: 6,
    guidance_scale: 1.5,
    sync_mode: true,
    num_images: 1,
    enable_safety_checker: true,
    safety_checker_version: "v1",
    format: "jpeg",
  };
  const lines = [];
  const onQueueUpdate = (update) => lines.push(...(update.logs ?? []).map((log) => log.message));
  const result = await fal.subscribe("fal-ai/fast-lcm-diffusion", { input, logs: true, onQueueUpdate });
  // Its model is not installed here: another one draws, and that is said.
  assert.equal(result.data.model_name, "flashbulb/tiny");
  assert.ok(lines.includes(`${input.model_name} is not installed here: flashbulb/tiny draws, as a stand-in`), lines.join("\n"));
  return { pictures: [await picture(result.data.images[0], { ...input, seed: result.data.seed })] };
});

await run();

async function answered(data) {
  assert.equal(data.prompt, CYBORG.prompt);
  assert.ok(Number.isSafeInteger(data.seed));
  assert.deepEqual(data.has_nsfw_concepts, [false]);
  assert.equal(typeof data.timings.inference, "number");
  assert.match(data.images[0].url, /^data:image\/jpeg;base64,/, "sync_mode is on by default");
  return { pictures: [await picture(data.images[0], { ...CYBORG, seed: data.seed })] };
}

async function drawn() {
  apple ??= await bytes((await fal.run("fal-ai/fast-lcm-diffusion", { input: { ...APPLE, ...SMALL, format: "png" } })).data.images[0]);
  return apple;
}

async function withoutKey(body) {
  delete process.env.FAL_KEY;
  try {
    return await body();
  } finally {
    process.env.FAL_KEY = KEY;
  }
}

function recorder() {
  const lines = [];
  return { lines, log: (line) => lines.push(line) };
}
