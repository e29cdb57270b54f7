/**
 * The cgroups of dev hosts: one folder per host in every hierarchy (v1, v2 or both), which the host sees as its root. So
 * whatever a host's runtime makes lies below it and can be removed as a whole.
 */
import { existsSync, mkdirSync, readdirSync, readFileSync, rmdirSync, writeFileSync } from "node:fs";
import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";

export interface Hierarchy {
  readonly mountpoint: string;
  readonly isUnified: boolean;
}

const ROOT = "shoal-dev";
const REMOVE_TRIES = 1_000;
const REMOVE_PAUSE_MS = 20;

export function hierarchies(): Hierarchy[] {
  return readFileSync("/proc/self/mounts", "utf8")
    .split("\n")
    .map((line) => line.split(" "))
    .filter(
      ([, mountpoint = "", type]) =>
        (type === "cgroup" || type === "cgroup2") && mountpoint.startsWith("/sys/fs/cgroup"),
    )
    .map(([, mountpoint = "", type]) => ({ mountpoint, isUnified: type === "cgroup2" }));
}

function tryWrite(file: string, text: string): void {
  try {
    writeFileSync(file, text);
  } catch {
    // Controllers that are missing or busy are the kernel's choice; the host's runtime says so where it matters.
  }
}

/** v1 cpuset groups start empty and refuse processes until filled from their parent. */
function fillCpuset(folder: string): void {
  for (const name of ["cpuset.cpus", "cpuset.mems"]) {
    const file = path.join(folder, name);
    if (!existsSync(file) || readFileSync(file, "utf8").trim() !== "") continue;
    tryWrite(file, readFileSync(path.join(path.dirname(folder), name), "utf8").trim());
  }
}

function delegate(folder: string): void {
  const offered = path.join(folder, "cgroup.controllers");
  if (!existsSync(offered)) return;
  for (const controller of readFileSync(offered, "utf8").trim().split(/\s+/)) {
    if (controller !== "") tryWrite(path.join(folder, "cgroup.subtree_control"), `+${controller}`);
  }
}

/** Makes HOST and HOST/init in every hierarchy; the folders of HOST. */
export function makeHostCgroups(cluster: string, host: string): string[] {
  return hierarchies().map(({ mountpoint, isUnified }) => {
    let folder = mountpoint;
    for (const part of [ROOT, cluster, host, "init"]) {
      if (isUnified && part !== "init") delegate(folder);
      folder = path.join(folder, part);
      mkdirSync(folder, { recursive: true });
      if (!isUnified) fillCpuset(folder);
    }
    return path.dirname(folder);
  });
}

/** Moves what is left directly in the host's folders into HOST/init: v2 wants inner groups without processes. */
export function settle(folders: readonly string[]): void {
  for (const folder of folders) {
    for (const pid of readFileSync(path.join(folder, "cgroup.procs"), "utf8").split("\n")) {
      if (pid !== "") tryWrite(path.join(folder, "init", "cgroup.procs"), pid);
    }
  }
}

function removeTree(folder: string): void {
  for (const entry of readdirSync(folder, { withFileTypes: true })) {
    if (entry.isDirectory()) removeTree(path.join(folder, entry.name));
  }
  rmdirSync(folder);
}

async function removeFolder(folder: string): Promise<void> {
  for (let attempt = 1; existsSync(folder); attempt += 1) {
    try {
      removeTree(folder);
    } catch (caught) {
      // A group stays busy until the kernel has reaped its last process.
      if (attempt >= REMOVE_TRIES) throw caught;
      await sleep(REMOVE_PAUSE_MS);
    }
  }
}

/** Removes the groups of one host, or of the whole cluster. Their processes must be dead. */
export async function removeCgroups(cluster: string, host?: string): Promise<void> {
  for (const { mountpoint } of hierarchies()) {
    await removeFolder(path.join(mountpoint, ROOT, cluster, ...(host === undefined ? [] : [host])));
    if (host !== undefined) continue;
    try {
      rmdirSync(path.join(mountpoint, ROOT));
    } catch {
      // Another dev cluster is there still, or none ever was.
    }
  }
}
