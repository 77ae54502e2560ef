// Preloaded by `node --import`: the whole process reaches the gateway under fal's addresses, so that nothing else has to be changed.

import WebSocket from "ws";
import { onOneOrigin, socketOnOneOrigin } from "./addresses.mjs";

const base = process.env.CONFORMANCE_BASE;
const direct = globalThis.fetch;

globalThis.fetch = (address, init) =>
  typeof address === "string" || address instanceof URL ? direct(onOneOrigin(base, address), init) : direct(address, init);

globalThis.WebSocket = class extends WebSocket {
  constructor(address, protocols) {
    super(socketOnOneOrigin(base, address), protocols);
  }
};
