/** Everything over gRPC, against the real service. */
import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { test } from "node:test";

import {
  AuthenticationError, ConfigurationError, ConnectionError, type DroppedFrame, type FlashbulbError, NotFoundError, type RealtimeOutput,
  ValidationError,
} from "flashbulb";
import { createGrpcClient, errorOf, GenerationRequest_State, type GrpcClient, inputOf } from "flashbulb/grpc";

import { relay } from "./relay.js";
import { APPLE, assertJpeg, grpc, HOST, KEY, SLOW, until } from "./service.js";

async function using<T>(client: GrpcClient, work: (client: GrpcClient) => Promise<T>): Promise<T> {
  try {
    return await work(client);
  } finally {
    client.close();
  }
}

/** What a session told. */
class Heard {
  readonly results: [number, RealtimeOutput][] = [];
  readonly errors: FlashbulbError[] = [];
  readonly dropped: DroppedFrame<unknown>[] = [];
  previews = 0;
  readonly handlers = {
    onResult: (result: RealtimeOutput, { frameId }: { frameId: number }) => void this.results.push([frameId, result]),
    onError: (error: FlashbulbError) => void this.errors.push(error),
    onDropped: (dropped: DroppedFrame<unknown>) => void this.dropped.push(dropped),
  };

  async result(id: number): Promise<RealtimeOutput> {
    await until(() => this.results.some(([each]) => each === id), `the picture of frame ${id}`);
    return this.results.find(([each]) => each === id)![1];
  }
}

test("the endpoints and their fields are those of the generated types", async () => {
  const { endpoints } = await using(grpc(), (client) => client.models.listEndpoints({}));
  const types = await readFile(new URL("../src/gen/inputs.ts", import.meta.url), "utf8");
  const ids = /export interface Inputs \{([^}]*)\}/.exec(types)![1]!;
  assert.deepEqual([...ids.matchAll(/"([^"]+)": (\w+);/g)].map((match) => match[1]).sort(), endpoints.map((each) => each.endpoint).sort());
  for (const endpoint of endpoints) {
    const name = new RegExp(`"${endpoint.endpoint}": (\\w+);`).exec(types)![1];
    const body = new RegExp(`export interface ${name} \\{([^}]*)\\n\\}`).exec(types)![1]!;
    const fields = [...body.matchAll(/^ {2}(\w+)(\??): /gm)].map(([, field, mark]) => `${field}${mark}`);
    assert.deepEqual(fields.sort(), endpoint.fields.map((field) => field.name + (field.required ? "" : "?")).sort(), endpoint.endpoint);
    for (const { name: field, choices } of endpoint.fields.filter((each) => each.choices.length && each.name !== "image_size")) {
      const type = new RegExp(`^ {2}${field}\\??: (.*);`, "m").exec(body)![1]!;
      const spelled = /^\w+$/.test(type) ? new RegExp(`export type ${type} = (.*);`).exec(types)![1]! : type;
      assert.equal(spelled, choices.map((choice) => JSON.stringify(choice)).join(" | "), `${endpoint.endpoint} ${field}`);
    }
  }
});

test("the services are typed and draw", async () => {
  await using(grpc(), async (client) => {
    const input = inputOf("fast-lcm-diffusion", APPLE);
    const { output } = await client.generation.generate({ input });
    assertJpeg(output?.images[0]?.content);
    assert.equal(output?.seed, 7n);
    const { request } = await client.queue.submit({ input });
    let last = request;
    for await (const { event } of client.queue.watchStatus({ requestId: request!.requestId })) {
      if (event.case === "request") last = event.value;
    }
    assert.equal(last?.state, GenerationRequest_State.SUCCEEDED);
    const { outcome } = await client.queue.getResult({ requestId: request!.requestId });
    assert.ok(outcome.case === "output" && outcome.value.images[0]?.url);
  });
});

test("errors are those of this package", async () => {
  await using(grpc(), async (client) => {
    const bad = await client.generation.generate({ input: inputOf("fast-lcm-diffusion", { num_images: 77 }) }).catch(errorOf);
    assert.ok(bad instanceof ValidationError);
    assert.deepEqual([bad.getFieldErrors("num_images").length, bad.getFieldErrors("prompt").length, bad.errorType], [1, 1, "INVALID_INPUT"]);
    assert.ok((await client.queue.getStatus({ requestId: "nope" }).catch(errorOf)) instanceof NotFoundError);
  });
  const wrong = createGrpcClient({ host: HOST, credentials: "nobody:nothing" });
  await using(wrong, async (client) => assert.ok((await client.models.listModels({}).catch(errorOf)) instanceof AuthenticationError));
  const nowhere = createGrpcClient({ host: "127.0.0.1:1", credentials: KEY });
  await using(nowhere, async (client) => assert.ok((await client.models.listModels({}).catch(errorOf)) instanceof ConnectionError));
  assert.throws(() => createGrpcClient({ host: "a b" }), ConfigurationError);
});

