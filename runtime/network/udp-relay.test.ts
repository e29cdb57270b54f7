import assert from "node:assert/strict";
import { createSocket, type Socket } from "node:dgram";
import { once } from "node:events";
import { networkInterfaces } from "node:os";
import { test, type TestContext } from "node:test";
import { PortReservations } from "./local-ports.ts";
import { UdpRelay } from "./udp-relay.ts";

const isHere = Object.values(networkInterfaces()).some((each) =>
  each?.some(({ address }) => address === "::1"),
);
const options = { skip: isHere ? false : "this machine's loopback has no IPv6" };

async function bound(t: TestContext, type: "udp4" | "udp6"): Promise<Socket> {
  const socket = createSocket(type);
  t.after(() => socket.close());
  await new Promise<void>((resolve) => socket.bind(0, type === "udp4" ? "127.0.0.1" : "::1", resolve));
  return socket;
}

/** Answers each datagram with the port that it came from and its text. */
async function echo(t: TestContext): Promise<{ readonly host: string; readonly port: number }> {
  const socket = await bound(t, "udp4");
  socket.on("message", (data, { port, address }) => socket.send(`${port} ${data.toString()}`, port, address));
  return { host: "127.0.0.1", port: socket.address().port };
}

async function ask(socket: Socket, port: number, text: string): Promise<readonly string[]> {
  const answer = once(socket, "message");
  socket.send(text, port, "::1");
  const [data] = (await answer) as [Buffer];
  return data.toString().split(" ");
}

test(
  "PortReservations.take() of a UDP port is relayed where the container has no IPv6",
  options,
  async (t) => {
    const target = await echo(t);
    const reservations = new PortReservations();
    t.after(() => reservations.close());
    const held = await reservations.take(
      { protocol: "udp", containerPort: target.port, hostIp: "0.0.0.0", isDual: true, first: 0, last: 0 },
      { address: () => target },
    );
    assert.equal(held.isDual, true);
    const [one, other] = [await bound(t, "udp6"), await bound(t, "udp6")];
    const [[ownPort, own], [otherPort, text]] = await Promise.all([
      ask(one, held.hostPort, "one"),
      ask(other, held.hostPort, "other"),
    ]);
    assert.deepEqual([own, text], ["one", "other"]);
    assert.notEqual(ownPort, otherPort, "each client is one of its own to the container");
    assert.deepEqual(await ask(one, held.hostPort, "again"), [ownPort, "again"]);
  },
);

test(
  "UdpRelay drops what comes while there is no container, and forgets the client silent longest",
  options,
  async (t) => {
    const echoed = await echo(t);
    let target: typeof echoed | undefined;
    const socket = createSocket({ type: "udp6", ipv6Only: true });
    await new Promise<void>((resolve) => socket.bind(0, "::1", resolve));
    const { port } = socket.address();
    const relay = new UdpRelay(socket, { target: () => target, clientCountMax: 2 });
    const clients = [await bound(t, "udp6"), await bound(t, "udp6"), await bound(t, "udp6")] as const;
    const dropped = once(socket, "message");
    clients[0].send("lost", port, "::1");
    await dropped;
    assert.equal(relay.clientCount, 0);
    target = echoed;
    const [first] = await ask(clients[0], port, "a");
    await ask(clients[1], port, "b");
    assert.deepEqual(await ask(clients[0], port, "c"), [first, "c"]);
    await ask(clients[2], port, "d");
    assert.equal(relay.clientCount, 2);
    assert.deepEqual(await ask(clients[0], port, "e"), [first, "e"], "the second was silent longest");
    await relay.close();
    assert.equal(relay.clientCount, 0);
  },
);

test("UdpRelay forgets a client after its time", options, async (t) => {
  const target = await echo(t);
  const socket = createSocket({ type: "udp6", ipv6Only: true });
  await new Promise<void>((resolve) => socket.bind(0, "::1", resolve));
  const relay = new UdpRelay(socket, { target: () => target, idleMs: 1 });
  t.after(() => relay.close());
  const client = await bound(t, "udp6");
  client.send("x", socket.address().port, "::1");
  await once(socket, "message");
  while (relay.clientCount > 0) await new Promise((resolve) => setImmediate(resolve));
});
