/** Realtime connections over WebSocket: frames as msgpack, answers as the service and fal's own send them. */
import { decode, encode } from "@msgpack/msgpack";
import { webSocketClass } from "#websocket";

import type { Settings } from "./config.js";
import { Difference } from "./difference.js";
import { pathOf } from "./endpoints.js";
import { ConfigurationError, ConnectionError, type FieldError, FlashbulbError, RealtimeError } from "./errors.js";
import type { RealtimeOutput } from "./realtime.js";
import type { Tokens } from "./tokens.js";
import { type Dial, type DropReason, type Frame, KEPT, type Wire, type WireEvents } from "./wire.js";

/** Bytes of a frame that the server takes. */
export const MAX_FRAME_BYTES = 16 * 1024 * 1024;
/** Bytes that may wait in the socket before newer frames take the place of older ones here. */
const BACKLOG_BYTES = 256 * 1024;
/** Milliseconds that a connection may take to open. */
const OPEN_TIMEOUT = 30_000;
/** Milliseconds without a message, while an answer is due, after which a socket counts as broken; the server sends one every 15 s. */
const SILENCE = 45_000;
const NORMAL = new Set([1000, 1001, 1005]);
const PASSING = new Set([1006, 1011, 1012, 1013, 1014]);
/** Errors of a session that another connection mends. */
const MENDED = new Set(["NO_WORKER", "TOKEN_EXPIRED", "DRAINING", "STORE_UNAVAILABLE"]);

type Fields = Record<string, unknown>;

/** How a socket is opened. */
export interface SocketOptions {
  path: string;
  maxBuffering: number;
  maxFramesInFlight?: number | undefined;
  similarImageThreshold?: number | undefined;
  previews: () => boolean;
}

interface Message {
  type?: string;
  status?: string;
  action?: string;
  error?: string;
  reason?: string;
  request_id?: string;
  detail?: unknown;
  resume_token?: string;
  url?: string;
  step?: number;
  image_index?: number;
}

/** What outlives a connection. `number`: of the frame that was sent last. */
interface Memory {
  resume: string;
  number: number;
  readonly known: Difference;
}

/** Makes the connections of one session. */
export function socketDial(settings: Settings, tokens: Tokens, id: string, options: SocketOptions): Dial<Fields, RealtimeOutput> {
  const memory: Memory = { resume: "", number: 0, known: new Difference() };
  return async (events, signal) => {
    const { token, fresh } = await tokens.get(signal);
    signal.throwIfAborted();
    const socket = new (await socketClass())(address(settings, id, options, token, memory.resume));
    socket.binaryType = "arraybuffer";
    memory.known.forget();
    const wire = new SocketWire(socket, events, memory);
    wire.onUnauthorized = () => {
      tokens.forget();
      return !fresh;
    };
    await opened(socket, signal);
    return wire;
  };
}

async function socketClass(): Promise<typeof WebSocket> {
  const found = await webSocketClass();
  if (found === undefined) throw new ConfigurationError("this platform has no WebSocket");
  return found;
}

function address(settings: Settings, id: string, options: SocketOptions, token: string, resume: string): string {
  const base = settings.at("run").replace(/^http/, "ws");
  const query = new URLSearchParams({ incremental: "1", max_buffering: String(options.maxBuffering) });
  if (options.maxFramesInFlight !== undefined) query.set("max_frames_in_flight", String(options.maxFramesInFlight));
  if (options.similarImageThreshold !== undefined) query.set("similar_image_threshold", String(options.similarImageThreshold));
  if (token) query.set("fal_jwt_token", token);
  if (options.previews()) query.set("previews", "1");
  if (resume) query.set("resume_token", resume);
  return `${base}/${pathOf(id)}${options.path}?${query}`;
}

/** Resolves when the socket is open. Browsers do not tell why one cannot be opened. */
function opened(socket: WebSocket, signal: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const fail = (error: unknown): void => {
      settle();
      socket.close();
      reject(error);
    };
    const refused = (): void => fail(new ConnectionError(`${new URL(socket.url).host} does not open a WebSocket`));
    const aborted = (): void => fail(signal.reason);
    const open = (): void => {
      settle();
      resolve();
    };
    const timer = setTimeout(refused, OPEN_TIMEOUT);
    const settle = (): void => {
      clearTimeout(timer);
      signal.removeEventListener("abort", aborted);
      socket.removeEventListener("open", open);
      socket.removeEventListener("close", refused);
    };
    signal.addEventListener("abort", aborted, { once: true });
    socket.addEventListener("open", open);
    socket.addEventListener("close", refused);
  });
}

/**
 * One socket. Frames carry a number as `request_id`, which answers name; the caller's own label is put back. It is a new one each time a
 * frame is sent, so that an answer to the time before is not taken for the one that is due.
 */
class SocketWire implements Wire<Fields> {
  /** Forgets the token; whether another one may be let in. */
  onUnauthorized: () => boolean = () => false;
  readonly #asked = new Map<number, { frameId: number; label: unknown }>();
  #refusal: FlashbulbError | undefined;
  #timer: ReturnType<typeof setTimeout> | undefined;

