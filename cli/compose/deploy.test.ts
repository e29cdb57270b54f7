/** Deploys and plans against an API that plays a cluster which has a config and a secret already. */
import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { createServer, type Server } from "node:http";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, before, beforeEach, test } from "node:test";
import { ApiClient } from "../client/api-client.ts";
import { type DeployOptions, deployStack, planStack } from "./deploy.ts";
import { loadStack } from "./load.ts";
import type { ComposeStack } from "./types.ts";

const folder = mkdtempSync(path.join(tmpdir(), "shoal-deploy-"));
const socket = path.join(folder, "api.sock");
const base64 = (text: string): string => Buffer.from(text).toString("base64");
const writes: string[] = [];
let server: Server;

before(async () => {
  const stored = { ID: "o1", Version: { Index: 7 } };
  const answers: Readonly<Record<string, unknown>> = {
    "/info": { Swarm: { ControlAvailable: true } },
    "/services": [],
    "/networks": [],
    "/configs": [],
    "/secrets": [],
    "/configs/web_page": { ...stored, Spec: { Name: "web_page", Data: base64("one") } },
    "/secrets/web_key": { ...stored, Spec: { Name: "web_key" } },
  };
  server = createServer((request, response) => {
    const url = request.url?.split("?")[0] ?? "";
    if (request.method !== "GET") writes.push(url);
    if (url.startsWith("/secrets/") && request.method === "POST") {
      response.statusCode = 400;
      response.end(JSON.stringify({ message: "only updates to Labels are allowed" }));
      return;
    }
    const answer = answers[url];
    if (answer === undefined && request.method === "GET") response.statusCode = 404;
    response.end(JSON.stringify(answer ?? { Id: "n1", message: "not found" }));
  });
  await new Promise<void>((resolve) => server.listen(socket, resolve));
});

beforeEach(() => void writes.splice(0));

after(() => {
  server.close();
  rmSync(folder, { recursive: true, force: true });
});

function options(): DeployOptions {
  const silent = { write: () => {}, isTty: false, columns: 80 };
  const client = new ApiClient({ kind: "unix", path: socket, text: `unix://${socket}` });
  const rest = { prune: false, resolveImage: "never", withRegistryAuth: false } as const;
  return { client, env: {}, out: silent, err: silent, ...rest };
}

function stack(section: string): ComposeStack {
  const stdin = `services: {web: {image: x}}\n${section}\n`;
  return loadStack({ files: ["-"], stdin, env: {}, cwd: folder }).stack;
}

test("planStack() and deployStack() refuse other data for a config before anything is changed, and say what to do", async () => {
  const changed = stack("configs: {page: {content: two}}");
  const wanted = /^configs\.page: config "web_page" exists, .* another name \("name: web_page_2", say\)/;
  await assert.rejects(planStack("web", changed, options()), { message: wanted });
  await assert.rejects(deployStack("web", changed, options()), { message: wanted });
  assert.deepEqual(writes, []);
  const same = await planStack("web", stack("configs: {page: {content: one}}"), options());
  assert.equal(same.find(({ kind }) => kind === "config")?.action, "keep");
});

test("deployStack() names the secret that the cluster refuses to change", async () => {
  await assert.rejects(deployStack("web", stack("secrets: {key: {content: new}}"), options()), {
    message: /^secrets\.key: secret "web_key" exists, and what it holds cannot change/,
  });
});
