/** Server-sent events of an answer (WHATWG HTML, section 9.2.6), as far as the service uses them. */
import { ConnectionError } from "./errors.js";

/** Milliseconds without a byte after which a stream counts as dead; the server sends a comment every 15 s. */
export const SILENCE = 45_000;

/** The `data` of every event. Throws a ConnectionError when the stream breaks or nothing comes for `silence` ms. */
export async function* events(response: Response, silence: number = SILENCE): AsyncGenerator<string, void, void> {
  if (!response.body) return;
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  try {
    for (;;) {
      const { done, value } = await within(reader, silence);
      if (done) return;
      const parts = (text + value).split(/\r\n\r\n|\n\n|\r\r/);
      text = parts.pop() ?? "";
      yield* parts.map(dataOf).filter((data) => data !== undefined);
    }
  } finally {
    await reader.cancel().catch(() => undefined); // it may have failed already, which was thrown above
  }
}

/** The next chunk, if it comes in time. */
async function within<T>(reader: ReadableStreamDefaultReader<T>, silence: number): Promise<ReadableStreamReadResult<T>> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const silent = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new ConnectionError(`nothing came for ${silence / 1000} s`)), silence);
  });
  try {
    return await Promise.race([reader.read(), silent]);
  } catch (error) {
    if (error instanceof TypeError) throw new ConnectionError("the connection broke", { cause: error });
    throw error;
  } finally {
    clearTimeout(timer);
  }
}

/** The data lines of one event; undefined for a comment. */
function dataOf(event: string): string | undefined {
  const lines = event.split(/\r\n|\n|\r/).filter((line) => line.startsWith("data:"));
  return lines.length ? lines.map((line) => line.slice(5).replace(/^ /, "")).join("\n") : undefined;
}