  constructor(
    private readonly socket: WebSocket,
    private readonly events: WireEvents<RealtimeOutput>,
    private readonly memory: Memory,
  ) {
    socket.addEventListener("message", ({ data }) => this.#heard(data as ArrayBuffer | string));
    socket.addEventListener("close", ({ code, reason }) => this.#over(code, reason));
    socket.addEventListener("error", () => undefined); // a close follows, and tells
  }

  get congested(): boolean {
    return this.socket.bufferedAmount > BACKLOG_BYTES;
  }

  send(frame: Frame<Fields>): void {
    const number = ++this.memory.number;
    const { request_id: label, ...values } = frame.input;
    const { changed, reset } = this.memory.known.to(values);
    const nothing = Object.fromEntries(reset.map((name) => [name, null]));
    const bytes = encode({ ...changed, ...nothing, request_id: String(number) });
    this.#asked.set(number, { frameId: frame.id, label });
    if (bytes.length > MAX_FRAME_BYTES) {
      const message = `a frame of ${bytes.length} bytes is more than ${MAX_FRAME_BYTES}: upload the file and send its link`;
      return this.#refused(number, new RealtimeError("INVALID_INPUT", message));
    }
    this.socket.send(bytes as Uint8Array<ArrayBuffer>);
    this.#watch();
  }

  close(): void {
    this.#asked.clear();
    clearTimeout(this.#timer);
    this.socket.close(1000);
  }

  #watch(): void {
    if (this.#asked.size) this.#timer ??= setTimeout(() => this.#silent(), SILENCE);
  }

  #silent(): void {
    this.events.closed(new ConnectionError(`nothing came for ${SILENCE / 1000} s`)); // first: on a dead network a close takes its time
    this.close();
  }

  #heard(data: ArrayBuffer | string): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    this.#read(data);
    this.#watch();
  }

  #read(data: ArrayBuffer | string): void {
    const message = (typeof data === "string" ? JSON.parse(data) : decode(new Uint8Array(data))) as Message;
    if (message.status === "error" && message.error === "Unauthorized") return this.#unauthorized();
    if (this.#refusal) this.events.error(this.#refusal); // the session goes on all the same
    this.#refusal = undefined;
    if (message.type === "x-fal-error") return this.#error(message);
    if (message.type === "x-fal-message") return this.#told(message);
    this.#picture(message as unknown as RealtimeOutput);
  }

  #picture(output: RealtimeOutput): void {
    const { request_id, ...rest } = output;
    const asked = this.#asked.get(Number(request_id));
    if (!asked) return;
    for (const number of this.#asked.keys()) if (number <= Number(request_id)) this.#asked.delete(number); // older ones as well
    this.events.result(asked.frameId, asked.label === undefined ? rest : { ...rest, request_id: String(asked.label) });
  }

  #told(message: Message): void {
    if (message.action === "dropped") this.#drop(Number(message.request_id), (message.reason ?? "superseded").toLowerCase() as DropReason);
    if (message.action === "opened") this.memory.resume = message.resume_token ?? "";
    if (message.action === "preview" && message.url) {
      const [head, content] = message.url.split(",", 2) as [string, string];
      this.events.preview({
        content: Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0)),
        content_type: head.slice(5).split(";")[0] ?? "",
        step: message.step ?? 0,
        image_index: message.image_index ?? 0,
      });
    }
  }

  #error(message: Message): void {
    const code = message.error ?? "UNKNOWN";
    if (code === "TIMEOUT") return; // closed for want of frames: opened again when there is one
    const fields = Array.isArray(message.detail) ? (message.detail as FieldError[]) : [];
    const error = new RealtimeError(code, message.reason ?? code, fields, { retryable: MENDED.has(code) });
    if (message.request_id !== undefined) this.#refused(Number(message.request_id), error);
    else this.#refusal = error; // about the session, if it is closed now
  }

  #unauthorized(): void {
    const again = this.onUnauthorized();
    const reason = this.#refusal?.message ?? "the token was refused";
    this.#refusal = new RealtimeError("UNAUTHORIZED", reason, [], { retryable: again });
    this.socket.close(1000);
  }

  #refused(number: number, error: RealtimeError): void {
    this.#drop(number, error.fieldErrors.length || error.code === "INVALID_INPUT" ? "invalid" : "failed", error);
  }

  #drop(number: number, reason: DropReason, error?: RealtimeError): void {
    const asked = this.#asked.get(number);
    if (!asked) return;
    this.#asked.delete(number);
    if (!KEPT.has(reason)) {
      this.memory.known.forget(); // a refused frame leaves no trace in the server's values
      for (const later of this.#asked.keys()) if (later > number) this.#asked.delete(later); // drawn from others: not what was asked
    }
    this.events.dropped(asked.frameId, reason, error);
  }

  #over(code: number, reason: string): void {
    clearTimeout(this.#timer);
    if (this.#refusal) return this.events.closed(this.#refusal);
    if (NORMAL.has(code)) return this.events.closed();
    const text = `the connection was closed with ${code}${reason && `: ${reason}`}`;
    this.events.closed(PASSING.has(code) ? new ConnectionError(text) : new RealtimeError("CONNECTION_CLOSED", text));
  }
}
