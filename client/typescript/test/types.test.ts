/** What the compiler must accept and refuse. `tsc` checks it; nothing here is called. */
import { test } from "node:test";

import { createClient, type Inputs, type QueueStatus, type RealtimeConnection } from "flashbulb";
import { createGrpcClient } from "flashbulb/grpc";

export async function accepted(): Promise<void> {
  const fal = createClient();
  const text = { prompt: "a red apple" };
  await fal.run("fast-lcm-diffusion", { input: { ...text, image_size: "square_hd", format: "png", safety_checker_version: "v2" } });
  await fal.run("fal-ai/fast-lcm-diffusion", { input: { ...text, image_size: { width: 512 } } });
  await fal.subscribe("fal-ai/flux-lora", { input: { ...text, loras: [{ path: "p", scale: 2 }], acceleration: "regular" } });
  await fal.queue.submit("fast-lcm-diffusion/inpainting", { input: { ...text, image_url: new Blob([]), mask_url: "https://there" } });
  await fal.run("fal-ai/of-a-newer-server", { input: { anything: true } });
  const { data } = await fal.run("omnigen-v1", { input: text });
  data.images[0]!.url satisfies string;
  const session: RealtimeConnection<Inputs["fast-lcm-diffusion"]> = fal.realtime.connect("fal-ai/fast-lcm-diffusion", { onResult: () => undefined });
  session.update({ seed: 7 });
  const own = await fal.run<"fal-ai/x", { answer: number }>("fal-ai/x", { input: {} });
  own.data.answer satisfies number;
}

export async function refused(): Promise<void> {
  const fal = createClient();
  const text = { prompt: "a red apple" };
  // @ts-expect-error a typo in a field
  await fal.run("fal-ai/fast-lcm-diffusion", { input: { ...text, num_inference_step: 4 } });
  // @ts-expect-error the same, by the plain id
  await fal.subscribe("fast-lcm-diffusion", { input: { ...text, guidance_scales: 1 } });
  // @ts-expect-error the prompt is required
  await fal.queue.submit("fast-lcm-diffusion", { input: { seed: 1 } });
  // @ts-expect-error a picture is required
  await fal.queue.submit("fast-lcm-diffusion/image-to-image", { input: text });
  // @ts-expect-error a field of another endpoint
  await fal.run("flux-lora", { input: { ...text, negative_prompt: "dogs" } });
  // @ts-expect-error no such size
  await fal.run("fast-lcm-diffusion", { input: { ...text, image_size: "sqare" } });
  // @ts-expect-error a number, not a text
  await fal.run("fast-lcm-diffusion", { input: { ...text, seed: "7" } });
  // @ts-expect-error no such choice
  await fal.run("flux-lora", { input: { ...text, acceleration: "fast" } });
  // @ts-expect-error the status has logs only once it is drawn
  (await fal.queue.status("flux-lora", { requestId: "r" })).logs;
  const session = createGrpcClient().realtime.connect("fast-lcm-diffusion", { onResult: () => undefined });
  // @ts-expect-error a typo in a frame
  session.send({ ...text, sed: 1 });
  // @ts-expect-error the prompt is required in a frame, too
  session.send({ seed: 1 });
  const status = {} as QueueStatus;
  // @ts-expect-error there is no such state
  if (status.status === "FAILED") return;
}

test("the compiler has checked the types", () => undefined);
