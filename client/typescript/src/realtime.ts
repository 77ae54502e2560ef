/** Pictures as fast as the caller changes its mind: opens sessions over WebSocket and shares those of one key. */
import { type Settings, inBrowser } from "./config.js";
import { type AnyEndpointId, type InputOf, pathOf } from "./endpoints.js";
import { type Handlers, type RealtimeConnection, Session } from "./session.js";
import { socketDial } from "./socket.js";
import { LIFETIME_SECONDS, serviceToken, type TokenProvider, Tokens } from "./tokens.js";

/** A picture of a session: its bytes, or a link where it is too large to travel inline. */
export interface RealtimeImage {
  content?: Uint8Array;
  url?: string;
  content_type: string;
  width: number;
  height: number;
}

/** What answers a frame. */
export interface RealtimeOutput {
  images: RealtimeImage[];
  /** Spans in seconds by name. */
  timings: Record<string, number>;
  /** Seed of the first picture. */
  seed: number;
  has_nsfw_concepts: boolean[];
  prompt: string;
  /** The model that drew it: another one than the input names, where it stood in for that. */
  model_name: string;
  /** The input's own label, if it had one. */
  request_id?: string;
}

/** What a frame holds: an endpoint's input, in which pictures are bytes or links. */
export type FrameOf<Id extends string> = InputOf<Id>;

/** How a session is opened. */
export interface ConnectOptions<Input> extends Handlers<Input, RealtimeOutput> {
  /** Connections of one key are one connection; the handlers of the last `connect` hear of it. For components that are drawn again. */
  connectionKey?: string;
  /** Milliseconds between two frames at least; the first goes at once, and the last always. 0: no limit. Default: 128. */
  throttleInterval?: number;
  /** Does nothing outside a browser, such as where a page is made on a server. */
  clientOnly?: boolean;
  /** Frames that may wait at the server, 1 to 60. 1: a newer frame stops the older one. Default: 1. */
  maxBuffering?: number;
  /** Frames drawn at once at different steps, 1 to 4: more pictures a second, each later. Default: 1. */
  maxFramesInFlight?: number;
  /** 0 to 1: a frame whose picture differs by no more from that of the last drawn one is dropped, as `similar`. Default: none is. */
  similarImageThreshold?: number;
  /** Gives tokens, so that no key is needed here. Default: the service makes them for the client's key. */
  tokenProvider?: TokenProvider;
  /** Seconds that a token of the provider is good for; it is fetched again at nine tenths. Default: when it is refused. */
  tokenExpirationSeconds?: number;
  /** Default: `/realtime`. */
  path?: string;
}

const THROTTLE = 128;
const NO_CONNECTION: RealtimeConnection<never> = { send: () => 0, update: () => 0, close: () => undefined };

/** Opens sessions. */
export class Realtime {
  readonly #settings: Settings;
  readonly #shared = new Map<string, Session<Record<string, unknown>, RealtimeOutput>>();

  constructor(settings: Settings) {
    this.#settings = settings;
  }

  /** A session of an endpoint. The connection is made with the first frame, and again whenever it is lost. */
  connect<Id extends AnyEndpointId>(id: Id, options: ConnectOptions<FrameOf<Id>>): RealtimeConnection<FrameOf<Id>> {
    if (options.clientOnly && !inBrowser) return NO_CONNECTION;
    const wanted = options as unknown as ConnectOptions<Record<string, unknown>>;
    const key = options.connectionKey === undefined ? undefined : `${pathOf(id)} ${options.connectionKey}`;
    const known = key === undefined ? undefined : this.#shared.get(key);
    if (known && !known.closed) {
      known.handlers = wanted;
      return known as unknown as RealtimeConnection<FrameOf<Id>>;
    }
    const session = this.#session(id, wanted);
    if (key !== undefined) this.#shared.set(key, session);
    return session as unknown as RealtimeConnection<FrameOf<Id>>;
  }

  #session(id: string, options: ConnectOptions<Record<string, unknown>>): Session<Record<string, unknown>, RealtimeOutput> {
    const path = `/${(options.path ?? "/realtime").replace(/^\//, "")}`;
    const provide = options.tokenProvider;
    const tokens = provide
      ? new Tokens(() => provide(`${pathOf(id)}${path}`), options.tokenExpirationSeconds)
      : new Tokens((signal) => serviceToken(this.#settings, id, signal), LIFETIME_SECONDS);
    const previews = (): boolean => session.handlers.onPreview !== undefined;
    const { maxFramesInFlight, similarImageThreshold } = options;
    const wish = { maxBuffering: options.maxBuffering ?? 1, maxFramesInFlight, similarImageThreshold };
    const dial = socketDial(this.#settings, tokens, id, { path, previews, ...wish });
    const session: Session<Record<string, unknown>, RealtimeOutput> = new Session(dial, options, options.throttleInterval ?? THROTTLE);
    return session;
  }
}
