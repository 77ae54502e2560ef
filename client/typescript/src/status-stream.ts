/** The states of a request as the server streams them, over as many connections as it takes. */
import type { Settings } from "./config.js";
import { ConnectionError } from "./errors.js";
import type { LogLine, QueueStatus } from "./queue.js";
import { attempt } from "./request.js";
import { pause, sleep } from "./retry.js";
import { events } from "./sse.js";

/** Yields until COMPLETED. Throws what ends it otherwise: a FlashbulbError, or the signal's reason. */
export async function* statuses(settings: Settings, url: string, signal?: AbortSignal): AsyncGenerator<QueueStatus, void, void> {
  let failures = 0;
  for (;;) {
    try {
      for await (const status of connection(settings, url, signal)) {
        failures = 0;
        yield status;
        if (status.status === "COMPLETED") return;
      }
      throw new ConnectionError("the server ended the stream before the request was over");
    } catch (error) {
      signal?.throwIfAborted();
      failures += 1;
      const delay = pause(error, failures, true);
      if (delay === undefined) throw error;
      await sleep(delay, signal);
    }
  }
}

/** One connection. The server sends each log line once and, on a new connection, again from the first. */
async function* connection(settings: Settings, url: string, signal?: AbortSignal): AsyncGenerator<QueueStatus, void, void> {
  const stop = new AbortController();
  const both = signal ? AbortSignal.any([signal, stop.signal]) : stop.signal;
  const logs: LogLine[] = [];
  try {
    const headers = { accept: "text/event-stream" };
    const response = await attempt(settings, { method: "GET", url, headers, read: async (answer) => answer }, both);
    for await (const data of events(response)) {
      const status = JSON.parse(data) as QueueStatus & { logs?: LogLine[] | null };
      logs.push(...(status.logs ?? []));
      yield { ...status, ...("logs" in status ? { logs: [...logs] } : {}) } as QueueStatus;
    }
  } finally {
    stop.abort();
  }
}
