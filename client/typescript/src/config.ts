/** How a client is set up. The only module that reads the environment. */
import { ConfigurationError } from "./errors.js";

/** A key, or what gives one. */
export type Credentials = string | (() => string | undefined | Promise<string | undefined>);

/** What a client can be told. Everything has a default. */
export interface Config {
  /** The key, `id:secret`. Default: `FLASHBULB_KEY`, then `FAL_KEY`, of the environment. */
  credentials?: Credentials | undefined;
  /** Where the service is. Default: `FLASHBULB_URL` of the environment; in a browser the page's own origin; `http://127.0.0.1:8080`. */
  url?: string | undefined;
  /** A proxy that adds the key. Requests go to it with the real address in `x-fal-target-url`. By default only in browsers. */
  proxyUrl?: string | { url: string; when?: "browser" | "always" } | undefined;
  /** Takes the place of the global `fetch`. */
  fetch?: typeof fetch | undefined;
  /** Milliseconds that a short call may take over all its attempts. Default: 60 000. */
  timeout?: number | undefined;
  /** Says nothing where a key is used in a browser. */
  suppressLocalCredentialsWarning?: boolean | undefined;
}

/** Where the parts of the service are. */
export type Surface = "run" | "queue" | "rest" | "cdn";

export const DEFAULT_URL = "http://127.0.0.1:8080";
export const DEFAULT_TIMEOUT = 60_000;

const page = (globalThis as { window?: { location?: { origin?: string } } }).window;

/** Whether this runs in a browser's page. */
export const inBrowser = page !== undefined;

/** A variable of the environment, where there is one. */
export function environment(name: string): string | undefined {
  const env = (globalThis as { process?: { env?: Record<string, string | undefined> } }).process?.env;
  return env?.[name] || undefined;
}

/** The settings of one client; `update` changes them, and calls made later see it. */
export class Settings {
  #config: Config;
  #warned = false;

  constructor(config: Config = {}) {
    this.#config = config;
  }

  update(config: Config): void {
    this.#config = { ...this.#config, ...config };
  }

  get fetch(): typeof fetch {
    return this.#config.fetch ?? globalThis.fetch.bind(globalThis);
  }

  get timeout(): number {
    return this.#config.timeout ?? DEFAULT_TIMEOUT;
  }

  /** The address of a part of the service, without a slash at the end. */
  at(surface: Surface): string {
    const origin = page?.location?.origin;
    const base = this.#config.url ?? environment("FLASHBULB_URL") ?? (origin?.startsWith("http") ? origin : DEFAULT_URL);
    if (!/^https?:\/\//.test(base)) throw new ConfigurationError(`not an address: ${JSON.stringify(base)}; give http(s)://host:port`);
    return `${base.replace(/\/+$/, "")}/${surface}`;
  }

  /** The proxy that requests go through, if any. */
  get proxy(): string | undefined {
    const proxy = this.#config.proxyUrl;
    if (proxy === undefined) return undefined;
    const { url, when = "browser" } = typeof proxy === "string" ? { url: proxy } : proxy;
    return when === "always" || inBrowser ? url : undefined;
  }

  /** The key; undefined: there is none, or the proxy adds it. */
  async key(): Promise<string | undefined> {
    if (this.proxy !== undefined) return undefined;
    const given = this.#config.credentials;
    const key = typeof given === "function" ? await given() : (given ?? environment("FLASHBULB_KEY") ?? environment("FAL_KEY"));
    if (key !== undefined) this.#warn();
    return key;
  }

  #warn(): void {
    if (!inBrowser || this.#warned || this.#config.suppressLocalCredentialsWarning) return;
    this.#warned = true;
    console.warn("flashbulb: the key is visible to whoever opens this page; use proxyUrl or a tokenProvider instead");
  }
}
