/** `docker update`: limits of a container, running or not, and its restart policy. */
import * as fs from "node:fs/promises";
import * as os from "node:os";
import path from "node:path";
import { ClusterError } from "../../common/errors.ts";
import type { HostConfig, JsonObject } from "../../model/engine.ts";
import type { Cgroups, CgroupWrite } from "./cgroups.ts";
import { checkRestartPolicy } from "./container-create.ts";
import { groupParent } from "./lifecycle.ts";
import type { LiveContainer } from "./live-container.ts";
import { updatedResources } from "./oci-bundle.ts";
import type { OciRuntimes } from "./oci-runtimes.ts";
import { resourceLimits, validateResources } from "./resource-limits.ts";

const NUMBERS = [
  "CpuShares",
  "Memory",
  "NanoCpus",
  "BlkioWeight",
  "CpuPeriod",
  "CpuQuota",
  "MemoryReservation",
  "MemorySwap",
  "PidsLimit",
] as const;
const TEXTS = ["CpusetCpus", "CpusetMems"] as const;

/** What was given, and not zero: the CLI sends every field. */
function givenChanges(config: JsonObject): Partial<HostConfig> {
  const changes: Record<string, unknown> = {};
  for (const key of NUMBERS) {
    const value = config[key];
    if (typeof value === "number" && value !== 0) changes[key] = value;
  }
  for (const key of TEXTS) {
    const value = config[key];
    if (typeof value === "string" && value !== "") changes[key] = value;
  }
  const policy = config["RestartPolicy"] as HostConfig["RestartPolicy"];
  if ((policy?.Name ?? "") !== "") changes["RestartPolicy"] = policy;
  return changes;
}

/** When both memory limits rise, the sum with swap must rise first. */
async function writeAll(writes: readonly CgroupWrite[]): Promise<void> {
  const failed: CgroupWrite[] = [];
  for (const write of writes) {
    await fs.writeFile(write.file, write.value).catch(() => failed.push(write));
  }
  for (const write of failed) {
    try {
      await fs.writeFile(write.file, write.value);
    } catch (caught) {
      if (write.isOptional) continue;
      const words = caught instanceof Error ? caught.message : String(caught);
      throw new ClusterError(
        "internal",
        `Cannot update container: write "${write.value}" to ${write.file}: ${words}`,
        { cause: caught },
      );
    }
  }
}

/** With the container's line held. */
export async function updateContainer(
  live: LiveContainer,
  config: JsonObject,
  deps: { readonly cgroups: Cgroups; readonly runtimes: OciRuntimes; readonly execRoot: string },
): Promise<void> {
  const { record } = live;
  const { cgroups, runtimes } = deps;
  if (live.isRemoving) {
    throw new ClusterError(
      "conflict",
      `Cannot update container ${live.id}: container is marked for removal and cannot be "update"`,
    );
  }
  const changes = givenChanges(config);
  if (
    changes.RestartPolicy !== undefined &&
    record.hostConfig.AutoRemove === true &&
    changes.RestartPolicy.Name !== "no"
  ) {
    throw new ClusterError(
      "invalid_argument",
      "Restart policy cannot be updated because AutoRemove is enabled for the container",
    );
  }
  const hostConfig: HostConfig = { ...record.hostConfig, ...changes };
  checkRestartPolicy(hostConfig);
  if (changes.Memory !== undefined && changes.MemorySwap === undefined) {
    const swap = record.hostConfig.MemorySwap ?? 0;
    if (swap > 0 && changes.Memory > swap) {
      throw new ClusterError(
        "invalid_argument",
        `Cannot update container ${live.id}: Memory limit should be smaller than already set memoryswap limit, update the memoryswap at the same time`,
      );
    }
  }
  validateResources(hostConfig, () => os.cpus().length);
  const runtime = runtimes.find(record.hostConfig.Runtime);
  if (live.isRunning && runtime !== undefined) {
    const file = path.join(deps.execRoot, "c", live.id, "resources.json");
    await fs.writeFile(file, JSON.stringify(updatedResources(resourceLimits(hostConfig))), { mode: 0o600 });
    await runtimes.call(runtime, "update", "--resources", file, live.id);
  } else if (live.isRunning) {
    const limits = resourceLimits(hostConfig);
    const { parent } = groupParent(record);
    if (limits.cpusetCpus !== undefined || limits.cpusetMems !== undefined)
      await cgroups.enterCpuset(live.id, limits, parent);
    await writeAll(cgroups.limitWrites(live.id, limits, parent));
  }
  live.change({ hostConfig });
}
