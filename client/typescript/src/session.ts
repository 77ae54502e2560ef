/**
 * A realtime session without any transport: which frame is sent next, and what happens to those that are not answered.
 *
 * 1. `send` never waits. What cannot be sent yet waits here, where the newest wins.
 * 2. A connection is made when there is something to send. One that breaks is made again, and the newest frame that was not answered is
 *    sent again: the caller sees one late picture. So it is with frames that were sent after one that is refused, as differences to it.
 * 3. At most WINDOW frames are unanswered, and at most one is sent per `throttle`: the first at once, and always the last.
 */
import { ConfigurationError, ConnectionError, FlashbulbError, RealtimeError } from "./errors.js";
import { sleep } from "./retry.js";
import { bytesOf, isPlain, replaceBinaries } from "./source.js";
import { type Dial, type DropReason, type Frame, KEPT, type Preview, type Wire, type WireEvents } from "./wire.js";

export const WINDOW = 16;
/** Milliseconds after which a connection that cannot be made again is given up. */
export const GIVE_UP = 60_000;
const FIRST_PAUSE = 100;
const LONGEST_PAUSE = 5_000;
const CONGESTION_PAUSE = 20;

/** What is known of an answer beside the pictures. */
export interface FrameInfo {
  /** The number that `send` gave. */
  frameId: number;
  /** Milliseconds since `send`. */
  latency: number;
}

/** A frame that was not drawn. */
export interface DroppedFrame<Input> {
  frameId: number;
  reason: DropReason;
  input: Input;
  error?: RealtimeError;
}

/** Who hears of a session. */
export interface Handlers<Input, Result> {
  onResult: (result: Result, info: FrameInfo) => void;
  /** Hears what is wrong with a frame or ended the connection. What a new connection mends is not told. */
  onError?: ((error: FlashbulbError) => void) | undefined;
  onDropped?: ((dropped: DroppedFrame<Input>) => void) | undefined;
  onPreview?: ((preview: Preview) => void) | undefined;
}

/** Sends frames and hears of pictures. */
export interface RealtimeConnection<Input> {
  /** Asks for a picture of this input; what it leaves out is the endpoint's default. Never waits; gives the frame's number. */
  send(input: Input): number;
  /** Asks for a picture of the input sent last with these changes; `undefined` takes a field out. */
  update(changes: Partial<Input>): number;
  /** Ends the session. Frames that are not answered are given up. */
  close(): void;
}

export class Session<Input extends object, Result> implements RealtimeConnection<Input> {
  handlers: Handlers<Input, Result>;
  readonly #dial: Dial<Input, Result>;
  readonly #throttle: number;
  readonly #ended = new AbortController();
  readonly #flying = new Map<number, Frame<Input>>();
  #waiting: Frame<Input> | undefined;
  #wanted: Input | undefined;
  #wire: Wire<Input> | undefined;
  #dialing = false;
  #lost: number | undefined;
  #failures = 0;
  #notBefore = 0;
  #last = 0;
  #newest = 0;
  #timer: ReturnType<typeof setTimeout> | undefined;

  constructor(dial: Dial<Input, Result>, handlers: Handlers<Input, Result>, throttle: number) {
    this.#dial = dial;
    this.handlers = handlers;
    this.#throttle = throttle;
  }

  get closed(): boolean {
    return this.#ended.signal.aborted;
  }

  send(input: Input): number {
    if (this.closed) throw new RealtimeError("CLOSED", "the connection was closed");
    if (!isPlain(input)) throw new ConfigurationError("an input is an object of the endpoint's fields");
    this.#wanted = input;
    const id = ++this.#last;
    const time = performance.now();
    if (needsReading(input)) void this.#read({ id, input, time });
    else this.#put({ id, input: structuredClone(input), time });
    return id;
  }

