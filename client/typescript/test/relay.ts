/** A TCP relay in front of the service, whose connections can be cut. */
import { type AddressInfo, connect, createServer, type Socket } from "node:net";

export interface Relay {
  /** `host:port` of the relay. */
  address: string;
  /** Connections that came so far. */
  count(): number;
  /** Breaks every connection there is. */
  cut(): void;
  /** Whether new connections are let through. */
  open(yes: boolean): void;
  close(): void;
}

export async function relay(target: string): Promise<Relay> {
  const [host, port] = target.split(":") as [string, string];
  const sockets = new Set<Socket>();
  let [count, letIn] = [0, true];
  const server = createServer((near) => {
    count += 1;
    if (!letIn) return void near.resetAndDestroy();
    const far = connect(Number(port), host);
    for (const [one, other] of [[near, far], [far, near]] as const) {
      sockets.add(one);
      one.on("data", (data) => other.write(data));
      one.on("error", () => other.destroy());
      one.on("close", () => {
        sockets.delete(one);
        other.destroy();
      });
    }
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  return {
    address: `127.0.0.1:${(server.address() as AddressInfo).port}`,
    count: () => count,
    cut: () => sockets.forEach((socket) => socket.resetAndDestroy()),
    open: (yes) => (letIn = yes),
    close: () => {
      server.close();
      sockets.forEach((socket) => socket.destroy());
    },
  };
}
