/** The wait for the end of a rotation against an API that plays one. */
import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { createServer } from "node:http";
import { tmpdir } from "node:os";
import path from "node:path";
import { test } from "node:test";
import { ApiClient } from "../client/api-client.ts";
import type { ApiNode } from "../client/types.ts";
import { rotationLine, waitForRotation } from "./wait-rotation.ts";

function node(id: string, issuer: string, state = "ready"): ApiNode {
  return {
    ID: id,
    Description: { Hostname: `host-${id}`, TLSInfo: { CertIssuerPublicKey: issuer } },
    Status: { State: state },
  } as unknown as ApiNode;
}

test("rotationLine() names who has no new certificate, and what to do about one that is down", () => {
  const swarm = { TLSInfo: { CertIssuerPublicKey: "new" } };
  assert.equal(rotationLine(swarm, [node("a", "new")]), "1 of 1 nodes have new certificates");
  assert.equal(
    rotationLine(swarm, [node("a", "new"), node("b", "old")]),
    "1 of 2 nodes have new certificates, waiting for host-b (b)",
  );
  assert.equal(
    rotationLine(swarm, [node("a", "new"), node("b", "old", "down")]),
    "1 of 2 nodes have new certificates, waiting for host-b (b), which is down; one that does not come back: 'shoal node rm --force NODE'",
  );
  const many = ["a", "b", "c", "d", "e", "f", "g"].map((id) => node(id, "old"));
  assert.match(rotationLine(swarm, many), /^0 of 7 nodes .*host-e \(e\) and 2 more$/);
});

test("waitForRotation() tells each change once, sits out what passes, and ends with the rotation", async (t) => {
  const folder = mkdtempSync(path.join(tmpdir(), "shoal-rotation-"));
  const socket = path.join(folder, "api.sock");
  const rounds = [["old", "old"], ["old", "old"], undefined, ["new", "old"], []] as const;
  let round = -1;
  const server = createServer((request, response) => {
    if (request.url?.startsWith("/swarm") === true) round = Math.min(round + 1, rounds.length - 1);
    const issuers = rounds[round];
    if (issuers === undefined) {
      response.statusCode = 503;
      response.end(JSON.stringify({ message: "no leader" }));
    } else if (request.url?.startsWith("/nodes") === true) {
      response.end(JSON.stringify(issuers.map((issuer, index) => node(`n${index}`, issuer))));
    } else {
      const isOpen = issuers.length > 0;
      response.end(
        JSON.stringify({ RootRotationInProgress: isOpen, TLSInfo: { CertIssuerPublicKey: "new" } }),
      );
    }
  });
  t.after(() => {
    server.close();
    rmSync(folder, { recursive: true, force: true });
  });
  await new Promise<void>((resolve) => server.listen(socket, resolve));
  const lines: string[] = [];
  const out = { write: (text: string) => void lines.push(text), isTty: false, columns: 80 };
  const client = new ApiClient({ kind: "unix", path: socket, text: `unix://${socket}` });
  await waitForRotation({ client, out, signal: new AbortController().signal });
  assert.deepEqual(lines, [
    "0 of 2 nodes have new certificates, waiting for host-n0 (n0); host-n1 (n1)\n",
    "1 of 2 nodes have new certificates, waiting for host-n1 (n1)\n",
  ]);
});
