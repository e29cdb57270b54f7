import assert from "node:assert/strict";
import { test } from "node:test";
import { remoteManagers, standingAtWorker } from "./remote-managers.ts";

const three = [1, 2, 3].map((each) => ({ nodeId: `n${each}`, addr: `10.0.0.${each}:2377` }));
const asTold = three.map(({ nodeId, addr }) => ({ NodeID: nodeId, Addr: addr }));

test("remoteManagers() names all managers that a worker was told of, with their ids", () => {
  assert.deepEqual(remoteManagers({ members: undefined, told: three, saved: ["10.0.0.1:2377"] }), asTold);
});

test("remoteManagers() prefers the members of the quorum, as sessions may lag", () => {
  assert.deepEqual(remoteManagers({ members: three, told: three.slice(1), saved: [] }), asTold);
});

test("remoteManagers() falls back to saved addresses before the first session", () => {
  assert.deepEqual(remoteManagers({ members: [], told: [], saved: ["10.0.0.1:2377", "10.0.0.2:2377"] }), [
    { NodeID: "", Addr: "10.0.0.1:2377" },
    { NodeID: "", Addr: "10.0.0.2:2377" },
  ]);
});

test("standingAtWorker() believes a manager's certificate only of those that are managers now", () => {
  const peer = (nodeId: string, role: "manager" | "worker") => standingAtWorker({ nodeId, role }, three);
  assert.equal(peer("n1", "manager"), undefined);
  assert.equal(peer("n4", "manager"), "worker", "demoted");
  assert.equal(peer("n4", "worker"), undefined);
  assert.equal(standingAtWorker({ nodeId: "n4", role: "manager" }, []), undefined, "nothing was told yet");
});
