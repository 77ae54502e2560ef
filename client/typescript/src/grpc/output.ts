/** Pictures of a stream as sessions give them. */
import type { OutputFrame } from "../gen/flashbulb/v1/realtime_pb.js";
import type { RealtimeImage, RealtimeOutput } from "../realtime.js";

/** What answers a frame with this input, whose own words are put back. */
export function outputOf(frame: OutputFrame, input: Readonly<Record<string, unknown>>): RealtimeOutput {
  return {
    images: frame.images.map(imageOf),
    timings: frame.timings,
    seed: Number(frame.seed),
    has_nsfw_concepts: frame.hasNsfwConcepts,
    prompt: String(input["prompt"] ?? ""),
    model_name: frame.modelName,
    ...(input["request_id"] === undefined ? {} : { request_id: String(input["request_id"]) }),
  };
}

function imageOf(image: OutputFrame["images"][number]): RealtimeImage {
  const { url, content, contentType: content_type, width, height } = image;
  return { ...(content.length ? { content } : { url }), content_type, width, height };
}
