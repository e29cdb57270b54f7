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
before(async () => {
  const deps = { random: new SeededRandom(1), nowMs: new FakeClock().wallMs() };
  const root = await createRoot(deps);
  const { csr, key } = await createRequest();
  const subject = { nodeId: "n1", role: "worker", clusterId: "c1" } as const;
  const issuer = await openIssuer(root);
  const { certificate } = await issueCertificate({ ...deps, issuer, csr, subject, lifeMs: LIFE_MS });
  identity = { ...subject, certificate, key, rootCa: root.certificate };
});

/** A renewal whose calls of a manager end when the test says so. */
function setUp(): {
  readonly clock: FakeClock;
  readonly renewal: CertificateRenewal;
  readonly calls: PromiseWithResolvers<NodeIdentity>[];
  readonly renewed: () => number;
} {
  const clock = new FakeClock();
  const calls: PromiseWithResolvers<NodeIdentity>[] = [];
  let count = 0;
  const renewal = new CertificateRenewal({
    env: { clock, timers: clock, random: new SeededRandom(1) },
    log: silentLogger,
    identity: () => identity,
    managers: () => ["m1:2377"],
    renew: () => {
      const call = Promise.withResolvers<NodeIdentity>();
      calls.push(call);
      return call.promise;
    },
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
