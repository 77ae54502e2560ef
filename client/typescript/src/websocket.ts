/** The WebSocket of this platform. In Node before 22 it is that of the package `ws`, see websocket.node.ts. */

/** A class of sockets as browsers have it. */
export async function webSocketClass(): Promise<typeof WebSocket> {
  return globalThis.WebSocket;
}
