/** One HTTP call of the service: its address, key, deadline and retries. */
import type { Settings } from "./config.js";
import { ConnectionError, errorOf } from "./errors.js";
import { Deadline, retry } from "./retry.js";

/** A call. `body` is sent as JSON. */
export interface Call<T> {
  method: "GET" | "POST" | "PUT";
  url: string;
  read: (response: Response) => Promise<T>;
  body?: unknown;
  headers?: Readonly<Record<string, string>> | undefined;
  /** Whether it may run twice. Default: true. */
  repeatable?: boolean;
  signal?: AbortSignal | undefined;
  /** Milliseconds over all attempts. Default: those of the client; Infinity: no limit. */
  timeout?: number | undefined;
}

/** The answer's JSON. */
export async function json<T>(response: Response): Promise<T> {
  return (await response.json()) as T;
}

/** Makes a call until it succeeds, must not be repeated, or its time is over. Throws a FlashbulbError, or the signal's reason. */
export async function request<T>(settings: Settings, call: Call<T>): Promise<T> {
  const timeout = call.timeout ?? settings.timeout;
  const deadline = new Deadline(timeout === Infinity ? undefined : timeout, call.signal);
  try {
    return await retry((signal) => attempt(settings, call, signal), deadline, call.repeatable ?? true);
  } finally {
    deadline.clear();
  }
}

/** One attempt. What `read` reads is under the same signal. */
export async function attempt<T>(settings: Settings, call: Call<T>, signal: AbortSignal): Promise<T> {
  const [url, headers] = await addressed(settings, call);
  const response = await fetched(settings.fetch, url, {
    method: call.method,
    headers,
    signal,
    ...(call.body === undefined ? {} : { body: JSON.stringify(call.body) }),
  });
  if (!response.ok) throw await errorOf(response);
  return reading(() => call.read(response), signal);
}

/** What `fetch` gives; that nobody answers becomes a ConnectionError. */
export async function fetched(fetch: typeof globalThis.fetch, url: string, init: RequestInit & { signal: AbortSignal }): Promise<Response> {
  return reading(() => fetch(url, init), init.signal, new URL(url, "http://page").host);
}

async function reading<T>(read: () => Promise<T>, signal: AbortSignal, host?: string): Promise<T> {
  try {
    return await read();
  } catch (error) {
    if (signal.aborted || !isNetwork(error)) throw error;
    throw new ConnectionError(host ? `${host} does not answer` : "the connection broke", { cause: error });
  }
}

/** `fetch` and bodies reject with a TypeError where the network is at fault, and JSON that was cut off is a SyntaxError. */
function isNetwork(error: unknown): boolean {
  return error instanceof TypeError || error instanceof SyntaxError;
}

async function addressed(settings: Settings, call: Call<unknown>): Promise<[string, Record<string, string>]> {
  const headers: Record<string, string> = { accept: "application/json", ...call.headers };
  if (call.body !== undefined) headers["content-type"] = "application/json";
  const key = await settings.key();
  if (key !== undefined) headers["authorization"] ??= `Key ${key}`;
  const proxy = settings.proxy;
  if (proxy === undefined) return [call.url, headers];
  return [proxy, { ...headers, "x-fal-target-url": call.url }];
}