test("an input is checked before it is sent, and every bad field is named", () => {
  const bad = { prompt: 1, nope: 2, image_size: "huge", seed: 0.5, format: "gif", loras: [] };
  assert.throws(
    () => inputOf("fast-lcm-diffusion", bad),
    (error) => error instanceof ValidationError && error.fieldErrors.map((each) => each.loc.join(".")).sort().join() ===
      "body.format,body.image_size,body.loras,body.nope,body.prompt,body.seed",
  );
  const { input } = inputOf("stable-diffusion-v15", {
    prompt: "a", seed: 2 ** 40, image_size: "square", safety_checker_version: "v2", loras: [{ path: "p", scale: 0.5 }], sync_mode: false,
  });
  assert.ok(input.case === "stableDiffusionV15");
  const { seed, imageSize, safetyCheckerVersion, loras, syncMode } = input.value;
  assert.deepEqual([seed, imageSize?.size, safetyCheckerVersion, loras[0]?.path, syncMode], [2n ** 40n, { case: "preset", value: 2 }, 2, "p", false]);
});

test("a session draws what was sent, and only the newest of what comes faster", async () => {
  await using(grpc(), async (client) => {
    const heard = new Heard();
    const session = client.realtime.connect("fal-ai/fast-lcm-diffusion", {
      ...heard.handlers, onPreview: ({ content, content_type }) => {
        assertJpeg(content);
        assert.equal(content_type, "image/jpeg");
        heard.previews += 1;
      },
    });
    session.send({ ...APPLE, request_id: "mine" });
    const first = await heard.result(1);
    assertJpeg(first.images[0]?.content);
    assert.deepEqual([first.seed, first.prompt, first.request_id, first.images[0]?.width], [7, "a red apple", "mine", 128]);
    assert.equal(first.model_name, "flashbulb/tiny");
    for (let n = 0; n < 20; n++) session.update({ prompt: `apple ${n}` });
    assert.equal((await heard.result(21)).prompt, "apple 19");
    assert.ok(heard.dropped.length >= 10 && heard.dropped.every(({ reason }) => reason === "superseded"));
    assert.equal(heard.results.length + heard.dropped.length, 21, "every frame is answered");
    assert.ok(heard.previews > 0);
    assert.deepEqual(heard.errors, []);
  });
});

test("a frame is the whole input, whatever came before it", async () => {
  await using(grpc(), async (client) => {
    const expected = await client.generation.generate({ input: inputOf("fast-lcm-diffusion", { ...APPLE, num_inference_steps: undefined, guidance_scale: undefined }) });
    const heard = new Heard();
    const session = client.realtime.connect("fast-lcm-diffusion", heard.handlers);
    const { num_inference_steps: _, ...whole } = APPLE;
    session.send({ ...whole, negative_prompt: "dogs" });
    await heard.result(1);
    session.send({ ...whole, num_inference_steps: 2, guidance_scale: 9 });
    await heard.result(2);
    session.send(whole);
    const { images } = await heard.result(3);
    assert.deepEqual(images[0]?.content, expected.output?.images[0]?.content);
  });
});

test("a frame that is refused is told and leaves no trace", async () => {
  await using(grpc(), async (client) => {
    const heard = new Heard();
    const session = client.realtime.connect("fast-lcm-diffusion", heard.handlers);
    session.send({ ...APPLE, num_inference_steps: 99 });
    await until(() => heard.errors.length === 1, "the refusal of the first frame");
    session.send(APPLE);
    await heard.result(2);
    session.send({ ...APPLE, prompt: "" });
    await until(() => heard.errors.length === 2, "the refusal of the third frame");
    session.send({ ...APPLE, format: "png" });
    const { prompt, images } = await heard.result(4);
    assert.deepEqual([prompt, images[0]?.content_type], ["a red apple", "image/png"]);
    assert.deepEqual(heard.dropped.map(({ frameId, reason }) => [frameId, reason]), [[1, "invalid"], [3, "invalid"]]);
    assert.deepEqual(heard.dropped[0]?.error?.fieldErrors.map((each) => each.loc), [["body", "num_inference_steps"]]);
    session.send({ ...APPLE, nope: 1 } as never);
    await until(() => heard.dropped.length === 3, "the refusal of an unknown field");
  });
});

