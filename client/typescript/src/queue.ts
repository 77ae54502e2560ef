/** The life of a request in the durable queue: submitted, watched, fetched, cancelled. */
import type { Settings } from "./config.js";
import { type AnyEndpointId, appOf, type InputOf, type Output, pathOf, type Result } from "./endpoints.js";
import { ConfigurationError } from "./errors.js";
import { json, request } from "./request.js";
import { sleep } from "./retry.js";
import type { Storage } from "./storage.js";
import { statuses } from "./status-stream.js";

/** A line of a request's log. */
export interface LogLine {
  message: string;
  timestamp: string;
  level: string;
  source: string;
}

interface StatusBase {
  request_id: string;
  response_url: string;
  status_url: string;
  cancel_url: string;
  /** The service's own name of the state: `QUEUED`, `RUNNING`, `SUCCEEDED`, `FAILED`, `CANCELLED` or `EXPIRED`. */
  state: string;
  /** Expected seconds from now to the pictures, where they are known. */
  eta?: number;
  /** Steps so far, over all pictures. */
  progress?: { step: number; total_steps: number };
}

/** The request waits; `queue_position` 0 is next. */
export interface InQueue extends StatusBase {
  status: "IN_QUEUE";
  queue_position: number;
}

/** A worker draws it. */
export interface InProgress extends StatusBase {
  status: "IN_PROGRESS";
  logs: LogLine[];
}

/** It is over; with `error`, without pictures. */
export interface Completed extends StatusBase {
  status: "COMPLETED";
  logs: LogLine[];
  metrics: { inference_time?: number | null };
  /** `ERROR`: there are no pictures, and `error` says why. */
  outcome: "OK" | "ERROR";
  error?: string;
  error_type?: string;
}

/** Where a request is. */
export type QueueStatus = InQueue | InProgress | Completed;

/** What a submission may say beside the input. */
export interface SubmitOptions<Input> {
  input: Input;
  /** Where the server tells that the request is over. */
  webhookUrl?: string;
  /** `low` lets others go first. Default: `normal`. */
  priority?: "normal" | "low";
  /** Requests with the same hint prefer the same worker. */
  hint?: string;
  /** Seconds that it may wait in the queue before it is started, 0.1 or more. */
  startTimeout?: number;
  /** The same key with the same input gives the same request. Default: one of its own for every call, over all its attempts. */
  idempotencyKey?: string;
  /** Headers to send as they are. */
  headers?: Readonly<Record<string, string>>;
  abortSignal?: AbortSignal;
}

/** Names a request. */
export interface RequestOptions {
  requestId: string;
  abortSignal?: AbortSignal;
}

/** Names a request, and whether its log is wanted. */
export interface StatusOptions extends RequestOptions {
  logs?: boolean;
}

/** How a request is watched. */
export interface WatchOptions extends StatusOptions {
  /** `streaming`: the server tells every change at once. `polling`: it is asked every `pollInterval` ms. Default: streaming. */
  mode?: "streaming" | "polling";
  /** Milliseconds. Default: 500. */
  pollInterval?: number;
  /** Milliseconds until the request is cancelled and the call rejects with a DeadlineExceededError. Default: no limit. */
  timeout?: number;
  /** Hears of every change. `logs` are all lines so far. */
  onQueueUpdate?: (status: QueueStatus) => void;
}

/** Calls of one endpoint's queue. Every one takes the endpoint's id. */
export class Queue {
  readonly #settings: Settings;
  readonly #storage: Storage;

  constructor(settings: Settings, storage: Storage) {
    this.#settings = settings;
    this.#storage = storage;
  }

