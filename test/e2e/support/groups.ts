/** Which control groups of a container a process of the host's view is in. */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";

/** Of v1; a machine without it has the v2 tree alone. */
const CONTROLLERS = ["memory", "cpu", "cpuacct", "pids", "devices", "blkio"];

/** Fails unless process `pid` is in the container's group of every hierarchy that limits, measures or kills it. */
export function assertInGroups(pid: number, containerId: string): void {
  const lines = readFileSync(`/proc/${pid}/cgroup`, "utf8").trim().split("\n");
  const wanted = lines.filter((line) => {
    const [number, names = ""] = line.split(":");
    return number === "0" || names.split(",").some((name) => CONTROLLERS.includes(name));
  });
  assert.ok(wanted.length > 0, `groups of ${pid}`);
  for (const line of wanted) assert.ok(line.endsWith(`/${containerId}`), `process ${pid} is in ${line}`);
}