test("a connection that breaks is taken up again: one late picture, the same seed", async () => {
  const between = await relay(HOST);
  const client = createGrpcClient({ host: between.address, credentials: KEY });
  await using(client, async () => {
    const heard = new Heard();
    const { seed: _, ...whole } = APPLE;
    const session = client.realtime.connect("fast-lcm-diffusion", heard.handlers);
    session.send(whole);
    const { seed } = await heard.result(1);
    between.open(false);
    between.cut();
    session.send({ ...whole, prompt: "a green apple" });
    await new Promise((resolve) => setTimeout(resolve, 300));
    assert.equal(heard.results.length, 1);
    between.open(true);
    const after = await heard.result(2);
    assert.deepEqual([after.seed, after.prompt, heard.errors], [seed, "a green apple", []]);
  });
  between.close();
});

test("pictures are given as bytes", async () => {
  await using(grpc(), async (client) => {
    const { output } = await client.generation.generate({ input: inputOf("fast-lcm-diffusion", APPLE) });
    const heard = new Heard();
    const session = client.realtime.connect("fast-lcm-diffusion/image-to-image", heard.handlers);
    const picture = output!.images[0]!.content;
    const whole = { ...APPLE, prompt: "a green apple", strength: 0.5 };
    session.send({ ...whole, image_url: new Blob([picture as Uint8Array<ArrayBuffer>]) });
    assertJpeg((await heard.result(1)).images[0]?.content);
    session.update({ prompt: "a blue apple" });
    assertJpeg((await heard.result(2)).images[0]?.content);
    assert.deepEqual(heard.errors, []);
  });
});

test("a frame whose picture does not differ is dropped by option, with several frames in flight", async () => {
  await using(grpc(), async (client) => {
    const { output } = await client.generation.generate({ input: inputOf("fast-lcm-diffusion", APPLE) });
    const heard = new Heard();
    const options = { ...heard.handlers, similarImageThreshold: 0, maxFramesInFlight: 2 };
    const session = client.realtime.connect("fast-lcm-diffusion/image-to-image", options);
    const whole = { ...APPLE, prompt: "a green apple", strength: 0.5, image_url: output!.images[0]!.content };
    session.send(whole);
    await heard.result(1);
    session.send(whole);
    await until(() => heard.dropped.length === 1, "the second frame to be dropped");
    assert.deepEqual([heard.dropped[0]!.frameId, heard.dropped[0]!.reason], [2, "similar"]);
    session.send({ ...whole, prompt: "a blue apple" });
    await heard.result(3);
    assert.deepEqual(heard.errors, []);
  });
});

test("a token opens a session, and a refused one is fetched anew once", async () => {
  const holder = grpc();
  const { token } = await holder.sessions.createToken({ allowedEndpoints: ["fast-lcm-diffusion"] });
  holder.close();
  const tokens = ["broken", token];
  let asked = 0;
  const device = createGrpcClient({ host: HOST, tokenProvider: async () => tokens[Math.min(asked++, 1)]! });
  await using(device, async (client) => {
    const heard = new Heard();
    client.realtime.connect("fast-lcm-diffusion", heard.handlers).send(APPLE);
    await heard.result(1);
    assert.deepEqual([asked, heard.errors], [2, []]);
  });
  const stranger = createGrpcClient({ host: HOST, tokenProvider: async () => "broken" });
  await using(stranger, async (client) => {
    const heard = new Heard();
    client.realtime.connect("fast-lcm-diffusion", heard.handlers).send(APPLE);
    await until(() => heard.errors.length === 1, "the refusal");
    assert.ok(heard.errors[0] instanceof AuthenticationError, String(heard.errors[0]));
  });
});

test("a session that is closed stops drawing", async () => {
  await using(grpc(), async (client) => {
    const heard = new Heard();
    const session = client.realtime.connect("fast-lcm-diffusion", heard.handlers);
    session.send(SLOW);
    await new Promise((resolve) => setTimeout(resolve, 200));
    session.close();
    const other = client.realtime.connect("fast-lcm-diffusion", heard.handlers);
    other.send(APPLE);
    await heard.result(1);
    assert.equal(heard.results.length, 1);
  });
});

test("an endpoint that this version does not know is refused at once", async () => {
  await using(grpc(), async (client) => {
    assert.throws(() => client.realtime.connect("no-such-endpoint", { onResult: () => undefined }), ConfigurationError);
  });
});