  /** Adds a request; it is stored durably once this resolves. Bytes in the input are uploaded first. Repeated safely. */
  async submit<Id extends AnyEndpointId>(id: Id, options: SubmitOptions<InputOf<Id>>): Promise<InQueue> {
    const body = await this.#storage.transformInput(options.input, options.abortSignal);
    const query = options.webhookUrl ? `?${new URLSearchParams({ fal_webhook: options.webhookUrl })}` : "";
    return request(this.#settings, {
      method: "POST",
      url: `${this.#settings.at("queue")}/${pathOf(id)}${query}`,
      body,
      headers: submitHeaders(options),
      signal: options.abortSignal,
      read: json<InQueue>,
    });
  }

  /** Where a request is. */
  async status(id: AnyEndpointId, options: StatusOptions): Promise<QueueStatus> {
    const status = await request(this.#settings, {
      method: "GET",
      url: `${this.#address(id, options)}/status?logs=${options.logs ? 1 : 0}`,
      signal: options.abortSignal,
      read: json<QueueStatus>,
    });
    return "logs" in status ? { ...status, logs: status.logs ?? [] } : status; // null where they were not asked for
  }

  /** The states of a request, from the one now to the last. A stream that breaks is taken up again. `logs` are all lines so far. */
  streamStatus(id: AnyEndpointId, options: StatusOptions): AsyncGenerator<QueueStatus, void, void> {
    const url = `${this.#address(id, options)}/status/stream?logs=${options.logs ? 1 : 0}`;
    return statuses(this.#settings, url, options.abortSignal);
  }

  /** Waits until a request is over. It does not say whether there are pictures: `result` does. */
  async subscribeToStatus(id: AnyEndpointId, options: WatchOptions): Promise<Completed> {
    for await (const status of this.#watch(id, options)) {
      options.onQueueUpdate?.(status);
      if (status.status === "COMPLETED") return status;
    }
    throw new ConfigurationError("the watch ended before the request did"); // both watches go on until COMPLETED
  }

  /** The pictures of a request that is over. Throws why there are none. */
  async result<Data = Output>(id: AnyEndpointId, options: RequestOptions): Promise<Result<Data>> {
    const data = await request(this.#settings, {
      method: "GET",
      url: this.#address(id, options),
      signal: options.abortSignal,
      read: json<Data>,
    });
    return { data, requestId: options.requestId };
  }

  /** Cancels a request. Throws a NotFoundError, or an ApiError if it was over already. */
  async cancel(id: AnyEndpointId, options: RequestOptions): Promise<void> {
    await request(this.#settings, {
      method: "PUT",
      url: `${this.#address(id, options)}/cancel`,
      signal: options.abortSignal,
      read: async (response) => void (await response.text()),
    });
  }

  #watch(id: AnyEndpointId, options: WatchOptions): AsyncGenerator<QueueStatus, void, void> {
    return options.mode === "polling" ? this.#poll(id, options) : this.streamStatus(id, options);
  }

  async *#poll(id: AnyEndpointId, options: WatchOptions): AsyncGenerator<QueueStatus, void, void> {
    for (;;) {
      const status = await this.status(id, options);
      yield status;
      if (status.status === "COMPLETED") return;
      await sleep(options.pollInterval ?? 500, options.abortSignal);
    }
  }

  #address(id: AnyEndpointId, { requestId }: RequestOptions): string {
    if (!requestId) throw new ConfigurationError("requestId is missing");
    return `${this.#settings.at("queue")}/${appOf(id)}/requests/${encodeURIComponent(requestId)}`;
  }
}

function submitHeaders(options: SubmitOptions<unknown>): Record<string, string> {
  return {
    "x-fal-queue-priority": options.priority ?? "normal",
    "idempotency-key": options.idempotencyKey ?? randomKey(),
    ...startHeaders(options),
    ...options.headers,
  };
}

/** Headers that direct calls and submissions share. */
export function startHeaders(options: { hint?: string; startTimeout?: number }): Record<string, string> {
  return {
    ...(options.hint === undefined ? {} : { "x-fal-runner-hint": options.hint }),
    ...(options.startTimeout === undefined ? {} : { "x-fal-request-timeout": String(options.startTimeout) }),
  };
}

/** 128 random bits in hex; `crypto.randomUUID` is missing in pages without TLS. */
export function randomKey(): string {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}
