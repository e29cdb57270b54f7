import assert from "node:assert/strict";
import { test } from "node:test";
import { Readable } from "node:stream";
import { ClusterError } from "../../common/errors.ts";
import type { BlobSource } from "./blob-stream.ts";
import { type BlobTrust, takeBlob } from "./trusted-blob.ts";

function source(name: string): BlobSource {
  return { name, open: () => Promise.resolve(Readable.from([])) };
}

const LIARS: ReadonlySet<string> = new Set(["liar", "liar2"]);

/** A blob that each of the sources that take part gives a word of; a liar's word is "x". */
class Fixture {
  readonly trust: BlobTrust;
  /** Names of the sources of each go. */
  readonly goes: string[] = [];
  readonly distrusted = new Set<string>();

  /** `isTogether`: all sources give a part; else the first gives all. */
  constructor(names: readonly string[], isTogether: boolean, failing: ReadonlySet<string> = new Set()) {
    const all = names.map(source);
    const goes = this.goes;
    this.trust = {
      sources: () => all,
      distrusted: this.distrusted,
      signal: new AbortController().signal,
      pieces: async function* (sources, onUse): AsyncGenerator<Buffer> {
        const used = isTogether ? sources() : sources().slice(0, 1);
        goes.push(used.map((each) => each.name).join());
        for (const each of used) {
          if (failing.has(each.name)) throw new ClusterError("unavailable", `${each.name} broke off`);
          onUse(each);
          yield await Promise.resolve(Buffer.from(LIARS.has(each.name) ? "x" : "y"));
        }
      },
    };
  }

  take(): Promise<string> {
    return takeBlob(this.trust, textOf);
  }
}

async function textOf(pieces: AsyncGenerator<Buffer>): Promise<string> {
  const got: Buffer[] = [];
  for await (const piece of pieces) got.push(piece);
  const text = Buffer.concat(got).toString();
  if (text.includes("x")) throw new ClusterError("failed_precondition", "other digest");
  return text;
}

test("takeBlob() asks a source that lied alone nothing more", async () => {
  const fixture = new Fixture(["liar", "honest"], false);
  assert.equal(await fixture.take(), "y");
  assert.deepEqual(fixture.goes, ["liar", "honest"]);
  assert.deepEqual([...fixture.distrusted], ["liar"]);
  assert.equal(await fixture.take(), "y");
  assert.deepEqual(fixture.goes.slice(2), ["honest"], "nor for the next blob");
});

test("takeBlob() finds the liars among several, and blames no one for breaking off", async () => {
  const fixture = new Fixture(["honest", "liar", "liar2"], true);
  assert.equal(await fixture.take(), "y");
  assert.ok(!fixture.distrusted.has("honest"));
  const broken = new Fixture(["broken"], true, new Set(["broken"]));
  await assert.rejects(broken.take(), /broke off/);
  assert.equal(broken.distrusted.size, 0);
});

test("takeBlob() goes on with the others where the last suspect breaks off", async () => {
  const fixture = new Fixture(["liar", "broken", "honest"], true, new Set());
  let isFirst = true;
  const trust: BlobTrust = {
    ...fixture.trust,
    pieces: async function* (sources, onUse) {
      const used = sources();
      fixture.goes.push(used.map(({ name }) => name).join());
      // Together they give a wrong blob, and "broken" nothing when it is asked alone.
      if (used.length === 1 && used[0]?.name === "broken")
        throw new ClusterError("unavailable", "broken broke off");
      const taking = isFirst ? used.filter(({ name }) => name !== "honest") : used.slice(-1);
      isFirst = false;
      for (const each of taking) {
        onUse(each);
        yield await Promise.resolve(Buffer.from(LIARS.has(each.name) ? "x" : "y"));
      }
    },
  };
  const order = ["broken", "liar", "honest"];
  const sources = trust.sources().toSorted((a, b) => order.indexOf(a.name) - order.indexOf(b.name));
  assert.equal(await takeBlob({ ...trust, sources: () => sources }, textOf), "y");
  assert.deepEqual(fixture.goes, ["broken,liar,honest", "liar", "broken", "broken,honest"]);
});

test("takeBlob() leaves out what has a part only, instead of asking it alone", async () => {
  const fixture = new Fixture(["liar", "honest"], true);
  const [liar, honest] = fixture.trust.sources();
  assert.ok(liar && honest);
  const sources = [honest, { ...liar, isPartial: true }];
  assert.equal(await takeBlob({ ...fixture.trust, sources: () => sources }, textOf), "y");
  assert.deepEqual(fixture.goes, ["honest,liar", "honest"]);
});

test("takeBlob() gives up when all lie", async () => {
  const fixture = new Fixture(["liar", "liar2"], true);
  await assert.rejects(fixture.take(), /other digest/);
  assert.deepEqual([...fixture.distrusted].sort(), ["liar", "liar2"]);
});

test("takeBlob() blames nobody for a full disk", async () => {
  const fixture = new Fixture(["honest"], true);
  const take = takeBlob(fixture.trust, async (pieces) => {
    for await (const piece of pieces) assert.ok(piece);
    throw new ClusterError("resource_exhausted", "no space left");
  });
  await assert.rejects(take, /no space left/);
  assert.equal(fixture.distrusted.size, 0);
});
