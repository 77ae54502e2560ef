/** The client of Flashbulb for browsers and Node. */
import { createClient } from "./client.js";

/** A client that is set up by `fal.config` and the environment. */
export const fal = createClient();
export { fal as flashbulb };

export { Client, createClient, type RunOptions, type SubscribeOptions } from "./client.js";
export type { Config, Credentials } from "./config.js";
export type { AnyEndpointId, EndpointId, EndpointName, Image, InputOf, Output, Result } from "./endpoints.js";
export {
  ApiError, AuthenticationError, BusyError, CancelledError, ConfigurationError, ConnectionError, DeadlineExceededError, ExpiredError,
  type FieldError, FlashbulbError, NotFinishedError, NotFoundError, RealtimeError, UnavailableError, ValidationError,
} from "./errors.js";
export type * from "./gen/inputs.js";
export type {
  Completed, InProgress, InQueue, LogLine, QueueStatus, RequestOptions, StatusOptions, SubmitOptions, WatchOptions,
} from "./queue.js";
export type { ConnectOptions, RealtimeImage, RealtimeOutput } from "./realtime.js";
export type { DroppedFrame, FrameInfo, Handlers, RealtimeConnection } from "./session.js";
export type { Source } from "./source.js";
export type { UploadOptions } from "./storage.js";
export type { FlashbulbStream, StreamOptions } from "./streaming.js";
export type { TokenProvider } from "./tokens.js";
export type { DropReason, Preview } from "./wire.js";
