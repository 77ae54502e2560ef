/** The WebSocket of Node: its own from Node 22 on, before that the one of the package `ws`. */

/** A class of sockets as browsers have it. */
export async function webSocketClass(): Promise<typeof WebSocket> {
  return globalThis.WebSocket ?? ((await import("ws")).WebSocket as unknown as typeof WebSocket);
}
