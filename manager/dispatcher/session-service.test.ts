import assert from "node:assert/strict";
import { test } from "node:test";
import type { ToAgent } from "./dispatcher.ts";
import { serveSession } from "./session-service.ts";

test("serveSession() sends an agent on to the leader, and says so where none is known", () => {
  const told: ToAgent[] = [];
  const call = {
    write: (message: ToAgent) => told.push(message),
    end: () => {},
  } as unknown as Parameters<typeof serveSession>[1];
  const peer = { nodeId: "n1", clusterId: "c1", role: "worker", serial: "1" } as const;
  for (const leader of ["10.0.0.2:2377", ""]) {
    serveSession({ dispatcher: () => undefined, leaderAddress: () => leader }, call, {
      peer,
      remoteAddress: "10.0.0.9:1",
    });
  }
  assert.deepEqual(
    told.map(({ disconnect }) => disconnect?.leaderAddr),
    ["10.0.0.2:2377", ""],
  );
  assert.match(told[0]?.disconnect?.reason ?? "", /does not lead/);
  assert.match(told[1]?.disconnect?.reason ?? "", /knows no leader/);
});
