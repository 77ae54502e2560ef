/** A client over gRPC, for Node: the services of the contract, and realtime sessions with the interface of those in browsers. */
import { type Client, createClient, type Interceptor, type Transport } from "@connectrpc/connect";
import { createGrpcTransport, Http2SessionManager } from "@connectrpc/connect-node";

import { environment } from "../config.js";
import type { AnyEndpointId } from "../endpoints.js";
import { ConfigurationError } from "../errors.js";
import { GenerationService } from "../gen/flashbulb/v1/generation_pb.js";
import { ModelService } from "../gen/flashbulb/v1/model_pb.js";
import { QueueService } from "../gen/flashbulb/v1/queue_pb.js";
import { RealtimeService } from "../gen/flashbulb/v1/realtime_pb.js";
import { StorageService } from "../gen/flashbulb/v1/storage_pb.js";
import { type ConnectOptions as SocketConnectOptions, type FrameOf, type RealtimeOutput } from "../realtime.js";
import { type RealtimeConnection, Session } from "../session.js";
import { Tokens } from "../tokens.js";
import { again } from "./again.js";
import { grpcDial } from "./link.js";

export const DEFAULT_HOST = "127.0.0.1:50051";
const DEFAULT_PORT = "50051";
const TLS_PORT = "443";
/** Milliseconds between pings of a connection on which a call waits. */
const PING_INTERVAL = 30_000;

/** How a client is set up. */
export interface GrpcConfig {
  /** `host:port`; `https://host` or port 443 means TLS. Default: `FLASHBULB_HOST` of the environment, then 127.0.0.1:50051. */
  host?: string;
  /** The key, `id:secret`. Default: `FLASHBULB_KEY`, then `FAL_KEY`, of the environment. */
  credentials?: string;
  /** Gives a token in the place of a key. */
  tokenProvider?: () => Promise<string>;
  /** Seconds that a token is good for; it is fetched again at nine tenths. Default: when it is refused. */
  tokenExpirationSeconds?: number;
  /** Certificates to trust, PEM. Default: those of Node. */
  roots?: string | Uint8Array;
}

/** How a session is opened: as over WebSocket, without what belongs to sockets, and no pause between frames unless asked for. */
export type ConnectOptions<Input> = Pick<
  SocketConnectOptions<Input>,
  "onResult" | "onError" | "onDropped" | "onPreview" | "throttleInterval" | "maxBuffering" | "maxFramesInFlight" | "similarImageThreshold"
> & {
  /** Most pictures per second, 0.1 to 120. Default: no limit. */
  maxFps?: number;
};

/** The services, typed by the contract. Their calls reject with a ConnectError; `errorOf` makes it one of this package. */
export class GrpcClient {
  readonly generation: Client<typeof GenerationService>;
  readonly queue: Client<typeof QueueService>;
  readonly sessions: Client<typeof RealtimeService>;
  readonly storage: Client<typeof StorageService>;
  readonly models: Client<typeof ModelService>;
  readonly #manager: Http2SessionManager;
  readonly #tokens: Tokens | undefined;
  readonly #open = new Set<Session<Record<string, unknown>, RealtimeOutput>>();

  constructor(config: GrpcConfig = {}) {
    const { tokenProvider } = config;
    this.#tokens = tokenProvider && new Tokens(tokenProvider, config.tokenExpirationSeconds);
    const baseUrl = address(config.host ?? environment("FLASHBULB_HOST") ?? DEFAULT_HOST);
    const { roots } = config;
    const secure = roots === undefined ? {} : { ca: typeof roots === "string" ? roots : Buffer.from(roots) };
    this.#manager = new Http2SessionManager(baseUrl, { pingIntervalMs: PING_INTERVAL }, secure);
    const transport: Transport = createGrpcTransport({
      baseUrl,
      sessionManager: this.#manager,
      interceptors: [authorized(config.credentials, this.#tokens), again],
    });
    this.generation = createClient(GenerationService, transport);
    this.queue = createClient(QueueService, transport);
    this.sessions = createClient(RealtimeService, transport);
    this.storage = createClient(StorageService, transport);
    this.models = createClient(ModelService, transport);
  }

  /** Realtime sessions. */
  readonly realtime = {
    /** A session of an endpoint. The stream is opened with the first frame, and again whenever it is lost. */
    connect: <Id extends AnyEndpointId>(id: Id, options: ConnectOptions<FrameOf<Id>>): RealtimeConnection<FrameOf<Id>> =>
      this.#connect(id, options as unknown as ConnectOptions<Record<string, unknown>>) as unknown as RealtimeConnection<FrameOf<Id>>,
  };

  /** Ends every session and call, and the connection. */
  close(): void {
    for (const session of this.#open) session.close();
    this.#open.clear();
    this.#manager.abort();
  }

  #connect(id: string, options: ConnectOptions<Record<string, unknown>>): RealtimeConnection<Record<string, unknown>> {
    const dial = grpcDial((requests, signal) => this.sessions.connect(requests, { signal }), id, {
      previews: () => session.handlers.onPreview !== undefined,
      maxFps: options.maxFps,
      maxBuffering: options.maxBuffering ?? 1,
      maxFramesInFlight: options.maxFramesInFlight,
      similarImageThreshold: options.similarImageThreshold,
      renew: () => {
        this.#tokens?.forget();
        return this.#tokens !== undefined;
      },
    });
    const session: Session<Record<string, unknown>, RealtimeOutput> = new Session(dial, options, options.throttleInterval ?? 0);
    for (const other of this.#open) if (other.closed) this.#open.delete(other);
    this.#open.add(session);
    return session;
  }
}

/** A client over gRPC. `close` it, or the process stays. */
export function createGrpcClient(config: GrpcConfig = {}): GrpcClient {
  return new GrpcClient(config);
}

function authorized(credentials: string | undefined, tokens: Tokens | undefined): Interceptor {
  return (next) => async (request) => {
    const key = credentials ?? environment("FLASHBULB_KEY") ?? environment("FAL_KEY");
    if (tokens) request.header.set("authorization", `Bearer ${(await tokens.get(request.signal)).token}`);
    else if (key) request.header.set("authorization", `Key ${key}`);
    return next(request);
  };
}

function address(host: string): string {
  const [whole, scheme = "", name, given] = /^(?:(https?|grpcs?):\/\/)?(\[[^\]]+\]|[^:/\s]+)(?::(\d+))?\/?$/.exec(host.trim()) ?? [];
  if (!whole) throw new ConfigurationError(`not a host: ${JSON.stringify(host)}; give host:port or https://host`);
  const secure = scheme === "https" || scheme === "grpcs" || given === TLS_PORT;
  return `${secure ? "https" : "http"}://${name}:${given ?? (secure ? TLS_PORT : DEFAULT_PORT)}`;
}
