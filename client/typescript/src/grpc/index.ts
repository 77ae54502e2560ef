/** The client over gRPC, for Node. */
export { type ConnectOptions, createGrpcClient, GrpcClient, type GrpcConfig } from "./client.js";
export { errorOf, errorOfStatus } from "./errors.js";
export { inputOf } from "./input.js";
export * from "../gen/flashbulb/v1/error_pb.js";
export * from "../gen/flashbulb/v1/generation_pb.js";
export * from "../gen/flashbulb/v1/image_pb.js";
export * from "../gen/flashbulb/v1/input_pb.js";
export * from "../gen/flashbulb/v1/model_pb.js";
export * from "../gen/flashbulb/v1/queue_pb.js";
export * from "../gen/flashbulb/v1/realtime_pb.js";
export * from "../gen/flashbulb/v1/storage_pb.js";
