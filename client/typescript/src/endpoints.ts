/** Ids of endpoints, what each takes and what it answers with. */
import type { Inputs } from "./gen/inputs.js";

/** The service's own name of an endpoint. */
export type EndpointName = keyof Inputs;

/** An endpoint's name, alone or as the hosted service writes it. */
export type EndpointId = EndpointName | `fal-ai/${EndpointName}`;

/** Any id; those that are known have typed inputs. */
export type AnyEndpointId = EndpointId | (string & {});

/** What an endpoint takes. */
export type InputOf<Id extends string> = Id extends `fal-ai/${infer Name extends EndpointName}`
  ? Inputs[Name]
  : Id extends EndpointName
    ? Inputs[Id]
    : Record<string, unknown>;

/** A generated picture: a link that needs no key, or a `data:` URI where it was asked for with `sync_mode`. */
export interface Image {
  url: string;
  content_type: string;
  width: number;
  height: number;
  /** Size of the file in bytes. */
  file_size: number;
}

/** What every endpoint answers with. */
export interface Output {
  images: Image[];
  /** Spans in seconds by name; `inference` among them. */
  timings: Record<string, number>;
  /** Seed of the first picture. */
  seed: number;
  /** For every picture, whether the safety checker flagged it. A flagged picture is black. */
  has_nsfw_concepts: boolean[];
  /** The prompt that was drawn. */
  prompt: string;
  /** The model that drew it: another one than the input names, where it stood in for that. */
  model_name: string;
  /** How close the pictures are to diffusers' own pipeline: `EXACT`, `CLOSE` or `APPROX`. */
  fidelity: string;
  /** What ran the networks: `openvino cpu float32`. */
  backend: string;
  /** The input's own label, if it had one. */
  request_id?: string;
}

/** The answer of a call, and the id to speak of it with. */
export interface Result<Data = Output> {
  data: Data;
  requestId: string;
}

const OWNER = /^(fal-ai|flashbulb)\//;

/** The path of an endpoint: `fal-ai/<name>`. */
export function pathOf(id: string): string {
  const name = id.replace(/^\/+|\/+$/g, "");
  return OWNER.test(name) ? name : `fal-ai/${name}`;
}

/** The path of an endpoint's requests, which leaves out the part after the second slash. */
export function appOf(id: string): string {
  return pathOf(id).split("/").slice(0, 2).join("/");
}

/** The endpoint's name alone. */
export function nameOf(id: string): string {
  return pathOf(id).replace(OWNER, "");
}
