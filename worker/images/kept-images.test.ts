import assert from "node:assert/strict";
import { test } from "node:test";
import { ClusterError } from "../../common/errors.ts";
import { silentLogger } from "../../common/log.ts";
import { FakeClock, settle } from "../../common/testing/fake-clock.ts";
import { SeededRandom } from "../../common/testing/seeded-random.ts";
import type { ImageAssignment } from "../../model/dispatch.ts";
import { KEPT_IMAGE_CHECK_MS } from "../limits.ts";
import { KeptImages } from "./kept-images.ts";

const A = `sha256:${"a".repeat(64)}`;
const B = `sha256:${"b".repeat(64)}`;

class Fixture {
  readonly clock = new FakeClock();
  /** References that are here. */
  readonly here = new Set<string>();
  readonly ensured: string[] = [];
  readonly removed: string[] = [];
  readonly files = new Map<string, Uint8Array>();
  kept: ReadonlySet<string> = new Set();
  isReachable = true;
  /** What comes does so after this. */
  arrival = Promise.resolve();
  images = this.make();

  make(): KeptImages {
    return new KeptImages({
      images: {
        resolve: (reference) => (this.here.has(reference) ? "id" : undefined),
        ensure: async (reference) => {
          this.ensured.push(reference);
          if (!this.isReachable) throw new ClusterError("not_found", "nobody has it");
          await this.arrival;
          this.here.add(reference);
          return "id";
        },
        remove: (reference) => {
          this.removed.push(reference);
          this.here.delete(reference);
          return Promise.resolve([]);
        },
        setKept: (digests) => (this.kept = digests),
      },
      disk: {
        exists: (file) => Promise.resolve(this.files.has(file)),
        readFile: (file) => Promise.resolve(this.files.get(file) ?? new Uint8Array()),
        writeFileAtomic: (file, bytes) => {
          this.files.set(file, bytes);
          return Promise.resolve();
        },
      },
      timers: this.clock,
      random: new SeededRandom(1),
      log: silentLogger,
      file: "/kept.json",
    });
  }

  async assign(...digests: readonly string[]): Promise<void> {
    this.images.apply(
      new Map(digests.map((digest, index): [string, ImageAssignment] => [`i${index}`, assignment(digest)])),
    );
    await settle();
  }
}

function assignment(digest: string): ImageAssignment {
  return { name: "docker.io/library/web:1", digest };
}

function reference(digest: string): string {
  return `docker.io/library/web@${digest}`;
}

test("KeptImages fetches what is missing, protects it, and lets go only of what it fetched", async () => {
  const fixture = new Fixture();
  fixture.here.add(reference(B));
  await fixture.images.start();
  await fixture.assign(A, B);
  assert.deepEqual(fixture.ensured, [reference(A)]);
  assert.deepEqual([...fixture.kept], [A, B]);
  await fixture.assign();
  assert.deepEqual(fixture.removed, [reference(A)], "what was here before stays");
  assert.equal(fixture.kept.size, 0);
  fixture.images.stop();
});

test("KeptImages tries again while nobody can be asked, and fetches anew what a disk lost", async () => {
  const fixture = new Fixture();
  fixture.isReachable = false;
  await fixture.images.start();
  await fixture.assign(A);
  await fixture.clock.advanceAsync(2_000);
  assert.ok(fixture.ensured.length >= 2);
  fixture.isReachable = true;
  await fixture.clock.advanceAsync(60_000);
  assert.ok(fixture.here.has(reference(A)));
  fixture.here.clear();
  await fixture.clock.advanceAsync(KEPT_IMAGE_CHECK_MS);
  await settle();
  assert.ok(fixture.here.has(reference(A)));
  fixture.images.stop();
});

test("KeptImages protects what it kept from the first moment after a restart, and remembers what it fetched", async () => {
  const fixture = new Fixture();
  await fixture.images.start();
  await fixture.assign(A);
  fixture.images.stop();
  fixture.kept = new Set();
  fixture.images = fixture.make();
  await fixture.images.start();
  assert.deepEqual([...fixture.kept], [A]);
  await fixture.assign();
  assert.deepEqual(fixture.removed, [reference(A)]);
  fixture.images.stop();
  fixture.files.set("/kept.json", Buffer.from("not json"));
  fixture.images = fixture.make();
  await fixture.images.start();
  await fixture.assign(A);
  assert.ok(fixture.here.has(reference(A)), "a damaged list is told anew");
  fixture.images.stop();
});

test("KeptImages lets go of what was released and wanted again while it came", async () => {
  const fixture = new Fixture();
  const arrival = Promise.withResolvers<void>();
  fixture.arrival = arrival.promise;
  await fixture.images.start();
  await fixture.assign(A);
  await fixture.assign();
  await fixture.assign(A);
  arrival.resolve();
  await settle();
  assert.equal(fixture.here.has(reference(A)), true);
  await fixture.assign();
  assert.equal(fixture.here.has(reference(A)), false);
});

test("KeptImages takes no names or digests that are none", async () => {
  const fixture = new Fixture();
  await fixture.images.start();
  fixture.images.apply(
    new Map([
      ["i1", { name: "Not A Name", digest: A }],
      ["i2", { name: "docker.io/library/web:1", digest: "latest" }],
    ]),
  );
  await settle();
  assert.deepEqual(fixture.ensured, []);
  fixture.images.stop();
});

test("KeptImages lets go of everything it fetched when the node leaves", async () => {
  const fixture = new Fixture();
  await fixture.images.start();
  await fixture.assign(A);
  await fixture.images.releaseAll();
  assert.deepEqual(fixture.removed, [reference(A)]);
  assert.equal(fixture.kept.size, 0);
});