  update(changes: Partial<Input>): number {
    return this.send({ ...this.#wanted, ...changes } as Input);
  }

  close(): void {
    if (this.closed) return;
    clearTimeout(this.#timer);
    this.#ended.abort(new RealtimeError("CLOSED", "the connection was closed"));
    this.#wire?.close();
    this.#wire = undefined;
    this.#waiting = undefined;
    this.#flying.clear();
  }

  #put(frame: Frame<Input>): void {
    if (this.closed) return;
    if (frame.id < this.#newest) return this.#drop(frame, "superseded"); // its bytes took longer to read
    this.#newest = frame.id;
    const older = this.#waiting;
    this.#waiting = frame;
    if (older) this.#drop(older, "superseded");
    this.#flush();
  }

  #flush(): void {
    if (!this.#waiting || this.closed) return;
    if (!this.#wire) return void this.#connect();
    const pause = this.#notBefore - performance.now();
    if (pause > 0) return this.#later(pause);
    if (this.#flying.size >= WINDOW) return; // the next answer makes room
    if (this.#wire.congested) return this.#later(CONGESTION_PAUSE);
    const frame = this.#waiting;
    this.#waiting = undefined;
    this.#flying.set(frame.id, frame);
    this.#notBefore = performance.now() + this.#throttle;
    this.#wire.send(frame);
  }

  #later(milliseconds: number): void {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#flush(), milliseconds);
  }

  /** Connects until it succeeds, is given up, or the session is closed. `lost`: why the connection before is over. Never rejects. */
  async #connect(lost?: unknown): Promise<void> {
    if (this.#dialing) return;
    this.#dialing = true;
    let worth = lost === undefined || (await this.#again(lost));
    while (worth && !this.closed && !this.#wire && this.#waiting) {
      try {
        await this.#open(this.#waiting);
      } catch (error) {
        worth = !this.closed && (await this.#again(error));
      }
    }
    this.#dialing = false;
    if (this.#wire) this.#flush();
    else if (this.#waiting) this.#later(FIRST_PAUSE); // sent by a handler that heard of the failure
  }

  async #open(first: Frame<Input>): Promise<void> {
    let wire: Wire<Input> | undefined;
    let over = false;
    let reason: FlashbulbError | undefined;
    const live = (): boolean => !over && !this.closed;
    const events: WireEvents<Result> = {
      result: (id, result) => live() && this.#answered(id, result),
      dropped: (id, reason, error) => live() && this.#refused(id, reason, error),
      preview: (preview) => live() && tell(() => this.handlers.onPreview?.(preview)),
      error: (error) => live() && tell(() => this.handlers.onError?.(error)),
      closed: (error) => {
        if (!live()) return;
        over = true;
        reason = error;
        if (wire) this.#broken(error);
      },
    };
    const made = await this.#dial(events, this.#ended.signal, first);
    if (this.closed) return made.close();
    if (over) throw reason ?? new ConnectionError("the server closed the connection at once");
    wire = this.#wire = made;
  }

  /** Whether another try is worth it; waits for the time to make it. */
  async #again(error: unknown): Promise<boolean> {
    this.#lost ??= performance.now();
    const retryable = error instanceof FlashbulbError && error.retryable;
    if (!retryable || performance.now() - this.#lost > GIVE_UP) {
      this.#giveUp(error);
      return false;
    }
    const backoff = Math.min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** this.#failures++) * (0.5 + Math.random() / 2);
    const asked = (error as { retryAfter?: number }).retryAfter;
    await sleep(asked === undefined ? backoff : asked * 1000, this.#ended.signal).catch(() => undefined);
    return !this.closed;
  }

  /** The connection is over. What was not answered goes again, the newest alone. */
  #broken(error?: FlashbulbError): void {
    this.#wire = undefined;
    if (error && !error.retryable) {
      const frames = [...this.#flying.values()];
      this.#flying.clear();
      for (const frame of frames) this.#drop(frame, "failed");
      return this.#giveUp(error);
    }
    for (const frame of this.#recall(0)) this.#drop(frame, "superseded");
    this.#notBefore = 0;
    if (!this.#waiting) return; // made again when there is something to send
    void this.#connect(error);
  }

  #giveUp(error: unknown): void {
    const frame = this.#waiting;
    this.#waiting = undefined;
    this.#lost = undefined;
    this.#failures = 0;
    if (frame) this.#drop(frame, "failed");
    const told = error instanceof FlashbulbError ? error : new RealtimeError("INTERNAL", String(error), [], { cause: error });
    tell(() => this.handlers.onError?.(told));
  }

  #answered(id: number, result: Result): void {
    const frame = this.#flying.get(id);
    this.#lost = undefined;
    this.#failures = 0;
    if (!frame) return; // answered before the connection broke, and again after
    this.#flying.delete(id);
    for (const older of this.#flying.values()) {
      if (older.id < id) this.#refused(older.id, "superseded"); // whose notice the server left out, as it may
    }
    tell(() => this.handlers.onResult(result, { frameId: id, latency: performance.now() - frame.time }));
    this.#flush();
  }

  #refused(id: number, reason: DropReason, error?: RealtimeError): void {
    const frame = this.#flying.get(id);
    if (!frame) return;
    this.#flying.delete(id);
    const older = KEPT.has(reason) ? [] : this.#recall(id);
    this.#drop(frame, reason, error);
    if (error) tell(() => this.handlers.onError?.(error));
    for (const other of older) this.#drop(other, "superseded");
    this.#flush();
  }

  /** What was sent after this frame does not count. The newest waits to be sent again, unless a newer one does; gives the others. */
  #recall(after: number): Frame<Input>[] {
    const frames = [...this.#flying.values()].filter(({ id }) => id > after);
    for (const { id } of frames) this.#flying.delete(id);
    this.#waiting ??= frames.pop();
    return frames;
  }

  #drop(frame: Frame<Input>, reason: DropReason, error?: RealtimeError): void {
    tell(() => this.handlers.onDropped?.({ frameId: frame.id, reason, input: frame.input, ...(error ? { error } : {}) }));
  }

  /** Puts a frame once its bytes are read. Never rejects. */
  async #read(frame: Frame<Input>): Promise<void> {
    let input: Input;
    try {
      input = (await replaceBinaries(frame.input, bytesOf)) as Input;
    } catch (cause) {
      if (this.closed) return;
      const error = new RealtimeError("INVALID_INPUT", `the input cannot be read: ${String(cause)}`, [], { cause });
      this.#drop(frame, "invalid", error);
      return tell(() => this.handlers.onError?.(error));
    }
    this.#put({ ...frame, input });
  }
}

/** Calls a handler. What it throws is the program's own, as in any event: the session goes on. */
function tell(handler: () => void): void {
  try {
    handler();
  } catch (error) {
    setTimeout(() => {
      throw error;
    });
  }
}

/** Whether bytes must be read before they can be sent. */
function needsReading(input: object): boolean {
  return Object.values(input).flat().some((value) => value instanceof Blob || value instanceof ArrayBuffer);
}
