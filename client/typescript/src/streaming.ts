/** Streams of one generation: progress and previews, and the pictures as the last event. */
import type { Settings } from "./config.js";
import { type AnyEndpointId, type InputOf, pathOf } from "./endpoints.js";
import { ConnectionError } from "./errors.js";
import { request } from "./request.js";
import { events } from "./sse.js";
import type { Storage } from "./storage.js";

/** What a stream may say beside the input. */
export interface StreamOptions<Input> {
  input: Input;
  headers?: Readonly<Record<string, string>>;
  abortSignal?: AbortSignal;
}

/** A running generation. Iterate it for its events, or await `done()` for the last one. Leaving the loop stops the drawing. */
export class FlashbulbStream<Event = unknown> implements AsyncIterable<Event> {
  readonly #source: AsyncGenerator<Event, void, void>;
  readonly #stop: AbortController;
  #last: Event | undefined;

  constructor(source: (signal: AbortSignal) => AsyncGenerator<Event, void, void>, signal?: AbortSignal) {
    this.#stop = new AbortController();
    this.#source = source(signal ? AbortSignal.any([signal, this.#stop.signal]) : this.#stop.signal);
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<Event, void, void> {
    try {
      for await (const event of this.#source) {
        this.#last = event;
        yield event;
      }
    } finally {
      this.#stop.abort();
    }
  }

  /** The last event, once the stream has ended. */
  async done(): Promise<Event> {
    for await (const event of this.#source) this.#last = event;
    if (this.#last === undefined) throw new ConnectionError("the stream ended without an event");
    return this.#last;
  }

  /** Stops the drawing. */
  abort(): void {
    this.#stop.abort();
  }
}

/** Opens a stream; bytes in the input are uploaded first. */
export async function stream<Id extends AnyEndpointId, Event>(
  settings: Settings,
  storage: Storage,
  id: Id,
  options: StreamOptions<InputOf<Id>>,
): Promise<FlashbulbStream<Event>> {
  const body = await storage.transformInput(options.input, options.abortSignal);
  return new FlashbulbStream<Event>((signal) => opened<Event>(settings, id, body, options, signal), options.abortSignal);
}

async function* opened<Event>(
  settings: Settings,
  id: string,
  body: unknown,
  options: StreamOptions<unknown>,
  signal: AbortSignal,
): AsyncGenerator<Event, void, void> {
  const headers = { ...options.headers, accept: "text/event-stream" };
  const url = `${settings.at("run")}/${pathOf(id)}/stream`;
  const response = await request(settings, {
    method: "POST", url, headers, body, signal, timeout: Infinity, repeatable: false, read: async (answer) => answer,
  });
  for await (const data of events(response)) yield JSON.parse(data) as Event;
}
