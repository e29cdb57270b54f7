import assert from "node:assert/strict";
import { test } from "node:test";
import { SeededRandom } from "../../common/testing/seeded-random.ts";
import { certificateLife, checkRoot, createRoot, crossSign } from "./certificates.ts";

const random = new SeededRandom(1);
const nowMs = Date.now();

test("checkRoot() takes a root with its key, and nothing that TLS would not take for one", async () => {
  const root = await createRoot({ random, nowMs });
  const other = await createRoot({ random, nowMs });
  assert.equal(checkRoot(root, nowMs).certificate, root.certificate);
  const { fromMs, untilMs } = certificateLife(root.certificate);
  const issued = await crossSign({ next: root.certificate, former: other }, { random, nowMs });
  for (const [given, atMs, text] of [
    [{ ...root, key: other.key }, nowMs, /the key is another's/],
    [{ ...root, certificate: issued }, nowMs, /it is signed by another/],
    [root, untilMs, /it is valid from .* until/],
    [root, fromMs - 1, /it is valid from .* until/],
    [{ ...root, certificate: "no certificate" }, nowMs, /it cannot be read/],
  ] as const)
    assert.throws(() => checkRoot(given, atMs), text);
});
