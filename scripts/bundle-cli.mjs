/**
 * Bundles the CLI into dist/cli-commands: main.cjs chooses, one file for each command, and one for each other part that is
 * loaded on demand. dist/cli.cjs (scripts/cli-loader.cjs) runs them. Then warms the code caches: common commands are run
 * against a stand-in that answers like an empty daemon, so that V8's cache holds the functions a start needs. The daemon stays outside:
 * it is ESM with native parts and is loaded from dist/daemon/main.js by `shoal daemon` alone.
 */
import { execFile } from "node:child_process";
import { copyFileSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { createServer } from "node:http";
import { tmpdir } from "node:os";
import path from "node:path";
import { promisify } from "node:util";
import { build } from "esbuild";

const root = path.dirname(import.meta.dirname);
const output = path.join(root, "dist", "cli-commands");
const entry = path.join(root, "dist", "cli.cjs");

/**
 * Makes `import("./x.ts")` a call of the loader for that file's own bundle, and queues it to be made. Scripts with a code
 * cache can't import on their own: Node's modules are required, and other files (the daemon) imported by the loader.
 */
function separateBundles(found) {
  return {
    name: "separate-bundles",
    setup(builder) {
      builder.onLoad({ filter: /\/cli\/.*\.ts$/ }, (args) => ({
        loader: "ts",
        contents: readFileSync(args.path, "utf8")
          .replaceAll(/\bimport\("(\.[^"]*)\.ts"\)/g, (_, name) => {
            found.add(path.resolve(path.dirname(args.path), `${name}.ts`));
            return `loadBundle("${path.basename(name)}.cjs")`;
          })
          .replaceAll(/\bawait import\(("node:[^"]*")\)/g, "require($1)")
          .replaceAll(/\bawait import\((?!")/g, "await importFile("),
      }));
    },
  };
}

async function bundleAll() {
  rmSync(output, { recursive: true, force: true });
  const pending = new Set([path.join(root, "cli", "main.ts")]);
  for (const file of pending) {
    await build({
      bundle: true,
      platform: "node",
      format: "cjs",
      target: "node20",
      minify: true,
      legalComments: "none",
      logLevel: "warning",
      define: {
        "import.meta.filename": "__filename",
        "import.meta.dirname": "__dirname",
        SHOAL_BUNDLE: "true",
      },
      entryPoints: [file],
      outdir: output,
      outExtension: { ".js": ".cjs" },
      plugins: [separateBundles(pending)],
    });
  }
  copyFileSync(path.join(import.meta.dirname, "cli-loader.cjs"), entry);
}

/** A daemon with nothing in it but one of each kind, so that lists are formatted. */
const ID = "a".repeat(25);
const SPEC = {
  Name: "a",
  Labels: {},
  Mode: { Replicated: { Replicas: 1 } },
  TaskTemplate: { ContainerSpec: { Image: "a:1" } },
};
const NODE = {
  ID,
  Spec: { Role: "manager", Availability: "active" },
  Description: { Hostname: "a", Engine: { EngineVersion: "1" } },
  Status: { State: "ready" },
  ManagerStatus: { Leader: true, Reachability: "reachable" },
};
const SERVICE = {
  ID,
  Version: { Index: 1 },
  Spec: SPEC,
  Endpoint: { Ports: [] },
  ServiceStatus: { RunningTasks: 1, DesiredTasks: 1 },
};
const TASK = {
  ID,
  ServiceID: ID,
  NodeID: ID,
  Slot: 1,
  Spec: SPEC.TaskTemplate,
  DesiredState: "running",
  Status: { State: "running", Timestamp: "2026-01-01T00:00:00Z" },
};
const CONTAINER = {
  Id: ID,
  Names: ["/a"],
  Image: "a",
  ImageID: ID,
  Command: "a",
  Created: 1,
  State: "running",
  Status: "Up",
  Ports: [],
  Labels: {},
  Mounts: [],
};
const IMAGE = { Id: `sha256:${ID}`, RepoTags: ["a:1"], Created: 1, Size: 1, Labels: null };
const NETWORK = {
  Id: ID,
  Name: "a",
  Driver: "bridge",
  Scope: "local",
  Labels: {},
  IPAM: {},
  Created: "2026-01-01T00:00:00Z",
};
const ANSWERS = {
  "/services": [SERVICE],
  "/tasks": [TASK],
  "/nodes": [NODE],
  "/containers/json": [CONTAINER],
  "/images/json": [IMAGE],
  "/networks": [NETWORK],
  "/volumes": { Volumes: [{ Name: "a", Driver: "local", Labels: null }], Warnings: null },
  "/secrets": [],
  "/configs": [],
  "/info": { Swarm: { NodeID: ID } },
};
const COMMANDS = [
  "service ls",
  "service ps a",
  "service inspect a",
  "stack ls",
  "stack ps a",
  "stack services a",
  "node ls",
  "node ps",
  "secret ls",
  "config ls",
  "network ls",
  "network inspect a",
  "volume ls",
  "ps",
  "ps -a",
  "images",
  "image ls",
  "info",
  "version",
  "inspect a",
  "context ls",
  "service --help",
  "swarm --help",
  "daemon --help",
  "dev --help",
  "build --help",
  "--help",
  "--version",
];

/** Runs the commands, one after the other, each adding its functions to the caches. */
async function warmCaches() {
  const folder = mkdtempSync(path.join(tmpdir(), "shoal-build-"));
  const socket = path.join(folder, "s");
  const server = createServer((request, response) => {
    const name = new URL(request.url ?? "/", "http://localhost").pathname;
    const answer = ANSWERS[name] ?? ANSWERS[`/${name.split("/")[1]}`]?.[0] ?? {};
    response.setHeader("Content-Type", "application/json");
    response.end(JSON.stringify(answer));
  });
  await new Promise((resolve) => void server.listen(socket, resolve));
  const env = {
    ...process.env,
    SHOAL_WRITE_CODE_CACHE: "1",
    SHOAL_CONFIG: folder,
    DOCKER_HOST: `unix://${socket}`,
    SHOAL_HOST: "",
    SHOAL_CONTEXT: "",
  };
  for (const command of COMMANDS) {
    try {
      await promisify(execFile)(process.execPath, ["--no-rehash-snapshot", entry, ...command.split(" ")], {
        env,
      });
    } catch (caught) {
      throw new Error(`Cannot warm the code cache: "shoal ${command}" failed: ${caught.stderr}`, {
        cause: caught,
      });
    }
  }
  server.close();
  rmSync(folder, { recursive: true });
}

await bundleAll();
await warmCaches();
