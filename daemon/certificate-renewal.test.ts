import assert from "node:assert/strict";
import { before, describe, it } from "node:test";
import { silentLogger } from "../common/log.ts";
import { FakeClock } from "../common/testing/fake-clock.ts";
import { SeededRandom } from "../common/testing/seeded-random.ts";
import { createRequest, createRoot, issueCertificate, openIssuer } from "../manager/ca/certificates.ts";
import type { NodeIdentity } from "../proto/rpc.ts";
import { CertificateRenewal } from "./certificate-renewal.ts";

const LIFE_MS = 24 * 3_600_000;
const RETRY_FIRST_MS = 10_000;

let identity: NodeIdentity;
/** By the clock of a machine that is ahead. */
let expired: NodeIdentity;
before(async () => {
  const deps = { random: new SeededRandom(1), nowMs: new FakeClock().wallMs() };
  const root = await createRoot(deps);
  const issuer = await openIssuer(root);
  const subject = { nodeId: "n1", role: "worker", clusterId: "c1" } as const;
  const issue = async (lifeMs: number): Promise<NodeIdentity> => {
    const { csr, key } = await createRequest();
    const { certificate } = await issueCertificate({ ...deps, issuer, csr, subject, lifeMs });
    return { ...subject, certificate, key, rootCa: root.certificate };
  };
  identity = await issue(LIFE_MS);
  expired = await issue(-1000);
});

/** A renewal whose calls of a manager end when the test says so. */
function setUp(options: { readonly first?: NodeIdentity; readonly own?: NodeIdentity } = {}): {
  readonly clock: FakeClock;
  readonly renewal: CertificateRenewal;
  readonly calls: PromiseWithResolvers<NodeIdentity>[];
  readonly renewed: () => number;
} {
  const clock = new FakeClock();
  const calls: PromiseWithResolvers<NodeIdentity>[] = [];
  const { first = identity, own } = options;
  let count = 0;
  const renewal = new CertificateRenewal({
    env: { clock, timers: clock, random: new SeededRandom(1) },
    log: silentLogger,
    identity: () => first,
    managers: () => ["m1:2377"],
    renew: () => {
      const call = Promise.withResolvers<NodeIdentity>();
      calls.push(call);
      return call.promise;
    },
    renewOwn: () => (own === undefined ? undefined : Promise.resolve(own)),
    renewed: () => {
      count += 1;
    },
  });
  return { clock, renewal, calls, renewed: () => count };
}

describe("CertificateRenewal", () => {
  it("renews between half and four fifths of the certificate's life", async () => {
    const { clock, renewal, calls, renewed } = setUp();
    renewal.start();
    await clock.advanceAsync(LIFE_MS * 0.49);
    assert.equal(calls.length, 0);
    await clock.advanceAsync(LIFE_MS * 0.32);
    assert.equal(calls.length, 1);
    calls[0]?.resolve(identity);
    await clock.advanceAsync(0);
    assert.equal(renewed(), 1);
    renewal.stop();
  });

  it("renews once more after the renewal that is under way, however often it is asked to meanwhile", async () => {
    const { clock, renewal, calls, renewed } = setUp();
    renewal.renewNow();
    renewal.renewNow();
    renewal.renewNow();
    assert.equal(calls.length, 1);
    calls[0]?.resolve(identity);
    await clock.advanceAsync(0);
    assert.equal(calls.length, 2);
    calls[1]?.resolve(identity);
    await clock.advanceAsync(0);
    assert.deepEqual([calls.length, renewed()], [2, 2]);
    renewal.stop();
  });

  it("tries again at once if it was asked to during one that failed, and else after a while", async () => {
    const { clock, renewal, calls } = setUp();
    renewal.renewNow();
    renewal.renewNow();
    calls[0]?.reject(new Error("no manager answers"));
    await clock.advanceAsync(0);
    assert.equal(calls.length, 2);
    calls[1]?.reject(new Error("no manager answers"));
    await clock.advanceAsync(0);
    assert.equal(calls.length, 2);
    await clock.advanceAsync(2 * RETRY_FIRST_MS);
    assert.equal(calls.length, 3);
    renewal.stop();
  });

  it("waits before it renews again what is due as soon as it comes: the clock here is wrong", async () => {
    const { clock, renewal, calls, renewed } = setUp({ first: expired });
    renewal.start();
    for (let count = 1; count < 5; count += 1) {
      await clock.advanceAsync(0);
      assert.equal(calls.length, count);
      calls.at(-1)?.resolve(expired);
      await clock.advanceAsync(RETRY_FIRST_MS / 4);
      assert.deepEqual([calls.length, renewed()], [count, count]);
      await clock.advanceAsync(2 ** count * RETRY_FIRST_MS);
    }
    renewal.stop();
  });

  it("takes what the node's own manager makes only when its certificate is out of date and nobody renews it", async () => {
    for (const [first, taken] of [
      [expired, 1],
      [identity, 0],
    ] as const) {
      const { clock, renewal, calls, renewed } = setUp({ first, own: identity });
      renewal.renewNow();
      calls[0]?.reject(new Error("no manager answers"));
      await clock.advanceAsync(0);
      assert.equal(renewed(), taken);
      renewal.stop();
    }
  });

  it("renews soon after the clock was set, or the machine woke, past the time to renew", async () => {
    const { clock, renewal, calls } = setUp();
    renewal.start();
    await clock.advanceAsync(1000);
    clock.setWallForward(LIFE_MS);
    await clock.advanceAsync(60_000);
    assert.equal(calls.length, 1);
    renewal.stop();
  });

  it("does nothing more once it was stopped", async () => {
    const { clock, renewal, calls, renewed } = setUp();
    renewal.renewNow();
    renewal.renewNow();
    renewal.stop();
    calls[0]?.resolve(identity);
    await clock.advanceAsync(LIFE_MS);
    assert.deepEqual([calls.length, renewed()], [1, 0]);
  });
});
