/**
 * Calls that nobody has seen are made again.
 *
 * A server ends its connections now and then (GOAWAY), so that its replicas share the callers. A call that is made in that moment is refused
 * (REFUSED_STREAM), which means that no part of it was looked at (RFC 9113, section 8.7): it is made again, over the next connection.
 */
import type { Interceptor } from "@connectrpc/connect";

const MOST_ATTEMPTS = 5;
/** Messages of a stream that are kept for another attempt. A call is refused before more are sent. */
const MOST_KEPT = 4;

export const again: Interceptor = (next) => async (request) => {
  if (!request.stream) return attempts(() => next(request), () => true);
  const messages = new Messages(request.message);
  try {
    return await attempts(() => next({ ...request, message: messages.fromStart() }), () => messages.all);
  } finally {
    messages.settle();
  }
};

async function attempts<T>(attempt: () => Promise<T>, repeatable: () => boolean): Promise<T> {
  for (let number = 1; ; number++) {
    try {
      return await attempt();
    } catch (error) {
      if (number === MOST_ATTEMPTS || !refused(error) || !repeatable()) throw error;
    }
  }
}

/** The messages of a stream, which can be sent from the first one again as long as `all` of them are kept. */
class Messages<T> {
  all = true;
  readonly #source: AsyncIterator<T>;
  #kept: Promise<IteratorResult<T>>[] = [];
  #keeping = true;

  constructor(source: AsyncIterable<T>) {
    this.#source = source[Symbol.asyncIterator]();
  }

  async *fromStart(): AsyncGenerator<T, void, void> {
    const kept = [...this.#kept];
    try {
      for (;;) {
        const message = await (kept.shift() ?? this.#further());
        if (message.done) return;
        yield message.value;
      }
    } finally {
      if (!this.#keeping) await this.#source.return?.();
    }
  }

  /** The call has begun, or is given up: no message is kept any more. */
  settle(): void {
    this.#keeping = false;
    this.#kept = [];
  }

  #further(): Promise<IteratorResult<T>> {
    const message = this.#source.next();
    if (this.#kept.length === MOST_KEPT) this.all = false;
    else if (this.#keeping) this.#kept.push(message);
    return message;
  }
}

function refused(error: unknown): boolean {
  for (let cause = error; cause instanceof Error; cause = cause.cause) if (cause.message.includes("REFUSED_STREAM")) return true;
  return false;
}
