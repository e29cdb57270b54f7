import assert from "node:assert/strict";
import { test } from "node:test";
import { ClusterError } from "../common/errors.ts";
import { FakeClock } from "../common/testing/fake-clock.ts";
import { askLeader } from "./join-raft.ts";

const FIRST = "192.0.2.1:4";
const SECOND = "192.0.2.2:4";

/** What is asked whom, in order; `leaderOf` tells what each manager answers. */
async function asked(leaderOf: (address: string) => string): Promise<readonly string[]> {
  const clock = new FakeClock();
  const addresses: string[] = [];
  const ask = (address: string): Promise<string> => {
    addresses.push(address);
    // Whoever asks without a pause would ask for ever: this clock stands still.
    if (addresses.length > 50) return Promise.reject(new ClusterError("internal", "asked without a pause"));
    const leaderAddress = leaderOf(address);
    if (leaderAddress === address) return Promise.resolve("taken in");
    return Promise.reject(new ClusterError("unavailable", "not me", { notLeader: { leaderAddress } }));
  };
  const outcome = askLeader({ remoteAddrs: [FIRST], clock, timers: clock }, 1_000, ask).catch(
    (caught: unknown) => ClusterError.from(caught).code,
  );
  for (let stepMs = 0; stepMs < 2_000; stepMs += 100) await clock.advanceAsync(100);
  assert.equal(await outcome, leaderOf(SECOND) === SECOND ? "taken in" : "deadline_exceeded");
  return addresses;
}

test("askLeader() goes on to the leader that a manager names", async () => {
  assert.deepEqual(await asked(() => SECOND), [FIRST, SECOND]);
});

test("askLeader() pauses between rounds where two managers each take the other for the leader", async () => {
  const addresses = await asked((address) => (address === FIRST ? SECOND : FIRST));
  assert.deepEqual(addresses.slice(0, 4), [FIRST, SECOND, FIRST, SECOND]);
  assert.ok(addresses.length < 20, `asked ${addresses.length} times in a second`);
});

test("askLeader() passes over an address where no manager is any more, or none yet", async () => {
  const clock = new FakeClock();
  const ask = (address: string): Promise<string> =>
    address === FIRST
      ? Promise.reject(new ClusterError("unimplemented", "The server does not implement the method"))
      : Promise.resolve(`taken in by ${address}`);
  const remoteAddrs = [FIRST, SECOND];
  assert.equal(await askLeader({ remoteAddrs, clock, timers: clock }, 1_000, ask), `taken in by ${SECOND}`);
});
