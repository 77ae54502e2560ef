#!/usr/bin/env node
// protoc plugin: writes inputs.ts, the inputs of the endpoints as the gateway takes them (JSON with the fields' own names).
//
// 1. A member of GenerationInput is an endpoint; its id stands in the member's comment. Both are compared with a server in the tests.
// 2. A field is required where its comment says "Required".
// 3. Messages and enums of the contract that JSON writes in another way than protobuf are named in SPELLED.
import { ScalarType } from "@bufbuild/protobuf";
import { createEcmaScriptPlugin, getComments, runNodeJs } from "@bufbuild/protoplugin";

const SCALARS = {
  [ScalarType.STRING]: "string",
  [ScalarType.BOOL]: "boolean",
  [ScalarType.INT32]: "number",
  [ScalarType.INT64]: "number",
  [ScalarType.FLOAT]: "number",
  [ScalarType.DOUBLE]: "number",
};
const SPELLED = { ImageSize: "ImageSize", ImageSource: "Source" };
const SIZE_DOC = "Size of a picture: a named size, or exact dimensions in pixels.";

function docOf(descriptor) {
  return getComments(descriptor).leading?.trim() ?? "";
}

function jsDoc(text, indent) {
  const lines = text.split("\n").map((line) => line.trim());
  return lines.length === 1 ? `${indent}/** ${lines[0]} */` : [`${indent}/**`, ...lines.map((line) => `${indent} * ${line}`), `${indent} */`].join("\n");
}

/** `"v1" | "v2"` of SafetyCheckerVersion. */
function choices(descriptor) {
  const names = descriptor.values.filter((value) => value.number !== 0).map((value) => value.name);
  return names.map((name) => JSON.stringify(name.slice(descriptor.sharedPrefix.length).toLowerCase())).join(" | ");
}

/** A text of which the comment says "`a` or `b`." is one of these. */
function textType(field) {
  const set = /^((?:`[^`]+`(?:, | or )?){2,})\./.exec(docOf(field));
  return set ? [...set[1].matchAll(/`([^`]+)`/g)].map((match) => JSON.stringify(match[1])).join(" | ") : "string";
}

function valueType(field) {
  if (field.enum) return field.enum.name;
  if (field.message) return SPELLED[field.message.name] ?? field.message.name;
  if (field.scalar === ScalarType.STRING && field.fieldKind === "scalar") return textType(field);
  const scalar = SCALARS[field.scalar];
  if (scalar === undefined) throw new Error(`${field}: no JSON type for it`);
  return scalar;
}

function fieldLines(field) {
  const optional = /\bRequired\b/.test(docOf(field)) ? "" : "?";
  const list = field.fieldKind === "list" ? "readonly " : "";
  const type = field.fieldKind === "list" ? `${valueType(field)}[]` : valueType(field);
  return [jsDoc(docOf(field), "  "), `  ${field.name}${optional}: ${list}${type};`];
}

function interfaceOf(message) {
  return [jsDoc(docOf(message), ""), `export interface ${message.name} {`, ...message.fields.flatMap(fieldLines), "}", ""];
}

/** Messages that inputs hold, found by following their fields. */
function nested(messages) {
  const found = new Set();
  for (const field of messages.flatMap((message) => message.fields)) {
    if (field.message && !SPELLED[field.message.name]) found.add(field.message);
  }
  return [...found];
}

function enumsOf(messages) {
  return [...new Set(messages.flatMap((message) => message.fields).flatMap((field) => field.enum ?? []))];
}

function endpointOf(member) {
  const id = /^Endpoint `([^`]+)`\./.exec(docOf(member))?.[1];
  if (!id) throw new Error(`${member}: its comment does not say "Endpoint \`id\`."`);
  return id;
}

function generateTs(schema) {
  const file = schema.files.find((each) => each.proto.name === "flashbulb/v1/input.proto");
  if (!file) return;
  const image = file.dependencies.find((each) => each.proto.name === "flashbulb/v1/image.proto");
  const named = (name) => image.messages.find((message) => message.name === name);
  const size = named("ImageSize");
  const preset = size.fields.find((field) => field.name === "preset").enum;
  const members = file.messages.find((message) => message.name === "GenerationInput").fields;
  const inputs = members.map((member) => member.message);
  const others = nested(inputs);
  const lines = [
    ...enumsOf([...inputs, ...others]).flatMap((each) => [jsDoc(docOf(each), ""), `export type ${each.name} = ${choices(each)};`, ""]),
    jsDoc(docOf(preset), ""), `export type ${preset.name} = ${choices(preset)};`, "",
    ...interfaceOf(named("ImageDimensions")),
    jsDoc(SIZE_DOC, ""), `export type ImageSize = ${preset.name} | ImageDimensions;`, "",
    ...others.flatMap(interfaceOf),
    ...inputs.flatMap(interfaceOf),
    "/** The input of every endpoint, by its id. */", "export interface Inputs {",
    ...members.map((member) => `  ${JSON.stringify(endpointOf(member))}: ${member.message.name};`), "}", "",
    "/** The member of GenerationInput of every endpoint, by its id. */", "export const MEMBERS = {",
    ...members.map((member) => `  ${JSON.stringify(endpointOf(member))}: ${JSON.stringify(member.localName)},`), "} as const;",
  ];
  const out = schema.generateFile("inputs.ts");
  out.print("// Generated from proto/flashbulb/v1/input.proto by scripts/protoc-gen-inputs.js. Do not edit.");
  out.print('import type { Source } from "../source.js";');
  out.print();
  for (const line of lines) out.print(line);
}

runNodeJs(createEcmaScriptPlugin({ name: "protoc-gen-inputs", version: "v1", generateTs }));
