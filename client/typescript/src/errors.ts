/**
 * Every error of this package, and how an answer becomes one.
 *
 *     FlashbulbError
 *     ├── ConfigurationError          mend the key, the address or the call
 *     ├── ConnectionError             nobody answered
 *     ├── DeadlineExceededError       the time that the caller gave is over
 *     ├── RealtimeError               a frame was refused, or a session is over; `code` says why
 *     └── ApiError                    the server answered that it cannot
 *         ├── ValidationError         mend the fields named in `fieldErrors`
 *         ├── AuthenticationError     give a key that the server knows
 *         ├── NotFoundError           nothing to wait for
 *         ├── NotFinishedError        wait for the end of the request
 *         ├── CancelledError          the request was cancelled
 *         ├── ExpiredError            the request was not started in time
 *         ├── BusyError               try again after `retryAfter` seconds
 *         └── UnavailableError        the service, or a part of it, does not answer
 *
 * A call that its `abortSignal` ended rejects with the signal's own reason.
 */

/** What is wrong with one field. `loc` is its path, such as `["body", "image_size", "width"]`. */
export interface FieldError {
  loc: (string | number)[];
  msg: string;
  type: string;
  url?: string;
  ctx?: Record<string, unknown>;
  input?: unknown;
}

/** Base of all errors of this package. `retryable`: the same call may succeed later. */
export class FlashbulbError extends Error {
  readonly retryable: boolean = false;
  /** Id of the request, where there is one. */
  readonly requestId: string | undefined = undefined;

  constructor(message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = new.target.name;
  }
}

/** The client cannot work as it is set up or called. */
export class ConfigurationError extends FlashbulbError {}

/** Nobody answered: the network, or a server that is down. */
export class ConnectionError extends FlashbulbError {
  override readonly retryable = true;
}

/** The time that the caller gave is over. `requestId` is the request that was cancelled for it, if any. */
export class DeadlineExceededError extends FlashbulbError {
  override readonly retryable = true;
  override readonly requestId: string | undefined;

  constructor(message: string, requestId?: string) {
    super(message);
    this.requestId = requestId;
  }
}

/** What a realtime session reports. `code` is the server's, such as `INVALID_INPUT`, or `CLOSED`. */
export class RealtimeError extends FlashbulbError {
  override readonly retryable: boolean;
  /** Seconds to wait before the next try, where the server named them. */
  readonly retryAfter: number | undefined;

  constructor(
    readonly code: string,
    message: string,
    /** What is wrong with each field, where that is known. */
    readonly fieldErrors: readonly FieldError[] = [],
    options: ErrorOptions & { retryable?: boolean; retryAfter?: number } = {},
  ) {
    super(message, options);
    this.retryable = options.retryable ?? false;
    this.retryAfter = options.retryAfter;
  }
}

/** What is known of a failed call. */
export interface Failure {
  status: number;
  body: unknown;
  requestId?: string | undefined;
  errorType?: string | undefined;
  timeoutType?: string | undefined;
  retryable?: boolean | undefined;
  retryAfter?: number | undefined;
}

/** The server answered that it cannot. */
export class ApiError extends FlashbulbError {
  readonly status: number;
  /** The answer's body: JSON where it was JSON, otherwise its text. */
  readonly body: unknown;
  /** The server's name for the reason, such as `request_timeout`; empty where it gave none. */
  readonly errorType: string;
  /** `user`: the caller's own start timeout was over. */
  readonly timeoutType: string | undefined;
  /** Seconds to wait before the next try, where the server named them. */
  readonly retryAfter: number | undefined;
  override readonly requestId: string | undefined;
  override readonly retryable: boolean;

  constructor(message: string, failure: Failure) {
    super(message);
    this.status = failure.status;
    this.body = failure.body;
    this.errorType = failure.errorType ?? "";
    this.timeoutType = failure.timeoutType;
    this.retryAfter = failure.retryAfter;
    this.requestId = failure.requestId;
    this.retryable = failure.retryable ?? false;
  }
}

