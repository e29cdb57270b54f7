/** deploy/install.sh with a tree of stand-ins and an npm that notes what it is asked for, in a mount namespace of its own. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import {
  chmodSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { afterEach, beforeEach, describe, test } from "node:test";
import { packageRoot } from "../../common/package-root.ts";

const hasSystemd = existsSync("/run/systemd/system");
const NPM = `#!/bin/sh
echo "$*" >>"$CALLS"
case $1 in
  ci) touch node_modules/.package-lock.json ;;
  run) [ ! -e fails ] || exit 1; cp source dist/daemon/main.js ;;
esac
`;
const skip = hasSystemd ? "would restart this machine's daemon" : false;

describe("deploy/install.sh", { skip }, () => {
  let root: string;
  let tree: string;
  let prefix: string;

  beforeEach(() => {
    root = mkdtempSync(path.join(tmpdir(), "shoal-install-"));
    tree = path.join(root, "tree");
    prefix = path.join(root, "opt/shoal");
    const folders = ["bin", "dist/daemon", "deploy", "examples", "runtime/native/build", "api/dashboard"];
    for (const folder of [...folders, "node_modules"])
      mkdirSync(path.join(tree, folder), { recursive: true });
    for (const folder of ["opt", "bin", "tools"]) mkdirSync(path.join(root, folder));
    copyFileSync(path.join(packageRoot(import.meta.dirname), "deploy/install.sh"), file("deploy/install.sh"));
    write("deploy/install-deps.sh", "");
    for (const name of ["package.json", "bin/shoal", "bin/shoal-oci", "runtime/native/build/shoal-runtime"])
      write(name, "");
    chmodSync(file("runtime/native/build/shoal-runtime"), 0o755);
    write("dist/daemon/main.js", "built from 1");
    write("source", "built from 1");
    for (const [name, text] of [
      ["npm", NPM],
      ["getent", "#!/bin/sh\n"],
    ] as const) {
      writeFileSync(path.join(root, "tools", name), text, { mode: 0o755 });
    }
  });

  afterEach(() => rmSync(root, { recursive: true, force: true }));

  function file(name: string): string {
    return path.join(tree, name);
  }

  function write(name: string, text: string, ageS = 0): void {
    writeFileSync(file(name), text);
    const at = new Date(Date.now() - ageS * 1_000);
    utimesSync(file(name), at, at);
  }

  /** Installs, and returns what npm was asked for apart from the pruning, and how it ended. */
  function install(): { readonly calls: readonly string[]; readonly status: number | null } {
    const calls = path.join(root, "calls");
    writeFileSync(calls, "");
    const script = `mount --bind '${path.join(root, "bin")}' /usr/local/bin && exec bash '${file("deploy/install.sh")}' --prefix '${prefix}'`;
    const { status } = spawnSync("unshare", ["--mount", "--propagation", "private", "sh", "-c", script], {
      env: { ...process.env, PATH: `${path.join(root, "tools")}:${process.env["PATH"]}`, CALLS: calls },
    });
    const lines = readFileSync(calls, "utf8").split("\n").slice(0, -1);
    return {
      calls: lines.map((line) => line.split(" ")[0] ?? "").filter((verb) => verb !== "prune"),
      status,
    };
  }

  const installed = (): string => readFileSync(path.join(prefix, "dist/daemon/main.js"), "utf8");

  test("builds a checkout that was brought to another version since it was built", () => {
    write("package-lock.json", "", 100);
    write("node_modules/.package-lock.json", "", 50);
    write("source", "built from 2");
    assert.deepEqual(install(), { calls: ["run"], status: 0 });
    assert.equal(installed(), "built from 2");
  });

  test("renews the modules of a checkout whose lock file is younger than they are", () => {
    write("package-lock.json", "", 50);
    write("node_modules/.package-lock.json", "", 100);
    assert.deepEqual(install(), { calls: ["ci", "run"], status: 0 });
  });

  test("takes a package, which has no lock file, as it came", () => {
    assert.deepEqual(install(), { calls: [], status: 0 });
    assert.equal(installed(), "built from 1");
  });

  test("leaves what is installed, and nothing beside it, when it fails", () => {
    install();
    write("package-lock.json", "", 100);
    write("node_modules/.package-lock.json", "", 50);
    write("fails", "");
    assert.notEqual(install().status, 0);
    rmSync(file("fails"));
    rmSync(file("examples"), { recursive: true });
    assert.notEqual(install().status, 0);
    assert.deepEqual(readdirSync(path.dirname(prefix)), ["shoal"]);
    assert.equal(installed(), "built from 1");
  });
});
