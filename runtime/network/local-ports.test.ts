import assert from "node:assert/strict";
import { once } from "node:events";
import { type AddressInfo, connect, createServer } from "node:net";
import { networkInterfaces } from "node:os";
import { test } from "node:test";
import { PortReservations } from "./local-ports.ts";

const isHere = Object.values(networkInterfaces()).some((each) =>
  each?.some(({ address }) => address === "::1"),
);
const options = { skip: isHere ? false : "this machine's loopback has no IPv6" };

test("PortReservations.release() ends relayed connections, whatever their clients do", options, async (t) => {
  // As a container that has ended: its side is closed, the client's is not.
  const container = createServer((socket) => socket.end("bye"));
  await new Promise<void>((resolve) => container.listen(0, "127.0.0.1", resolve));
  t.after(() => container.close());
  const { port } = container.address() as AddressInfo;
  const reservations = new PortReservations();
  const held = await reservations.take(
    { protocol: "tcp", containerPort: port, hostIp: "::1", first: 0, last: 0 },
    { address: () => ({ host: "127.0.0.1", port }) },
  );
  const client = connect({ host: "::1", port: held.hostPort, allowHalfOpen: true });
  t.after(() => client.destroy());
  const [answer] = (await once(client, "data")) as [Buffer];
  assert.equal(answer.toString(), "bye");
  await reservations.release(held);
});
