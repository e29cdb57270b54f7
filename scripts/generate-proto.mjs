// Makes proto/gen/shoal.js and .d.ts from proto/*.proto. The result is committed; `npm run check` fails when it is stale.
import { execFileSync } from "node:child_process";
import { readdirSync, mkdirSync } from "node:fs";
import path from "node:path";
import { fileURLToPath } from "node:url";

const root = path.dirname(path.dirname(fileURLToPath(import.meta.url)));
const out = path.join(root, process.argv[2] ?? "proto/gen");
mkdirSync(out, { recursive: true });
const bin = path.join(root, "node_modules/protobufjs-cli/bin/pbjs");
const files = readdirSync(path.join(root, "proto"))
  .filter((name) => name.endsWith(".proto"))
  .sort()
  .map((name) => path.join(root, "proto", name));
const flags =
  "-t static-module -w esm -r shoal --dependency protobufjs/minimal.js --force-number --no-verify --no-delimited --no-typeurl --no-service";
execFileSync(process.execPath, [bin, ...flags.split(" "), "-d", "-o", path.join(out, "shoal.js"), ...files], {
  stdio: ["ignore", "ignore", "inherit"],
});
