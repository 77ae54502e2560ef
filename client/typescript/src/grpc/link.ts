/**
 * Realtime connections over gRPC: one bidirectional stream each, with only what changed in a frame.
 *
 * 1. A session is opened with the values of its first frame, so that the server tells the defaults of all other fields.
 * 2. A field goes back to its default by the default's value. Where that cannot be said (a text that is empty, or a field that the
 *    session began with), a new session begins, with the same seed.
 * 3. After a break the resume token is sent, and everything that the caller gave. Where nobody knows the session any more, a new one
 *    does as well.
 */
import { create, type DescField, type DescMessage, type Message } from "@bufbuild/protobuf";
import { reflect } from "@bufbuild/protobuf/reflect";

import { Difference } from "../difference.js";
import { ApiError, AuthenticationError, ConnectionError, FlashbulbError, RealtimeError, ValidationError } from "../errors.js";
import {
  CloseReason, type ConnectRequest, ConnectRequestSchema, type ConnectResponse, DropReason as Dropped, FramePolicy, type SessionClosed,
  type SessionOpened,
} from "../gen/flashbulb/v1/realtime_pb.js";
import type { RealtimeOutput } from "../realtime.js";
import { type Dial, type DropReason, type Frame, KEPT, type Wire, type WireEvents } from "../wire.js";
import { errorOf, errorOfStatus } from "./errors.js";
import { initOf, memberOf, wrapped } from "./input.js";
import { Outgoing } from "./outgoing.js";
import { outputOf } from "./output.js";

/** Milliseconds without a message after which a connection counts as broken; the server sends a heartbeat every 15 s. */
export const SILENCE = 45_000;
/** Messages that may wait to be written before newer frames take the place of older ones. */
const BACKLOG = 2;

type Fields = Record<string, unknown>;
type Member = DescField & { message: DescMessage };

/** The call that opens a stream. */
export type Open = (requests: AsyncIterable<ConnectRequest>, signal: AbortSignal) => AsyncIterable<ConnectResponse>;

/** How a session is opened. */
export interface LinkOptions {
  previews: () => boolean;
  maxFps?: number | undefined;
  maxBuffering: number;
  maxFramesInFlight?: number | undefined;
  similarImageThreshold?: number | undefined;
  /** Forgets the token; whether another one can be had. */
  renew: () => boolean;
}

/** What outlives a connection. */
interface Memory {
  resume: string;
  seed: bigint | undefined;
  known: Difference;
  defaults: Message | undefined;
  /** Fields that the session began with. */
  given: ReadonlySet<string>;
  /** Whether sessions are opened without values: those of the first frame were refused, and the frame itself is to be. */
  bare: boolean;
  number: number;
  renewed: boolean;
}

/** Makes the connections of one session. */
export function grpcDial(open: Open, id: string, options: LinkOptions): Dial<Fields, RealtimeOutput> {
  const member = memberOf(id);
  const memory: Memory = {
    resume: "", seed: undefined, known: new Difference(), defaults: undefined, given: new Set(), bare: false, number: 0, renewed: false,
  };
  return async (events, signal, first) => {
    memory.bare = false;
    for (;;) {
      const link = new Link(open, member, memory, options, events);
      try {
        await link.begin(signal, first.input);
        return link;
      } catch (error) {
        signal.throwIfAborted();
        const failure = errorOf(error);
        if (failure instanceof AuthenticationError && !memory.renewed && options.renew()) memory.renewed = true;
        else if (failure instanceof ApiError && !failure.retryable && memory.resume) memory.resume = "";
        else if (failure instanceof ValidationError && !memory.bare) memory.bare = true;
        else throw failure;
      }
    }
  };
}

class Link implements Wire<Fields> {
  readonly #outgoing = new Outgoing<ConnectRequest>();
  readonly #stop = new AbortController();
  readonly #frames = new Map<number, Frame<Fields>>();
  #over = false;

  constructor(
    private readonly open: Open,
    private readonly member: Member,
    private readonly memory: Memory,
    private readonly options: LinkOptions,
    private readonly events: WireEvents<RealtimeOutput>,
  ) {}

