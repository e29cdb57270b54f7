import assert from "node:assert/strict";
import { test } from "node:test";
import { silentLogger } from "../common/log.ts";
import { realEnv } from "../common/real-env.ts";
import type { EngineEvent } from "../model/engine.ts";
import { eventLine, eventMatches } from "./event-filter.ts";
import { EventFeed, eventTimeMs } from "./event-feed.ts";
import { parseFilters } from "./filters.ts";
import { FakeEngine } from "./testing/fake-engine.ts";
import { FakeSwarm } from "./testing/fake-swarm.ts";

function containerEvent(ms: number, action: string, attributes: Record<string, string> = {}): EngineEvent {
  return {
    Type: "container",
    Action: action,
    Actor: { ID: "c".repeat(64), Attributes: { image: "busybox:1", name: "web", ...attributes } },
    scope: "local",
    time: Math.floor(ms / 1000),
    timeNano: BigInt(ms) * 1_000_000n,
  };
}

test("EventFeed replays the machine's and the cluster's past in the order of time, then follows", async () => {
  const [engine, swarm] = [new FakeEngine(), new FakeSwarm()];
  let nowMs = 1000;
  const clock = { wallMs: () => nowMs, monotonicMs: () => nowMs };
  const feed = new EventFeed({ engine, swarm, env: { clock, timers: realEnv.timers }, log: silentLogger });
  await swarm.init();
  feed.start();
  const settled = (): Promise<void> => new Promise((resolve) => void setImmediate(resolve));
  await settled();
  swarm.store.put("secret", { id: swarm.store.newId(), spec: { Name: "first" } });
  await settled();
  engine.emit(containerEvent(2000, "start"));
  nowMs = 3000;
  swarm.store.put("secret", { id: swarm.store.newId(), spec: { Name: "last" } });
  await settled();
  const end = new AbortController();
  const seen: string[] = [];
  for await (const event of feed.read({ sinceMs: 0 }, end.signal)) {
    seen.push(`${eventTimeMs(event)} ${event.Type}`);
    if (seen.length === 3) engine.emit(containerEvent(4000, "die"));
    if (seen.length === 4) break;
  }
  end.abort();
  feed.stop();
  assert.deepEqual(seen, ["1000 secret", "2000 container", "3000 secret", "4000 container"]);
});

test("eventMatches() knows names, prefixes of ids, images without tag, and actions with arguments", () => {
  const event = containerEvent(1, "exec_create: sh -c x", { tier: "front" });
  const matches = (filters: object): boolean => eventMatches(event, parseFilters(JSON.stringify(filters)));
  assert.ok(matches({ container: ["web"] }));
  assert.ok(matches({ container: ["cccc"] }));
  assert.ok(matches({ image: ["busybox"], event: ["exec_create"], label: ["tier=front"] }));
  assert.ok(matches({ event: ["start", "exec_create"] }));
  assert.ok(!matches({ event: ["exec"] }));
  assert.ok(!matches({ volume: ["web"] }));
  assert.ok(!matches({ label: ["tier=back"] }));
  assert.ok(!matches({ scope: ["swarm"] }));
});

test("eventLine() keeps all digits of the nanoseconds", () => {
  const line = eventLine({ ...containerEvent(0, "die"), timeNano: 1_795_216_980_028_311_479n });
  assert.match(line, /"timeNano":1795216980028311479\}\n$/);
});
