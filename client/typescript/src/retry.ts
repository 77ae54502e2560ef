/**
 * When a call is made again, after how long, and when it is given up. Knows errors, not calls.
 *
 * 1. A call that may run twice is repeated after any error that is retryable.
 * 2. A call that must not run twice is repeated only if the server says that it did not start it, and when to come back.
 * 3. The server's delay is never cut short. Without one, the pause doubles from 0.1 s to 5 s; both get a little jitter.
 * 4. When the next attempt would start after the deadline, the last error is thrown at once.
 */
import { ApiError, BusyError, DeadlineExceededError, FlashbulbError, UnavailableError } from "./errors.js";

export const MOST_ATTEMPTS = 10;
const FIRST_PAUSE = 100;
const LONGEST_PAUSE = 5_000;
/** With a delay, the server says by these that it did nothing. */
const NOT_STARTED = [BusyError, UnavailableError];

/** Milliseconds to wait before the next attempt; undefined: there must be none. `failures` counts the failed ones, from 1. */
export function pause(error: unknown, failures: number, repeatable: boolean): number | undefined {
  if (!(error instanceof FlashbulbError) || !error.retryable || failures >= MOST_ATTEMPTS) return undefined;
  if (error instanceof DeadlineExceededError) return undefined;
  const delay = error instanceof ApiError ? error.retryAfter : undefined;
  if (!repeatable && !(NOT_STARTED.some((kind) => error instanceof kind) && delay !== undefined)) return undefined;
  const backoff = Math.min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** (failures - 1));
  return delay === undefined ? backoff * (0.5 + Math.random() / 2) : delay * 1000 + (backoff * Math.random()) / 2;
}

/** Waits; rejects with the signal's reason when that fires. */
export function sleep(milliseconds: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    if (signal?.aborted) return reject(signal.reason);
    const over = (): void => {
      clearTimeout(timer);
      reject(signal?.reason);
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener("abort", over);
      resolve();
    }, milliseconds);
    signal?.addEventListener("abort", over, { once: true });
  });
}

/** The caller's signal and a time limit in one. `signal` fires for both; `reason` of a limit is a DeadlineExceededError. */
export class Deadline {
  readonly signal: AbortSignal;
  readonly #end: number;
  readonly #timer: ReturnType<typeof setTimeout> | undefined;

  constructor(timeout?: number, caller?: AbortSignal, what = "the call") {
    this.#end = timeout === undefined ? Infinity : performance.now() + timeout;
    const limit = new AbortController();
    if (timeout !== undefined) {
      const expire = (): void => limit.abort(new DeadlineExceededError(`${what} took longer than ${timeout} ms`));
      this.#timer = setTimeout(expire, Math.min(timeout, 2 ** 31 - 1));
    }
    this.signal = caller ? AbortSignal.any([caller, limit.signal]) : limit.signal;
  }

  /** Milliseconds that are left. */
  get left(): number {
    return this.#end - performance.now();
  }

  /** Ends the timer, which would keep a process alive. */
  clear(): void {
    clearTimeout(this.#timer);
  }
}

/** The outcome of the first attempt that is not to be repeated. */
export async function retry<T>(attempt: (signal: AbortSignal) => Promise<T>, deadline: Deadline, repeatable: boolean): Promise<T> {
  for (let failures = 1; ; failures++) {
    try {
      deadline.signal.throwIfAborted();
      return await attempt(deadline.signal);
    } catch (error) {
      if (deadline.signal.aborted) throw deadline.signal.reason;
      const delay = pause(error, failures, repeatable);
      if (delay === undefined || delay >= deadline.left) throw error;
      await sleep(delay, deadline.signal);
    }
  }
}
