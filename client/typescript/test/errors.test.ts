import assert from "node:assert/strict";
import { test } from "node:test";

import { create, toBinary } from "@bufbuild/protobuf";

import { ValidationError } from "../dist/errors.js";
import { BadRequestSchema } from "../dist/gen/google/rpc/error_details_pb.js";
import { StatusSchema } from "../dist/gen/google/rpc/status_pb.js";
import { errorOfStatus } from "../dist/grpc/errors.js";

test("a field is told by its place, as the gateway tells it", () => {
  const fieldViolations = ["image_size.width", "loras[1].scale", "input_image_urls[0]"].map((field) => ({ field, description: "is bad" }));
  const value = toBinary(BadRequestSchema, create(BadRequestSchema, { fieldViolations }));
  const details = [{ typeUrl: `type.googleapis.com/${BadRequestSchema.typeName}`, value }];
  const error = errorOfStatus(create(StatusSchema, { code: 3, message: "bad", details }));
  assert.ok(error instanceof ValidationError);
  assert.deepEqual(error.fieldErrors.map((each) => each.loc), [
    ["body", "image_size", "width"],
    ["body", "loras", 1, "scale"],
    ["body", "input_image_urls", 0],
  ]);
});
