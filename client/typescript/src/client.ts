/** A client: the calls of every part of the service over one set of settings. */
import { type Config, Settings } from "./config.js";
import { type AnyEndpointId, type InputOf, type Output, pathOf, type Result } from "./endpoints.js";
import { DeadlineExceededError } from "./errors.js";
import { Queue, type QueueStatus, randomKey, startHeaders, type SubmitOptions, type WatchOptions } from "./queue.js";
import { Realtime } from "./realtime.js";
import { json, request } from "./request.js";
import { Deadline } from "./retry.js";
import { Storage } from "./storage.js";
import { type FlashbulbStream, stream, type StreamOptions } from "./streaming.js";

/** What a direct call may say beside the input. */
export interface RunOptions<Input> {
  input: Input;
  hint?: string;
  /** Seconds until it must have started. */
  startTimeout?: number;
  /** Milliseconds until it is given up, which stops the drawing. Default: no limit. */
  timeout?: number;
  headers?: Readonly<Record<string, string>>;
  abortSignal?: AbortSignal;
}

/** How a request is submitted and watched. */
export interface SubscribeOptions<Input> extends SubmitOptions<Input>, Omit<WatchOptions, "requestId"> {
  /** Hears the request's id. */
  onEnqueue?: (requestId: string) => void;
}

/** Milliseconds that a request which nobody waits for any more may take to be cancelled. */
const WITHDRAW_TIMEOUT = 5_000;

/** The calls of the service. */
export class Client {
  readonly queue: Queue;
  readonly storage: Storage;
  readonly realtime: Realtime;
  readonly #settings: Settings;

  constructor(config: Config = {}) {
    this.#settings = new Settings(config);
    this.storage = new Storage(this.#settings);
    this.queue = new Queue(this.#settings, this.storage);
    this.realtime = new Realtime(this.#settings);
  }

  /** Changes the settings; what is not named stays. */
  config(config: Config): void {
    this.#settings.update(config);
  }

  /** Draws at once, without the queue. Repeated only if the server says that it did not start. */
  async run<Id extends AnyEndpointId, Data = Output>(id: Id, options: RunOptions<InputOf<Id>>): Promise<Result<Data>> {
    const body = await this.storage.transformInput(options.input, options.abortSignal);
    return request(this.#settings, {
      method: "POST",
      url: `${this.#settings.at("run")}/${pathOf(id)}`,
      body,
      headers: { ...startHeaders(options), ...options.headers },
      repeatable: false,
      signal: options.abortSignal,
      timeout: options.timeout ?? Infinity,
      read: async (response) => ({
        data: await json<Data>(response),
        requestId: response.headers.get("x-fal-request-id") ?? "",
      }),
    });
  }

  /** Submits to the queue, reports every change, and waits for the pictures. On a timeout or an abort the request is cancelled. */
  async subscribe<Id extends AnyEndpointId, Data = Output>(
    id: Id,
    options: SubscribeOptions<InputOf<Id>>,
  ): Promise<Result<Data>> {
    const deadline = new Deadline(options.timeout, options.abortSignal, "the request");
    const abortSignal = deadline.signal;
    const idempotencyKey = options.idempotencyKey ?? randomKey();
    let submission: SubmitOptions<InputOf<Id>> | undefined;
    let requestId = "";
    try {
      const input = (await this.storage.transformInput(options.input, abortSignal)) as InputOf<Id>;
      submission = { ...options, input, idempotencyKey };
      const submitted = await this.queue.submit(id, { ...submission, abortSignal });
      requestId = submitted.request_id;
      options.onEnqueue?.(requestId);
      options.onQueueUpdate?.(submitted satisfies QueueStatus);
      await this.queue.subscribeToStatus(id, { ...options, requestId, abortSignal });
      return await this.queue.result<Data>(id, { requestId, abortSignal });
    } catch (error) {
      if (submission && abortSignal.aborted) requestId = await this.#withdraw(id, submission, requestId);
      if (error instanceof DeadlineExceededError && requestId) throw new DeadlineExceededError(error.message, requestId);
      throw error;
    } finally {
      deadline.clear();
    }
  }

  /** Draws at once and streams what happens; the last event holds the pictures. */
  async stream<Id extends AnyEndpointId, Event = unknown>(
    id: Id,
    options: StreamOptions<InputOf<Id>>,
  ): Promise<FlashbulbStream<Event>> {
    return stream<Id, Event>(this.#settings, this.storage, id, options);
  }

  /** Cancels what nobody waits for any more; gives its id. That it was over already, or nobody answers, does not matter then. */
  async #withdraw<Id extends AnyEndpointId>(id: Id, submission: SubmitOptions<InputOf<Id>>, known: string): Promise<string> {
    const abortSignal = AbortSignal.timeout(WITHDRAW_TIMEOUT);
    let requestId = known;
    try {
      // The server may have stored it: the same key finds it, or stores it now, and then it is cancelled.
      requestId ||= (await this.queue.submit(id, { ...submission, abortSignal })).request_id;
      await this.queue.cancel(id, { requestId, abortSignal });
    } catch {
      // Its start timeout ends it, if nothing else does.
    }
    return requestId;
  }
}

/** A client of its own. */
export function createClient(config: Config = {}): Client {
  return new Client(config);
}
