// Where fal's hosts are on a gateway: under prefixes of one origin, or behind their real names in the Host header.

export const SURFACES = {
  "fal.run": "run",
  "queue.fal.run": "queue",
  "rest.fal.ai": "rest",
  "rest.alpha.fal.ai": "rest", // the name that @fal-ai/serverless-client uses
  "ws.fal.run": "ws",
  "v3.fal.media": "cdn",
};

/** The same address on the origin `base`; addresses of other hosts stay as they are. */
export function onOneOrigin(base, address) {
  const url = new URL(address);
  const surface = SURFACES[url.host];
  return surface ? `${base}/${surface}${url.pathname}${url.search}` : String(address);
}

/** A `fetch` for `fal.config`. */
export function fetchOn(base) {
  return (address, init) => fetch(onOneOrigin(base, address), init);
}

/** The address of a WebSocket on the origin. */
export function socketOnOneOrigin(base, address) {
  return onOneOrigin(base, address.replace(/^ws/, "http")).replace(/^http/, "ws");
}
