/**
 * Docker's resource options as limits of a cgroup, with Docker's words when they make no sense. Pure but for device
 * numbers.
 */
import { statSync } from "node:fs";
import { ClusterError } from "../../common/errors.ts";
import type { HostConfig } from "../../model/engine.ts";
import type { ResourceLimits } from "./cgroups.ts";

const MEMORY_BYTES_MIN = 6 * 1024 * 1024;
const CPU_PERIOD_US = 100_000;
const NANO_CPUS_PER_CPU = 1_000_000_000;

type Resources = Pick<
  HostConfig,
  | "Memory"
  | "MemorySwap"
  | "MemoryReservation"
  | "MemorySwappiness"
  | "OomKillDisable"
  | "NanoCpus"
  | "CpuShares"
  | "CpuPeriod"
  | "CpuQuota"
  | "CpusetCpus"
  | "CpusetMems"
  | "PidsLimit"
  | "BlkioWeight"
  | "BlkioWeightDevice"
  | "BlkioDeviceReadBps"
  | "BlkioDeviceWriteBps"
  | "BlkioDeviceReadIOps"
  | "BlkioDeviceWriteIOps"
>;

function refuse(text: string): never {
  throw new ClusterError("invalid_argument", text);
}

function validateMemory(config: Resources): void {
  const memory = config.Memory ?? 0;
  const swap = config.MemorySwap ?? 0;
  const reservation = config.MemoryReservation ?? 0;
  if (memory < 0) refuse(`Invalid value: Memory must not be negative, got ${memory}`);
  if (memory > 0 && memory < MEMORY_BYTES_MIN) refuse("Minimum memory limit allowed is 6MB");
  if (memory > 0 && swap > 0 && swap < memory) {
    refuse("Minimum memoryswap limit should be larger than memory limit, see usage");
  }
  if (memory === 0 && swap > 0) {
    refuse("You should always set the Memory limit when using Memoryswap limit, see usage");
  }
  if (reservation > 0 && reservation < MEMORY_BYTES_MIN) refuse("Minimum memory reservation allowed is 6MB");
  if (memory > 0 && reservation > 0 && memory < reservation) {
    refuse("Minimum memory limit can not be less than memory reservation limit, see usage");
  }
  const swappiness = config.MemorySwappiness ?? -1;
  if (swappiness < -1 || swappiness > 100) {
    refuse(`Invalid value: ${swappiness}, valid memory swappiness range is 0-100`);
  }
}

function validateCpu(config: Resources, countCpus: () => number): void {
  const nano = config.NanoCpus ?? 0;
  if (nano > 0 && (config.CpuPeriod ?? 0) > 0) {
    refuse("Conflicting options: Nano CPUs and CPU Period cannot both be set");
  }
  if (nano > 0 && (config.CpuQuota ?? 0) > 0) {
    refuse("Conflicting options: Nano CPUs and CPU Quota cannot both be set");
  }
  if (nano < 0 || (nano > 0 && nano > countCpus() * NANO_CPUS_PER_CPU)) {
    const count = countCpus();
    refuse(`range of CPUs is from 0.01 to ${count}.00, as there are only ${count} CPUs available`);
  }
  const period = config.CpuPeriod ?? 0;
  if (period !== 0 && (period < 1000 || period > 1_000_000)) {
    refuse("CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)");
  }
  if ((config.CpuQuota ?? 0) > 0 && (config.CpuQuota ?? 0) < 1000) {
    refuse("CPU cfs quota can not be less than 1ms (i.e. 1000)");
  }
  for (const [field, value] of [
    ["cpuset.cpus", config.CpusetCpus ?? ""],
    ["cpuset.mems", config.CpusetMems ?? ""],
  ] as const) {
    if (!/^$|^\d+(-\d+)?(,\d+(-\d+)?)*$/.test(value)) refuse(`Invalid value ${value} for ${field}`);
    const highest = Math.max(-1, ...(value.match(/\d+/g) ?? []).map(Number));
    if (field === "cpuset.cpus" && highest >= 0 && highest >= countCpus()) {
      refuse(`Requested CPUs are not available - requested ${value}, available: 0-${countCpus() - 1}`);
    }
  }
}