  /** Resolves when the session is open. */
  async begin(signal: AbortSignal, input: Fields): Promise<void> {
    const { bare, resume } = this.memory;
    const opening = bare || resume ? {} : valuesOf(input);
    const abort = (): void => this.#stop.abort(signal.reason);
    signal.addEventListener("abort", abort, { once: true });
    this.#stop.signal.addEventListener("abort", () => signal.removeEventListener("abort", abort), { once: true });
    this.#push({ case: "open", value: this.#opening(opening) });
    const reader = this.open(this.#outgoing, this.#stop.signal)[Symbol.asyncIterator]();
    try {
      const first = (await this.#next(reader))?.message;
      if (first?.case === "closed") throw closing(first.value) ?? new ConnectionError("the server closed the session at once");
      if (first?.case !== "opened") throw new ConnectionError("the server did not open the session");
      this.#opened(first.value, opening);
    } catch (error) {
      this.#stop.abort();
      throw error;
    }
    void this.#read(reader);
  }

  get congested(): boolean {
    return this.#outgoing.length > BACKLOG;
  }

  send(frame: Frame<Fields>): void {
    const { changed, reset } = this.memory.known.to(valuesOf(frame.input));
    const number = ++this.memory.number;
    this.#frames.set(number, frame);
    try {
      const init = { ...this.#defaults(reset), ...initOf(this.member.message, changed) };
      this.#push({ case: "frame", value: { frameId: BigInt(number), changes: wrapped(this.member, init) } });
    } catch (error) {
      if (error instanceof Unsayable) this.#end(undefined, true);
      else this.#dropped(number, "invalid", realtimeError(errorOf(error)));
    }
  }

  close(): void {
    this.#over = true;
    this.#outgoing.end();
    this.#stop.abort();
  }

  #opening(values: Fields): object {
    const { resume, seed } = this.memory;
    const kept = seed === undefined || resume ? {} : { seed };
    return {
      defaults: wrapped(this.member, { ...kept, ...initOf(this.member.message, values) }),
      framePolicy: this.options.maxBuffering > 1 ? FramePolicy.ALL : FramePolicy.NEWEST,
      maxWaitingFrames: this.options.maxBuffering > 1 ? this.options.maxBuffering : 0,
      maxFramesInFlight: this.options.maxFramesInFlight ?? 1,
      includePreviews: this.options.previews(),
      resumeToken: resume,
      ...(this.options.maxFps === undefined ? {} : { maxFps: this.options.maxFps }),
      ...(this.options.similarImageThreshold === undefined ? {} : { similarImageThreshold: this.options.similarImageThreshold }),
    };
  }

  #opened(opened: SessionOpened, values: Fields): void {
    const { memory } = this;
    if (memory.resume) memory.known.forget();
    else {
      memory.known = new Difference();
      memory.known.to(values);
      memory.given = new Set(Object.keys(values));
      memory.defaults = opened.resolvedDefaults?.input.value;
      if (!memory.given.has("seed")) memory.seed = (memory.defaults as { seed?: bigint } | undefined)?.seed;
    }
    memory.resume = opened.resumeToken;
    memory.renewed = false;
  }

  /** The default values of fields. */
  #defaults(names: readonly string[]): Fields {
    const { defaults, given } = this.memory;
    if (!names.length) return {};
    const values = defaults && reflect(this.member.message, defaults);
    const entries = names.map((name) => {
      const field = this.member.message.fields.find((each) => each.name === name);
      if (!field) return undefined; // refused when it was sent
      if (given.has(name) || !values?.isSet(field)) throw new Unsayable();
      return [field.localName, (defaults as unknown as Fields)[field.localName]] as const;
    });
    return Object.fromEntries(entries.filter((entry) => entry !== undefined));
  }

