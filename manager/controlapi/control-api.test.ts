import assert from "node:assert/strict";
import { test } from "node:test";
import { ClusterError } from "../../common/errors.ts";
import { silentLogger } from "../../common/log.ts";
import { realEnv } from "../../common/real-env.ts";
import { FakeClock } from "../../common/testing/fake-clock.ts";
import { LiveIdentity } from "../../proto/rpc-identity.ts";
import { LeaderLink } from "../leader-link.ts";
import { LEADER_RETRY_MS, LOCAL_COPY_WAIT_MS } from "../limits.ts";
import type { ReplicatedLog } from "../raft/replicated-log.ts";
import { MemoryStore } from "../store/memory-store.ts";
import { SingleMemberLog } from "../store/testing/single-member-log.ts";
import { ControlApi, type ControlApiDeps } from "./control-api.ts";
import { ControlWriter } from "./control-writer.ts";

const NOBODY = {
  nodeId: "n",
  clusterId: "c",
  role: "manager",
  certificate: "",
  key: "",
  rootCa: "",
} as const;

/** A follower's API; the leader makes every write at version 9, which this replica doesn't have. */
function follower(
  clock: FakeClock,
  readBarrier: ReplicatedLog["readBarrier"],
  more: { readonly store?: MemoryStore } = {},
): ControlApi {
  const store = more.store ?? new MemoryStore({ clock, timers: clock, log: silentLogger });
  const raft = Object.assign(new SingleMemberLog({ machine: store, timers: clock }), { readBarrier });
  const { random } = realEnv;
  const run = <T>(): Promise<T> => Promise.resolve({ id: "made", warnings: ["w"], version: 9 } as T);
  const deps: ControlApiDeps = {
    store,
    raft,
    link: { run },
    writer: new ControlWriter({ store, raft, clock, random, log: silentLogger }),
    nodeImages: () => undefined,
    identity: new LiveIdentity(NOBODY),
    selfAddr: "127.0.0.1:1",
    env: { ...realEnv, clock, timers: clock },
    log: silentLogger,
  };
  return new ControlApi(deps);
}

test("a write that the leader made is answered as made, whatever ails this manager's own replica", async () => {
  const clock = new FakeClock();
  const broken = follower(clock, () => Promise.reject(new ClusterError("unavailable", "no answer")));
  const made = await broken.createSecret({ Name: "s", Labels: {}, Data: "" });
  assert.equal(made.id, "made");
  assert.match(made.warnings.join(), /^w,The change is made; this manager could not take it in yet/);

  const hanging = follower(
    clock,
    ({ signal } = {}) =>
      new Promise((_, reject) => {
        signal?.addEventListener("abort", () => reject(new ClusterError("cancelled", "given up")));
      }),
  );
  const late = hanging.removeSecret("s");
  await clock.advanceAsync(LOCAL_COPY_WAIT_MS);
  await late;
});

test("a write is answered without a word more once the replica has it", async () => {
  const caughtUp = follower(new FakeClock(), () => Promise.resolve());
  assert.deepEqual(await caughtUp.createSecret({ Name: "s", Labels: {}, Data: "" }), {
    id: "made",
    warnings: ["w"],
  });
});

test("hasReached() asks the others only where this replica may be behind", async () => {
  let askedCount = 0;
  const api = follower(new FakeClock(), () => {
    askedCount += 1;
    return Promise.resolve();
  });
  const { signal } = new AbortController();
  assert.equal(await api.hasReached(0, signal), true);
  assert.equal(askedCount, 0);
  assert.equal(await api.hasReached(5, signal), false);
  assert.equal(askedCount, 1);
});

test("a watch ends with its signal, also one that nobody has begun to read, and with the manager", async () => {
  const clock = new FakeClock();
  const store = new MemoryStore({ clock, timers: clock, log: silentLogger });
  const viewAndWatch = store.viewAndWatch.bind(store);
  const open = new Set<object>();
  const noting: MemoryStore["viewAndWatch"] = (options, listener) => {
    const { view, watch } = viewAndWatch(options, listener);
    open.add(watch);
    const cancel = (): void => {
      open.delete(watch);
      watch.cancel();
    };
    return { view, watch: { cancel } };
  };
  const api = follower(clock, () => Promise.resolve(), {
    store: Object.assign(store, { viewAndWatch: noting }),
  });
  const unread = new AbortController();
  api.watch(unread.signal);
  unread.abort();
  assert.equal(open.size, 0, "the unread one");
  const read = api.watch(new AbortController().signal)[Symbol.asyncIterator]();
  const next = read.next();
  assert.equal(open.size, 1);
  api.stop();
  assert.equal((await next).done, true);
  assert.equal(open.size, 0, "all");
});

test("a write whose outcome cannot be known any more is answered so at once, and not taken for a lost leader", async () => {
  const clock = new FakeClock();
  const store = new MemoryStore({ clock, timers: clock, log: silentLogger });
  const raft = new SingleMemberLog({ machine: store });
  store.attach(raft);
  const writer = new ControlWriter({ store, raft, clock, random: realEnv.random, log: silentLogger });
  const answers = [
    new ClusterError("unavailable", "leadership was lost"),
    new ClusterError("out_of_sequence", "update out of sequence"),
  ];
  writer.updateNode = () => Promise.reject(answers.shift() ?? new Error("asked once more"));
  const identity = new LiveIdentity(NOBODY);
  const api = new ControlApi({
    store,
    raft,
    link: new LeaderLink({ clock, timers: clock, identity, raft }),
    writer,
    nodeImages: () => undefined,
    identity,
    selfAddr: "127.0.0.1:1",
    env: { ...realEnv, clock, timers: clock },
    log: silentLogger,
  });
  const write = api.updateNode("n", 1, { Role: "worker", Availability: "active" });
  const refused = assert.rejects(write, /^ClusterError: Cannot say whether the change was made/);
  await clock.advanceAsync(2 * LEADER_RETRY_MS);
  await refused;
});