/**
 * Throws as `docker create` would. `countCpus`: of the machine; asked only where it matters, since the kernel takes its
 * time.
 */
export function validateResources(config: Resources, countCpus: () => number): void {
  validateMemory(config);
  validateCpu(config, countCpus);
  const weight = config.BlkioWeight ?? 0;
  if (weight !== 0 && (weight < 10 || weight > 1000)) {
    refuse("Range of blkio weight is from 10 to 1000");
  }
}

/** Glibc's split of a device number. */
export function deviceNumber(rdev: number): { readonly major: number; readonly minor: number } {
  const big = BigInt(rdev);
  const major = ((big >> 8n) & 0xfffn) | ((big >> 32n) & ~0xfffn);
  const minor = (big & 0xffn) | ((big >> 12n) & ~0xffn & 0xffffffffn);
  return { major: Number(major), minor: Number(minor) };
}

function throttleLines(
  list: readonly { readonly Path: string; readonly Rate: number }[] | null | undefined,
): string[] {
  return (list ?? []).map(({ Path, Rate }) => `${deviceOf(Path)} ${Rate}`);
}

function deviceOf(path: string): string {
  const stat = statSync(path, { throwIfNoEntry: false });
  if (stat === undefined || (!stat.isBlockDevice() && !stat.isCharacterDevice())) {
    refuse(`Invalid block device "${path}": not a device of this machine`);
  }
  const { major, minor } = deviceNumber(stat.rdev);
  return `${major}:${minor}`;
}

function cpuLimits(config: Resources): ResourceLimits {
  const nano = config.NanoCpus ?? 0;
  if (nano > 0) {
    return { cpuPeriod: CPU_PERIOD_US, cpuQuota: Math.floor((nano * CPU_PERIOD_US) / NANO_CPUS_PER_CPU) };
  }
  const period = config.CpuPeriod ?? 0;
  const quota = config.CpuQuota ?? 0;
  return { ...(period === 0 ? {} : { cpuPeriod: period }), ...(quota === 0 ? {} : { cpuQuota: quota }) };
}

export function resourceLimits(config: Resources): ResourceLimits {
  const memory = config.Memory ?? 0;
  const swap = config.MemorySwap ?? 0;
  // As Docker: silent about swap means as much swap as memory.
  const memorySwap = memory > 0 ? (swap === 0 ? memory * 2 : swap) : swap;
  const pids = config.PidsLimit ?? 0;
  const throttle = {
    readBps: throttleLines(config.BlkioDeviceReadBps),
    writeBps: throttleLines(config.BlkioDeviceWriteBps),
    readIops: throttleLines(config.BlkioDeviceReadIOps),
    writeIops: throttleLines(config.BlkioDeviceWriteIOps),
  };
  const weights = (config.BlkioWeightDevice ?? []).map(({ Path, Weight }) => `${deviceOf(Path)} ${Weight}`);
  const swappiness = config.MemorySwappiness ?? -1;
  return {
    ...cpuLimits(config),
    ...(memory === 0 ? {} : { memory }),
    ...(memorySwap === 0 ? {} : { memorySwap }),
    ...((config.MemoryReservation ?? 0) === 0 ? {} : { memoryReservation: config.MemoryReservation ?? 0 }),
    ...(swappiness < 0 ? {} : { memorySwappiness: swappiness }),
    ...(config.OomKillDisable === true ? { isOomKillDisabled: true } : {}),
    ...((config.CpuShares ?? 0) === 0 ? {} : { cpuShares: config.CpuShares ?? 0 }),
    ...((config.CpusetCpus ?? "") === "" ? {} : { cpusetCpus: config.CpusetCpus ?? "" }),
    ...((config.CpusetMems ?? "") === "" ? {} : { cpusetMems: config.CpusetMems ?? "" }),
    ...(pids === 0 ? {} : { pidsLimit: pids }),
    ...((config.BlkioWeight ?? 0) === 0 ? {} : { blkioWeight: config.BlkioWeight ?? 0 }),
    ...(weights.length === 0 ? {} : { blkioWeightDevice: weights }),
    blkioThrottle: throttle,
  };
}
