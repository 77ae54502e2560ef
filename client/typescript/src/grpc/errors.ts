/** Errors of calls over gRPC, as the classes of this package. */
import { fromBinary } from "@bufbuild/protobuf";
import { Code, ConnectError } from "@connectrpc/connect";

import { ConnectionError, failed, type FieldError, FlashbulbError } from "../errors.js";
import { BadRequestSchema, ErrorInfoSchema, RetryInfoSchema } from "../gen/google/rpc/error_details_pb.js";
import type { Status } from "../gen/google/rpc/status_pb.js";

const DOMAIN = "flashbulb";
/** HTTP statuses of gRPC's, as the gateway answers. */
const STATUSES: Readonly<Record<number, number>> = {
  [Code.Canceled]: 499,
  [Code.InvalidArgument]: 422,
  [Code.OutOfRange]: 422,
  [Code.DeadlineExceeded]: 504,
  [Code.NotFound]: 404,
  [Code.PermissionDenied]: 403,
  [Code.Unauthenticated]: 401,
  [Code.ResourceExhausted]: 429,
  [Code.FailedPrecondition]: 400,
  [Code.Unavailable]: 503,
  [Code.Unimplemented]: 501,
};
/** Reasons whose status is not that of their code. */
const REASONS: Readonly<Record<string, number>> = {
  ENDPOINT_UNAVAILABLE: 404,
  SAFETY_CHECKER_UNAVAILABLE: 422,
  IDEMPOTENCY_KEY_REUSED: 422,
};

/** What a connection that breaks ends its calls with. The service itself always says why, in the details. */
const BROKEN: ReadonlySet<number> = new Set([Code.Canceled, Code.Unknown, Code.Aborted, Code.Internal, Code.Unavailable]);

interface Detail {
  type: string;
  value: Uint8Array;
}

/** The error that a call ended with. `errorType` is a reason of the contract, such as `QUEUE_FULL`. */
export function errorOf(error: unknown): FlashbulbError {
  if (error instanceof FlashbulbError) return error;
  const cause = (error as { cause?: unknown } | null)?.cause;
  if (cause instanceof FlashbulbError) return cause; // thrown while the call was prepared
  const call = ConnectError.from(error);
  const details = call.details.filter((detail): detail is Detail => "type" in detail);
  if (BROKEN.has(call.code) && !details.length) return new ConnectionError(call.rawMessage, { cause: call });
  return made(call.code, call.rawMessage, details);
}

/** The error that a google.rpc.Status describes. */
export function errorOfStatus(status: Status): FlashbulbError {
  const details = status.details.map(({ typeUrl, value }) => ({ type: typeUrl.slice(typeUrl.lastIndexOf("/") + 1), value }));
  return made(status.code, status.message, details);
}

function made(code: number, message: string, details: Detail[]): FlashbulbError {
  const find = (type: string): Uint8Array | undefined => details.find((detail) => detail.type === type)?.value;
  const [info, fields, retry] = [find(ErrorInfoSchema.typeName), find(BadRequestSchema.typeName), find(RetryInfoSchema.typeName)];
  const { domain, reason } = info ? fromBinary(ErrorInfoSchema, info) : { domain: "", reason: "" };
  const errorType = domain === DOMAIN ? reason : "";
  const delay = retry && fromBinary(RetryInfoSchema, retry).retryDelay;
  const detail = fields ? fromBinary(BadRequestSchema, fields).fieldViolations.map(fieldError) : message;
  return failed({
    status: REASONS[errorType] ?? STATUSES[code] ?? 500,
    body: { detail, message, error_type: errorType },
    errorType,
    timeoutType: errorType === "START_TIMEOUT" ? "user" : undefined,
    retryAfter: delay && Number(delay.seconds) + delay.nanos / 1e9,
  });
}

function fieldError({ field, description }: { field: string; description: string }): FieldError {
  const path = (field.match(/[^.[\]]+/g) ?? []).map((part) => (/^\d+$/.test(part) ? Number(part) : part));
  return { loc: ["body", ...path], msg: description, type: "value_error" };
}