/** Fields are bad; `fieldErrors` names each. */
export class ValidationError extends ApiError {
  get fieldErrors(): readonly FieldError[] {
    const detail = (this.body as { detail?: unknown } | null)?.detail;
    return Array.isArray(detail) ? (detail as FieldError[]) : [];
  }

  /** The errors of one field; `image_size.width` is a field in a field. */
  getFieldErrors(field: string): FieldError[] {
    return this.fieldErrors.filter((error) => error.loc.slice(1).join(".") === field || error.loc.at(-1) === field);
  }
}

/** The server does not know the key, got none, or the token is over. */
export class AuthenticationError extends ApiError {}

/** What was named does not exist, or belongs to another key. */
export class NotFoundError extends ApiError {}

/** The result was asked for too early. */
export class NotFinishedError extends ApiError {}

/** The request was cancelled. */
export class CancelledError extends ApiError {}

/** The request was not started within its start timeout. */
export class ExpiredError extends ApiError {}

/** There is no room now. */
export class BusyError extends ApiError {}

/** The service, or a part of it, does not answer. */
export class UnavailableError extends ApiError {}

const CLASSES: Readonly<Record<number, typeof ApiError>> = {
  401: AuthenticationError,
  403: AuthenticationError,
  404: NotFoundError,
  422: ValidationError,
  429: BusyError,
  499: CancelledError,
  502: UnavailableError,
  503: UnavailableError,
  504: UnavailableError,
};
const RETRYABLE = new Set([429, 502, 503, 504]);

function classOf(failure: Failure): typeof ApiError {
  if (failure.timeoutType === "user" || failure.errorType === "request_timeout") return ExpiredError;
  if (failure.errorType === "REQUEST_NOT_FINISHED") return NotFinishedError;
  if (failure.status === 400 && /still in progress|wait for its terminal state/i.test(textOf(failure.body))) return NotFinishedError;
  return CLASSES[failure.status] ?? ApiError;
}

/** The message of a body: its `message`, its `detail`, or what each entry of `detail` says. Empty if it has none. */
function textOf(body: unknown): string {
  if (typeof body !== "object" || body === null) return "";
  const { message, detail, status } = body as { message?: unknown; detail?: unknown; status?: unknown };
  if (typeof message === "string" && message) return message;
  if (typeof detail === "string") return detail;
  if (Array.isArray(detail)) return (detail as FieldError[]).map((each) => `${each.loc?.slice(1).join(".")}: ${each.msg}`).join("; ");
  return typeof status === "string" ? status : "";
}

/** The error of what is known of a failed call. */
export function failed(failure: Failure): ApiError {
  const message = textOf(failure.body) || `the server answered with status ${failure.status}`;
  const kind = classOf(failure);
  const retryable = failure.retryable ?? (kind !== ExpiredError && RETRYABLE.has(failure.status));
  return new kind(message, { ...failure, retryable });
}

/** Seconds of a `Retry-After` header: a number or a date. */
export function secondsOf(header: string | null, now: number = Date.now()): number | undefined {
  if (!header) return undefined;
  const seconds = Number(header);
  if (Number.isFinite(seconds)) return Math.max(0, seconds);
  const date = Date.parse(header);
  return Number.isNaN(date) ? undefined : Math.max(0, (date - now) / 1000);
}

function flag(header: string | null): boolean | undefined {
  if (header === null) return undefined;
  return ["1", "true", "yes"].includes(header.toLowerCase());
}

/** The error of an answer; reads its body. */
export async function errorOf(response: Response): Promise<ApiError> {
  const text = await response.text();
  let body: unknown = text;
  try {
    body = JSON.parse(text);
  } catch {
    // A proxy's page: its text is all there is.
  }
  const { headers } = response;
  const named = (body as { error_type?: unknown } | null)?.error_type;
  return failed({
    status: response.status,
    body,
    requestId: headers.get("x-fal-request-id") ?? undefined,
    errorType: headers.get("x-fal-error-type") ?? (typeof named === "string" ? named : undefined),
    timeoutType: headers.get("x-fal-request-timeout-type") ?? undefined,
    retryable: flag(headers.get("x-fal-needs-retry")),
    retryAfter: secondsOf(headers.get("retry-after")),
  });
}
