/** Unit tests of guests.ts with a fake clock. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { FakeClock } from "../../common/testing/fake-clock.ts";
import type { NetworkAssignment } from "../../model/dispatch.ts";
import type { Guest } from "../../model/engine.ts";
import { NodeGuests } from "./guests.ts";
import { GUEST_NETWORK_WAIT_MS } from "./limits.ts";

function network(networkId: string, isAttachable = true): NetworkAssignment {
  const name = `name-${networkId}`;
  const base = { networkId, name, vni: 1, subnets: [], isInternal: false, options: {} };
  return { ...base, isAttachable, endpoints: [], services: [] };
}

function setUp() {
  const clock = new FakeClock();
  const networks: NetworkAssignment[] = [];
  const asked: (readonly string[])[] = [];
  const guests = new NodeGuests({
    timers: clock,
    networks: () => networks,
    connect: async () => ["10.0.0.1", { endpoints: {}, nameservers: [], searchDomains: [], dnsOptions: [] }],
    takeOver: async () => {},
    disconnect: async () => {},
  });
  guests.onChange((references) => asked.push(references));
  return { clock, networks, asked, guests };
}

const guest: Guest = {
  target: { containerId: "c", pid: 1 },
  networkIds: ["n1"],
  nameservers: [],
  ports: [],
};

test("open() asks the managers and resolves when they have described the network", async () => {
  const { networks, asked, guests } = setUp();
  const opened = guests.open("name-n1");
  assert.deepEqual(asked, [["name-n1"]]);
  networks.push(network("n1"));
  guests.networksChanged();
  assert.deepEqual(await opened, { id: "n1", name: "name-n1" });
});

test("open() gives up when nobody knows the network, and when it is closed to guests", async () => {
  const { clock, networks, guests } = setUp();
  networks.push(network("closed", false));
  const opened = Promise.all([guests.open("nosuch"), guests.open("closed")]);
  clock.advance(GUEST_NETWORK_WAIT_MS);
  assert.deepEqual(await opened, [undefined, undefined]);
});

test("a network stays asked for as long as a guest uses it", async () => {
  const { clock, networks, asked, guests } = setUp();
  networks.push(network("n1"));
  await guests.open("n1");
  await guests.attach(guest);
  clock.advance(60_000);
  assert.deepEqual(asked.at(-1), ["n1"]);
  await guests.detach("c");
  assert.deepEqual(asked.at(-1), []);
});

test("attach() refuses a network that is not set up here", async () => {
  const { guests } = setUp();
  await assert.rejects(guests.attach(guest), /network n1 not found/);
});
