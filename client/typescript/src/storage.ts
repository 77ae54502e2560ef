/** Files on the server: uploading them, and putting their links into inputs. */
import type { Settings } from "./config.js";
import { errorOf } from "./errors.js";
import { fetched, json, request } from "./request.js";
import { Deadline, retry } from "./retry.js";
import { blobOf, replaceBinaries, type Source } from "./source.js";

/** Files up to this size go in one piece. */
export const SINGLE_BYTES = 90 * 1024 * 1024;
export const PART_BYTES = 10 * 1024 * 1024;
const PARALLEL_PARTS = 4;
const TYPE = "storage_type=fal-cdn-v3";

/** How long a file is kept, in seconds. */
const LIFETIMES = { immediate: 60, "1h": 3_600, "1d": 86_400, "7d": 604_800, "30d": 2_592_000, "1y": 31_536_000 };

/** What an upload may say beside the bytes. */
export interface UploadOptions {
  /** How long to keep the file: a name, or seconds. Default: the server's, 7 days. */
  lifecycle?: { expiresIn?: keyof typeof LIFETIMES | number };
  abortSignal?: AbortSignal;
}

interface Place {
  upload_url: string;
  file_url: string;
}

interface Part {
  partNumber: number;
  etag: string;
}

/** Calls about files. */
export class Storage {
  readonly #settings: Settings;

  constructor(settings: Settings) {
    this.#settings = settings;
  }

  /** Stores a file; resolves to its link, which inputs take. */
  async upload(file: Exclude<Source, string>, options: UploadOptions = {}): Promise<string> {
    const blob = blobOf(file);
    const whole = blob.size <= SINGLE_BYTES;
    const place = await this.#initiate(whole ? "initiate" : "initiate-multipart", blob, options);
    if (whole) await this.#put(place.upload_url, blob, options.abortSignal, async () => undefined);
    else await this.#putParts(place.upload_url, blob, options.abortSignal);
    return place.file_url;
  }

  /** A copy of an input in which links have taken the place of all bytes, which are uploaded at the same time. */
  async transformInput(input: unknown, abortSignal?: AbortSignal): Promise<unknown> {
    return replaceBinaries(input, (source) => this.upload(source, abortSignal ? { abortSignal } : {}));
  }

  async #initiate(name: string, blob: Blob, options: UploadOptions): Promise<Place> {
    const type = blob.type || "application/octet-stream";
    return request(this.#settings, {
      method: "POST",
      url: `${this.#settings.at("rest")}/storage/upload/${name}?${TYPE}`,
      body: { content_type: type, file_name: nameOf(blob, type) },
      headers: lifecycleHeaders(options),
      signal: options.abortSignal,
      read: json<Place>,
    });
  }

  /** Puts bytes to a link, which needs no key. */
  async #put<T>(url: string, body: Blob, caller: AbortSignal | undefined, read: (response: Response) => Promise<T>): Promise<T> {
    const deadline = new Deadline(undefined, caller);
    return retry(
      async (signal) => {
        const headers = { "content-type": body.type || "application/octet-stream" };
        const response = await fetched(this.#settings.fetch, url, { method: "PUT", body, headers, signal });
        if (!response.ok) throw await errorOf(response);
        return read(response);
      },
      deadline,
      true,
    );
  }

  async #putParts(url: string, blob: Blob, caller: AbortSignal | undefined): Promise<void> {
    const stop = new AbortController();
    const signal = caller ? AbortSignal.any([caller, stop.signal]) : stop.signal;
    const count = Math.ceil(blob.size / PART_BYTES);
    const parts: Part[] = [];
    let next = 1;
    const putNext = async (): Promise<void> => {
      while (next <= count) {
        const number = next++;
        const piece = blob.slice((number - 1) * PART_BYTES, number * PART_BYTES, blob.type);
        parts[number - 1] = await this.#put(below(url, String(number)), piece, signal, (answer) => partOf(answer, number));
      }
    };
    try {
      await Promise.all(Array.from({ length: PARALLEL_PARTS }, putNext));
    } finally {
      stop.abort(); // of one that failed the others are not wanted either
    }
    await this.#complete(below(url, "complete"), parts, caller);
  }

  async #complete(url: string, parts: Part[], caller: AbortSignal | undefined): Promise<void> {
    await request(this.#settings, {
      method: "POST",
      url,
      body: { parts },
      signal: caller,
      read: async (response) => void (await response.text()),
    });
  }
}

async function partOf(response: Response, partNumber: number): Promise<Part> {
  const { etag } = await json<Part>(response);
  return { partNumber, etag };
}

/** A path below another one, before the query. */
function below(url: string, name: string): string {
  const [path, query] = url.split("?", 2);
  return query === undefined ? `${path}/${name}` : `${path}/${name}?${query}`;
}

function nameOf(blob: Blob, type: string): string {
  const name = (blob as Partial<File>).name;
  return name || `${Date.now()}.${type.split("/")[1]?.split(/[;+]/)[0] ?? "bin"}`;
}

function lifecycleHeaders({ lifecycle }: UploadOptions): Record<string, string> {
  const wanted = lifecycle?.expiresIn;
  if (wanted === undefined) return {};
  const seconds = typeof wanted === "number" ? wanted : LIFETIMES[wanted];
  return { "x-fal-object-lifecycle": JSON.stringify({ expiration_duration_seconds: seconds }) };
}
