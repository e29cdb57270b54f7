/** For tests and benches that start servers of other programs, which want to be told their port. */
import { once } from "node:events";
import { type AddressInfo, createServer } from "node:net";

/** A TCP port that nobody listened on a moment ago. */
export async function freePort(address = "127.0.0.1"): Promise<number> {
  const server = createServer().listen(0, address);
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  server.close();
  await once(server, "close");
  return port;
}
