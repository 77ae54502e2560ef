/** Short-lived tokens, which open a socket in the place of a key. */
import type { Settings } from "./config.js";
import { nameOf } from "./endpoints.js";
import { json, request } from "./request.js";

/** Gives a token for an endpoint, such as from a server of one's own that holds the key. */
export type TokenProvider = (endpoint: string) => Promise<string>;

export const LIFETIME_SECONDS = 120;
/** The part of its life after which a token is not used for another connection. */
const FRESH_PART = 0.9;

/** The token of one connection after another. */
export class Tokens {
  readonly #provide: (signal: AbortSignal) => Promise<string>;
  readonly #lifetime: number | undefined;
  #token: string | undefined;
  #stale = 0;

  /** `lifetime` in seconds; undefined: a token is used until it is refused. */
  constructor(provide: (signal: AbortSignal) => Promise<string>, lifetime: number | undefined) {
    this.#provide = provide;
    this.#lifetime = lifetime;
  }

  /** A token, and whether it was fetched just now. The signal ends the fetching. */
  async get(signal: AbortSignal): Promise<{ token: string; fresh: boolean }> {
    const now = performance.now();
    if (this.#token !== undefined && now < this.#stale) return { token: this.#token, fresh: false };
    this.#token = await this.#provide(signal);
    this.#stale = this.#lifetime === undefined ? Infinity : now + this.#lifetime * 1000 * FRESH_PART;
    return { token: this.#token, fresh: true };
  }

  /** The token was refused. */
  forget(): void {
    this.#token = undefined;
  }
}

/** A token that the service makes for the client's key. */
export async function serviceToken(settings: Settings, id: string, signal: AbortSignal): Promise<string> {
  const answer = await request(settings, {
    method: "POST",
    url: `${settings.at("rest")}/tokens/`,
    body: { allowed_apps: [nameOf(id).split("/")[0]], token_expiration: LIFETIME_SECONDS },
    signal,
    read: json<string | { token?: string; detail?: string }>,
  });
  return typeof answer === "string" ? answer : (answer.token ?? answer.detail ?? "");
}
