/** Inputs as the gateway takes them, made into messages of the contract. Driven by the contract's descriptors: knows no field. */
import { create, type DescEnum, type DescField, type DescMessage, isMessage, ScalarType } from "@bufbuild/protobuf";

import { nameOf } from "../endpoints.js";
import { ConfigurationError, failed, type FieldError } from "../errors.js";
import { type GenerationInput, GenerationInputSchema } from "../gen/flashbulb/v1/input_pb.js";
import { MEMBERS } from "../gen/inputs.js";
import { isPlain } from "../source.js";

type Path = readonly (string | number)[];
type Init = Record<string, unknown>;

/** The member of GenerationInput that an endpoint takes. Throws a ConfigurationError for an endpoint that this version does not know. */
export function memberOf(id: string): DescField & { message: DescMessage } {
  const member = (MEMBERS as Record<string, string>)[nameOf(id)];
  const field = GenerationInputSchema.fields.find((each) => each.localName === member);
  if (!field?.message) throw new ConfigurationError(`${id} is no endpoint; there are ${Object.keys(MEMBERS).join(", ")}`);
  return field as DescField & { message: DescMessage };
}

/** The message of an input. Throws a ValidationError that names every field which is unknown or of another type. */
export function inputOf(id: string, values: object): GenerationInput {
  const member = memberOf(id);
  return wrapped(member, initOf(member.message, values));
}

/** The GenerationInput with fields as protobuf-es takes them. */
export function wrapped(member: DescField & { message: DescMessage }, init: Init): GenerationInput {
  const input = { case: member.localName, value: create(member.message, init) };
  return create(GenerationInputSchema, { input } as unknown as Parameters<typeof create<typeof GenerationInputSchema>>[1]);
}

/** Fields as protobuf-es takes them. Throws as `inputOf`. */
export function initOf(descriptor: DescMessage, values: object): Init {
  const problems: FieldError[] = [];
  const init = fields(descriptor, values, ["body"], problems);
  if (problems.length) throw failed({ status: 422, body: { detail: problems } });
  return init;
}

function fields(descriptor: DescMessage, values: object, path: Path, problems: FieldError[]): Init {
  const init: Init = {};
  for (const [name, value] of Object.entries(values)) {
    if (value === undefined || value === null) continue;
    const field = descriptor.fields.find((each) => each.name === name);
    if (!field) {
      problems.push({ loc: [...path, name], msg: "there is no such field", type: "extra_forbidden" });
      continue;
    }
    const made = many(field, value, [...path, name], problems);
    if (made !== undefined) init[field.localName] = made;
  }
  return init;
}

function many(field: DescField, value: unknown, path: Path, problems: FieldError[]): unknown {
  if (field.fieldKind !== "list") return one(field, value, path, problems);
  if (!Array.isArray(value)) return wrong("a list", path, problems);
  return value.map((item, index) => one(field, item, [...path, index], problems));
}

function one(field: DescField, value: unknown, path: Path, problems: FieldError[]): unknown {
  if (field.enum) return choice(field.enum, value, path, problems);
  if (field.message) return nested(field.message, value, path, problems);
  switch (field.scalar) {
    case ScalarType.STRING:
      return typeof value === "string" ? value : wrong("a text", path, problems);
    case ScalarType.BOOL:
      return typeof value === "boolean" ? value : wrong("true or false", path, problems);
    case ScalarType.INT32:
      return isInteger(value, 2 ** 31) ? value : wrong("an integer", path, problems);
    case ScalarType.INT64:
      return isInteger(value, 2 ** 53) ? BigInt(value) : wrong("an integer", path, problems);
    default:
      return typeof value === "number" ? value : wrong("a number", path, problems);
  }
}

function nested(descriptor: DescMessage, value: unknown, path: Path, problems: FieldError[]): unknown {
  if (descriptor.name === "ImageSource") return source(value, path, problems);
  if (descriptor.name === "ImageSize" && typeof value === "string") {
    const preset = descriptor.fields.find((field) => field.enum)?.enum;
    return { size: { case: "preset", value: preset && choice(preset, value, path, problems) } };
  }
  if (!isPlain(value) || isMessage(value)) return wrong("an object", path, problems);
  if (descriptor.name !== "ImageSize") return fields(descriptor, value, path, problems);
  const dimensions = descriptor.fields.find((field) => field.message)?.message;
  return { size: { case: "dimensions", value: dimensions && fields(dimensions, value, path, problems) } };
}

function source(value: unknown, path: Path, problems: FieldError[]): unknown {
  if (typeof value === "string") return { source: { case: "uri", value } };
  if (value instanceof Uint8Array) return { source: { case: "content", value } };
  return wrong("a link or bytes", path, problems);
}

function choice(descriptor: DescEnum, value: unknown, path: Path, problems: FieldError[]): number | undefined {
  const prefix = descriptor.sharedPrefix ?? "";
  const short = (name: string): string => name.slice(prefix.length).toLowerCase();
  const known = descriptor.values.filter((each) => each.number !== 0);
  const found = known.find((each) => short(each.name) === value);
  return found?.number ?? wrong(`one of ${known.map((each) => short(each.name)).join(", ")}`, path, problems);
}

function isInteger(value: unknown, end: number): value is number {
  return Number.isInteger(value) && Math.abs(value as number) < end;
}

function wrong(what: string, path: Path, problems: FieldError[]): undefined {
  problems.push({ loc: [...path], msg: `must be ${what}`, type: "type_error" });
  return undefined;
}
