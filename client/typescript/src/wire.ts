/** What a session and its connection say to each other, whatever the transport. */
import type { FlashbulbError, RealtimeError } from "./errors.js";

/** Why a frame was not drawn. */
export type DropReason = "superseded" | "overflow" | "similar" | "invalid" | "failed";

/** Reasons to drop a frame of which the server keeps what it changed. */
export const KEPT: ReadonlySet<DropReason> = new Set<DropReason>(["superseded", "similar"]);

/** A frame: the whole input, the number that `send` gave it, and when that was. */
export interface Frame<Input> {
  readonly id: number;
  readonly input: Input;
  readonly time: number;
}

/** A rough picture of what is being drawn. */
export interface Preview {
  content: Uint8Array;
  content_type: string;
  step: number;
  image_index: number;
}

/** A connection as a session uses it. */
export interface Wire<Input> {
  send(frame: Frame<Input>): void;
  close(): void;
  /** Whether the network is behind. */
  readonly congested: boolean;
}

/** What a connection tells its session. */
export interface WireEvents<Result> {
  result(frameId: number, result: Result): void;
  dropped(frameId: number, reason: DropReason, error?: RealtimeError): void;
  preview(preview: Preview): void;
  error(error: FlashbulbError): void;
  /** It is over: as it should be, or because of an error, where a retryable one is mended by another connection. */
  closed(error?: FlashbulbError): void;
}

/** Makes a connection, on which the frame `first` will be sent unless a newer one comes. Rejects with a FlashbulbError. */
export type Dial<Input, Result> = (events: WireEvents<Result>, signal: AbortSignal, first: Frame<Input>) => Promise<Wire<Input>>;
