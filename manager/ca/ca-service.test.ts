import assert from "node:assert/strict";
import { test } from "node:test";
import { caHandlers } from "./ca-service.ts";

test("renewCertificate lets a manager pass on what a node asks, unless its own certificate has expired", async () => {
  const { renewCertificate } = caHandlers({
    view: () => assert.fail("the state is not read"),
    authority: { renew: (nodeId: string) => Promise.resolve({ nodeId }) },
    link: { run: (call: { local: () => unknown }) => call.local() },
  } as unknown as Parameters<typeof caHandlers>[0]);
  assert.ok("unary" in renewCertificate);
  const { unary } = renewCertificate;
  const manager = { nodeId: "m1", clusterId: "c1", role: "manager", serial: "1" } as const;
  const remoteAddress = "127.0.0.1:1";
  const { signal } = new AbortController();
  const asked = async (peer: typeof manager & { hasExpired?: true }, onBehalfOf: string): Promise<unknown> =>
    unary({ csr: new Uint8Array(1), onBehalfOf }, { peer, remoteAddress, signal });
  const expired = { ...manager, hasExpired: true } as const;
  assert.deepEqual(await asked(manager, "w1"), { nodeId: "w1" });
  assert.deepEqual(await asked(expired, ""), { nodeId: "m1" });
  await assert.rejects(asked(expired, "w1"), { code: "permission_denied" });
});
