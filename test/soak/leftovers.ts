/**
 * What a daemon has on the machine: processes, mounts, cgroups, namespaces, links, packet rules, files. Two lists are
 * compared.
 */
import { createHash } from "node:crypto";
import { existsSync, readFileSync, readdirSync, readlinkSync } from "node:fs";
import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { hierarchies } from "../../dev/cgroups.ts";
import type { SoakDaemon } from "./soak-daemon.ts";

const POLL_MS = 250;
const SNAPSHOT_PAUSE_MS = 1000;
/** Clean-up that nobody waits for: trees in the trash, logs, the launcher's own end. */
const SETTLE_TIMEOUT_MS = 120_000;

function read(file: string): string {
  try {
    return readFileSync(file, "utf8");
  } catch {
    return "";
  }
}

function link(file: string): string {
  try {
    return readlinkSync(file);
  } catch {
    return "";
  }
}

/** Every file and folder below; what goes away while we look is not there. */
function tree(folder: string): readonly string[] {
  try {
    return readdirSync(folder, { recursive: true, encoding: "utf8" }).map((name) => path.join(folder, name));
  } catch {
    // Something went away meanwhile.
    return existsSync(folder) ? tree(folder) : [];
  }
}

/** Processes whose command line names the exec root (launcher, monitors) or that are in a cgroup of its containers. */
function processes(daemon: SoakDaemon, parent: string): readonly string[] {
  return readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name))
    .flatMap((pid) => {
      const command = read(`/proc/${pid}/cmdline`).replaceAll("\0", " ").trim();
      const group = read(`/proc/${pid}/cgroup`);
      const isOurs = command.includes(`launcher ${daemon.execRoot}`) || group.includes(`/${parent}/`);
      if (!isOurs) return [];
      const name = read(`/proc/${pid}/comm`).trim();
      return name === "shoal-launcher"
        ? []
        : [`process ${name} (${pid}): ${command} ${link(`/proc/${pid}/ns/net`)}`];
    });
}

function cgroups(parent: string): readonly string[] {
  return hierarchies().flatMap(({ mountpoint }) => {
    const folder = path.join(mountpoint, parent);
    return tree(folder)
      .filter((name) => existsSync(path.join(name, "cgroup.procs")))
      .map((name) => `cgroup ${name}`);
  });
}

/** The parent group of the engine's containers, by its exec root. */
function parentOf(daemon: SoakDaemon): string {
  return `shoal-${createHash("sha256").update(daemon.execRoot).digest("hex").slice(0, 12)}`;
}

function look(daemon: SoakDaemon): readonly string[] {
  const root = path.dirname(daemon.execRoot);
  const mounts = read("/proc/self/mountinfo")
    .split("\n")
    .filter((line) => line.includes(root))
    .map((line) => `mount ${line.split(" ")[4] ?? ""}`);
  const links = daemon
    .inside("ip", "-o", "link")
    .split("\n")
    .map((line) => `link ${/^\d+: ([^:@]+)/.exec(line)?.[1] ?? ""}`);
  // Counters and handles differ from one look to the next, a name server's port from one daemon to the next.
  const rules = daemon
    .inside("nft", "list", "ruleset")
    .split("\n")
    .map(
      (line) =>
        `rule ${line
          .trim()
          .replaceAll(/counter packets \d+ bytes \d+/g, "counter")
          .replaceAll(/( \. 53 : [\d.]+ \. )\d+/g, "$1PORT")}`,
    );
  const files = [...tree(daemon.dataRoot), ...tree(daemon.execRoot)].map((file) => `file ${file}`);
  const parent = parentOf(daemon);
  return [...processes(daemon, parent), ...mounts, ...cgroups(parent), ...links, ...rules, ...files];
}

/**
 * Taken once two looks in a row are the same: what the first containers left for a moment is not what the daemon keeps, and
 * what it makes for the next ones may come a little later.
 */
export async function snapshot(daemon: SoakDaemon): Promise<ReadonlySet<string>> {
  for (let before = look(daemon); ;) {
    await sleep(SNAPSHOT_PAUSE_MS);
    const now = look(daemon);
    if (now.join("\n") === before.join("\n")) return new Set(now);
    before = now;
  }
}

/** What is there now and was not before; waits for clean-up that is under way. */
export async function leftovers(daemon: SoakDaemon, before: ReadonlySet<string>): Promise<readonly string[]> {
  const deadline = performance.now() + SETTLE_TIMEOUT_MS;
  for (;;) {
    const left = look(daemon).filter((thing) => !before.has(thing));
    if (left.length === 0 || performance.now() > deadline) return left;
    await sleep(POLL_MS);
  }
}