  #push(message: { case: string; value: unknown }): void {
    this.#outgoing.push(create(ConnectRequestSchema, { message } as Parameters<typeof create<typeof ConnectRequestSchema>>[1]));
  }

  async #next(reader: AsyncIterator<ConnectResponse>): Promise<ConnectResponse | undefined> {
    const timer = setTimeout(() => this.#stop.abort(new ConnectionError(`nothing came for ${SILENCE / 1000} s`)), SILENCE);
    try {
      const { value, done } = await reader.next();
      return done ? undefined : value;
    } catch (error) {
      if (this.#stop.signal.reason instanceof ConnectionError) throw this.#stop.signal.reason;
      throw error;
    } finally {
      clearTimeout(timer);
    }
  }

  /** Tells the session what comes, until nothing does. Never rejects. */
  async #read(reader: AsyncIterator<ConnectResponse>): Promise<void> {
    try {
      for (;;) {
        const response = await this.#next(reader);
        if (!response) return this.#end(new ConnectionError("the server ended the stream"));
        if (response.message.case === "closed") return this.#closed(response.message.value);
        this.#heard(response.message);
      }
    } catch (error) {
      this.#end(errorOf(error));
    }
  }

  #heard(message: ConnectResponse["message"]): void {
    if (message.case === "frame") {
      const number = Number(message.value.frameId);
      const frame = this.#frames.get(number);
      if (frame) {
        for (const older of this.#frames.keys()) if (older <= number) this.#frames.delete(older);
        this.events.result(frame.id, outputOf(message.value, frame.input));
      }
      this.#push({ case: "ack", value: { frameId: message.value.frameId } });
    } else if (message.case === "dropped") {
      const { frameId, reason, error } = message.value;
      const name = (Dropped[reason] ?? "failed").toLowerCase() as DropReason;
      this.#dropped(Number(frameId), name, error && realtimeError(errorOfStatus(error)));
    } else if (message.case === "preview") {
      const { content, contentType, step, imageIndex } = message.value;
      this.events.preview({ content, content_type: contentType, step, image_index: imageIndex });
    }
  }

  #dropped(number: number, reason: DropReason, error?: RealtimeError): void {
    const frame = this.#frames.get(number);
    if (!frame) return;
    this.#frames.delete(number);
    if (!KEPT.has(reason)) {
      this.memory.known.forget(); // a refused frame leaves no trace in the server's values
      for (const later of this.#frames.keys()) if (later > number) this.#frames.delete(later); // drawn from others: not what was asked
    }
    this.events.dropped(frame.id, reason, error);
  }

  #closed(message: SessionClosed): void {
    if (message.reason === CloseReason.IDLE || message.reason === CloseReason.CLIENT) return this.#end(undefined, true);
    if (message.reason === CloseReason.TOKEN_EXPIRED && this.options.renew()) return this.#end(new ConnectionError(message.message));
    this.#end(closing(message));
  }

  /** The connection is over. `anew`: and so is the session. */
  #end(error: FlashbulbError | undefined, anew = false): void {
    if (this.#over) return;
    this.#over = true;
    if (anew) this.memory.resume = "";
    this.#outgoing.end();
    this.#stop.abort();
    this.events.closed(error);
  }
}

/** What is said of an input. An empty text or list is as if it were absent; the label is put back here, as a session does not echo it. */
function valuesOf(input: Fields): Fields {
  const empty = (value: unknown): boolean => value === "" || (Array.isArray(value) && !value.length);
  return Object.fromEntries(Object.entries(input).filter(([name, value]) => name !== "request_id" && !empty(value)));
}

/** A field's default that no message can say. */
class Unsayable extends Error {}

/** Why a server that says goodbye does so; undefined: as it should. */
function closing(message: SessionClosed): FlashbulbError | undefined {
  if (message.reason === CloseReason.IDLE || message.reason === CloseReason.CLIENT) return undefined;
  const code = CloseReason[message.reason] ?? "CLOSED";
  const delay = message.retryDelay;
  const retryAfter = delay ? Number(delay.seconds) + delay.nanos / 1e9 : undefined;
  const retryable = retryAfter !== undefined || message.reason === CloseReason.DRAINING;
  const text = message.message || `the server closed the session: ${code}`;
  return new RealtimeError(code, text, [], { retryable, ...(retryAfter === undefined ? {} : { retryAfter }) });
}

function realtimeError(error: FlashbulbError): RealtimeError {
  const code = (error instanceof ApiError && error.errorType) || "INVALID_INPUT";
  const fields = error instanceof ValidationError ? error.fieldErrors : [];
  return new RealtimeError(code, error.message, fields, { cause: error });
}
