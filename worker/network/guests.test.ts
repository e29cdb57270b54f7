/** Unit tests of guests.ts with a fake clock. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { FakeClock } from "../../common/testing/fake-clock.ts";
import type { NetworkAssignment, ReportedGuest } from "../../model/dispatch.ts";
import type { Guest } from "../../model/engine.ts";
import { NodeGuests } from "./guests.ts";
import { GUEST_ADDRESS_WAIT_MS, GUEST_NETWORK_WAIT_MS } from "./limits.ts";

const SUBNETS = [{ subnet: "10.0.1.0/24", gateway: "10.0.1.1" }];

function network(networkId: string, isAttachable = true): NetworkAssignment {
  const name = `name-${networkId}`;
  const base = { networkId, name, vni: 1, subnets: SUBNETS, isInternal: false, options: {} };
  return { ...base, isAttachable, endpoints: [], services: [] };
}

function setUp() {
  const clock = new FakeClock();
  const networks: NetworkAssignment[] = [];
  const asked: (readonly string[])[] = [];
  const reported: (readonly ReportedGuest[])[] = [];
  const connected: string[] = [];
  const guests = new NodeGuests({
    timers: clock,
    networks: () => networks,
    connect: async (_guest, attachments) => {
      connected.push(...attachments.map((each) => each.address));
      return { endpoints: {}, nameservers: [], searchDomains: [], dnsOptions: [] };
    },
    names: () => ({ lookup: () => undefined, reverse: () => undefined }),
    takeOver: async () => {},
    disconnect: async () => {},
  });
  guests.onChange((report) => {
    asked.push(report.references);
    reported.push(report.guests);
  });
  /** What the managers tell next of the network. */
  const tell = (...endpoints: readonly (readonly [taskId: string, ip: string])[]): void => {
    const ends = endpoints.map(([taskId, ip]) => ({
      taskId,
      serviceId: "",
      nodeId: "here",
      ip,
      state: "ready" as const,
      names: [],
    }));
    networks.splice(0, networks.length, { ...network("n1"), endpoints: ends });
    guests.networksChanged();
  };
  return { clock, networks, asked, reported, connected, guests, tell };
}

function guest(address = ""): Guest {
  return {
    target: { containerId: "c", pid: 1 },
    places: [{ networkId: "n1", names: ["db"], address }],
    nameservers: [],
    ports: [],
  };
}

test("open() asks the managers and resolves when they have described the network", async () => {
  const { networks, asked, guests } = setUp();
  const opened = guests.open("name-n1");
  assert.deepEqual(asked.at(-1), ["name-n1"]);
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
  const { clock, asked, guests, tell } = setUp();
  tell();
  await guests.open("n1");
  const attached = guests.attach(guest());
  tell(["c", "10.0.1.7"]);
  await attached;
  clock.advance(60_000);
  assert.deepEqual(asked.at(-1), ["n1"]);
  await guests.detach("c");
  assert.deepEqual(asked.at(-1), []);
});

test("attach() reports the guest and connects it with the address that the managers give", async () => {
  const { reported, connected, guests, tell } = setUp();
  tell();
  const attached = guests.attach(guest("10.0.1.50"));
  assert.deepEqual(reported.at(-1), [
    { containerId: "c", networkId: "n1", names: ["db"], address: "10.0.1.50" },
  ]);
  tell(["other", "10.0.1.9"], ["c", "10.0.1.8"]);
  assert.deepEqual(connected, [], "not the one that it asked for");
  tell(["other", "10.0.1.9"], ["c", "10.0.1.50"]);
  await attached;
  assert.deepEqual(connected, ["10.0.1.50/24"]);
});

test("attach() gives up, and the place, when no address comes", async () => {
  const { clock, reported, guests, tell } = setUp();
  tell();
  const attached = guests.attach(guest());
  clock.advance(GUEST_ADDRESS_WAIT_MS);
  await assert.rejects(
    attached,
    /Cannot connect the container to network "name-n1": .* an address, .* within 10 s/,
  );
  assert.deepEqual(reported.at(-1), []);
});

test("attach() again joins and leaves what differs, and goes back when that fails", async () => {
  const { clock, networks, reported, connected, guests, tell } = setUp();
  tell();
  const first = guests.attach(guest());
  tell(["c", "10.0.1.7"]);
  await first;
  networks.push(network("n2"));
  const place = { networkId: "n2", names: ["db"], address: "" };
  const both = { ...guest(), places: [...guest().places, place] };
  const refused = guests.attach(both);
  assert.deepEqual(
    reported.at(-1)?.map((each) => each.networkId),
    ["n1", "n2"],
  );
  clock.advance(GUEST_ADDRESS_WAIT_MS);
  await assert.rejects(refused, /network "name-n2": .* an address/);
  assert.deepEqual(
    reported.at(-1)?.map((each) => each.networkId),
    ["n1"],
  );
  assert.deepEqual(connected, ["10.0.1.7/24"]);
  await guests.attach({ ...guest(), places: [] });
  assert.deepEqual(reported.at(-1), []);
});

test("attach() asks for the address that the managers still show for the container", async () => {
  const { reported, guests, tell } = setUp();
  tell(["c", "10.0.1.7"]);
  await guests.attach(guest());
  assert.equal(reported.at(-1)?.[0]?.address, "10.0.1.7");
});

test("attach() refuses a network that is not set up here, and addresses that it can't have", async () => {
  const { guests, tell } = setUp();
  await assert.rejects(guests.attach(guest()), /network n1 not found/);
  tell(["other", "10.0.1.9"]);
  await assert.rejects(
    guests.attach(guest("10.0.2.9")),
    /no subnet .* contains IP address 10.0.2.9: it has 10.0.1.0\/24/,
  );
  for (const taken of ["10.0.1.9", "10.0.1.1"])
    await assert.rejects(guests.attach(guest(taken)), /Address already in use/);
});

test("adopt() reports the address that the guest has", async () => {
  const { reported, guests } = setUp();
  await guests.adopt(guest("10.0.1.7/24"), "100.64.0.9");
  assert.equal(reported.at(-1)?.[0]?.address, "10.0.1.7");
});
