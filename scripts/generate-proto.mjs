// Makes proto/gen/shoal.js and .d.ts from proto/*.proto, and buildkit.js and .d.ts from proto/buildkit/*.proto: a module of
// its own, which only those load who speak to clients of BuildKit. The result is committed; `npm run check` fails when it is stale.
import { execFileSync } from "node:child_process";
import { readdirSync, mkdirSync } from "node:fs";
import path from "node:path";
import { fileURLToPath } from "node:url";

const root = path.dirname(path.dirname(fileURLToPath(import.meta.url)));
const out = path.join(root, process.argv[2] ?? "proto/gen");
mkdirSync(out, { recursive: true });
const bin = path.join(root, "node_modules/protobufjs-cli/bin/pbjs");
const flags =
  "-t static-module -w esm --dependency protobufjs/minimal.js --force-number --no-verify --no-delimited --no-typeurl --no-service";

/** All .proto files of a folder as one module. */
function generate(folder, name) {
  const files = readdirSync(folder)
    .filter((file) => file.endsWith(".proto"))
    .sort()
    .map((file) => path.join(folder, file));
  const target = ["-r", name, "-d", "-o", path.join(out, `${name}.js`)];
  execFileSync(process.execPath, [bin, ...flags.split(" "), ...target, ...files], {
    stdio: ["ignore", "ignore", "inherit"],
  });
}

generate(path.join(root, "proto"), "shoal");
generate(path.join(root, "proto/buildkit"), "buildkit");
