/**
 * Where this machine's cgroups are (v1, v2 or both) and which files hold which limit. Policy for the native program, which makes the
 * groups, and for update, pause and stats, which use them later.
 */
import { execFile } from "node:child_process";
import { accessSync, constants, existsSync, readFileSync } from "node:fs";
import * as fs from "node:fs/promises";
import path from "node:path";
import { promisify } from "node:util";
import { ClusterError, hasNodeCode } from "../../common/errors.ts";
import type { Logger } from "../../common/log.ts";
import type { LaunchSpec } from "./launch-spec.ts";

/** Hierarchies that every container gets; cpuset and freezer only where they are needed. */
const ALWAYS = ["memory", "cpu", "cpuacct", "pids", "devices", "blkio"] as const;
const V2_CONTROLLERS = ["cpuset", "cpu", "io", "memory", "pids"] as const;
const DAEMON_GROUP = "/shoal-daemon";
const FREEZE_POLL_MS = 2;
const FREEZE_POLLS_MAX = 500;

export interface CgroupHierarchies {
  /** v1: controller to mount point. Co-mounted controllers have the same one. */
  readonly v1: ReadonlyMap<string, string>;
  /** Mount options of each v1 mount point, e.g. "cpu,cpuacct". */
  readonly v1Options: ReadonlyMap<string, string>;
  readonly v2: string | undefined;
  /** Controllers of the v2 tree; empty on hybrid hosts where v1 has them all. */
  readonly v2Controllers: ReadonlySet<string>;
}

export interface ResourceLimits {
  readonly memory?: number;
  readonly memorySwap?: number;
  readonly memoryReservation?: number;
  readonly memorySwappiness?: number;
  readonly isOomKillDisabled?: boolean;
  readonly cpuShares?: number;
  readonly cpuPeriod?: number;
  readonly cpuQuota?: number;
  readonly cpusetCpus?: string;
  readonly cpusetMems?: string;
  readonly pidsLimit?: number;
  readonly blkioWeight?: number;
  /** "MAJ:MIN VALUE" lines by kind. */
  readonly blkioThrottle?: Readonly<
    Record<"readBps" | "writeBps" | "readIops" | "writeIops", readonly string[]>
  >;
  readonly blkioWeightDevice?: readonly string[];
}

export type CgroupWrite = LaunchSpec["cgroupWrites"][number];

export function parseHierarchies(
  mountInfo: string,
  readControllers: (root: string) => string,
): CgroupHierarchies {
  const v1 = new Map<string, string>();
  const v1Options = new Map<string, string>();
  let v2: string | undefined;
  for (const line of mountInfo.split("\n")) {
    const [front, back] = line.split(" - ");
    if (front === undefined || back === undefined) continue;
    const point = front.split(" ")[4];
    const [type, , options] = back.split(" ");
    if (point === undefined || options === undefined) continue;
    if (type === "cgroup2") v2 ??= point;
    if (type !== "cgroup") continue;
    const controllers = options
      .split(",")
      .filter((each) => each !== "rw" && each !== "ro" && each !== "xattr");
    const named = controllers.filter((each) => !each.includes("=") && !each.endsWith("_mode"));
    for (const each of named) if (!v1.has(each)) v1.set(each, point);
    if (named.length > 0) v1Options.set(point, named.join(","));
  }
  const controllers = v2 === undefined ? "" : readControllers(v2);
  return {
    v1,
    v1Options,
    v2,
    v2Controllers: new Set(controllers.split(/\s+/).filter((each) => each !== "")),
  };
}

/** v1 trees without a controller (systemd's), which we don't use, but other runtimes that we start make groups in them. */
function namedHierarchies(): readonly string[] {
  return readFileSync("/proc/self/mountinfo", "utf8")
    .split("\n")
    .filter((line) => / - cgroup /.test(line) && line.includes("name="))
    .map((line) => line.split(" ")[4] ?? "");
}

export function detectHierarchies(): CgroupHierarchies {
  return parseHierarchies(readFileSync("/proc/self/mountinfo", "utf8"), (root) =>
    readFileSync(path.join(root, "cgroup.controllers"), "utf8"),
  );
}

/** The v2 group that an ordinary user's daemon was given, e.g. by systemd's Delegate=, and what is beside it: nothing. */
export function delegatedHierarchies(): { readonly hierarchies: CgroupHierarchies; readonly parent: string } {
  const none = { v1: new Map(), v1Options: new Map(), v2: undefined, v2Controllers: new Set<string>() };
  const all = detectHierarchies();
  const own = /^0::(\/.*)$/m.exec(readFileSync("/proc/self/cgroup", "utf8"))?.[1] ?? "/";
  // A daemon that is started again sits in the part that the former one made for itself.
  const parent = own.endsWith(DAEMON_GROUP) ? own.slice(0, -DAEMON_GROUP.length) : own;
  if (all.v2 === undefined || parent === "/" || !mayWrite(path.join(all.v2, parent, "cgroup.procs")))
    return { hierarchies: none, parent: "/" };
  const controllers = readFileSync(path.join(all.v2, parent, "cgroup.controllers"), "utf8");
  return {
    hierarchies: {
      ...none,
      v2: all.v2,
      v2Controllers: new Set(controllers.split(/\s+/).filter((each) => each !== "")),
    },
    parent,
  };
}

/** A group with processes of its own can't pass controllers on: the delegated one's go into a part of it. */
export async function leaveDelegatedGroup(v2: string, parent: string): Promise<void> {
  const folder = path.join(v2, parent);
  await fs.mkdir(path.join(folder, DAEMON_GROUP), { recursive: true });
  for (const pid of (await fs.readFile(path.join(folder, "cgroup.procs"), "utf8")).split("\n"))
    if (pid !== "") await tryWrite(path.join(folder, DAEMON_GROUP, "cgroup.procs"), pid);
}

function mayWrite(file: string): boolean {
  try {
    accessSync(file, constants.W_OK);
    return true;
  } catch {
    return false;
  }
}

/** One tree is enough: the lock that it changes is the kernel's only one. A kernel that doesn't know the option goes on without. */
export async function favorDynamicCgroups(hierarchies: CgroupHierarchies, log: Logger): Promise<void> {
  const point = hierarchies.v2 ?? hierarchies.v1.get("memory");
  if (point === undefined) return;
  await promisify(execFile)("mount", ["-o", "remount,favordynmods", point]).catch((error: unknown) => {
    log.warn("cgroups are not made to favour changes", { point, error });
  });
}

/** v1 shares (2..262144, 1024 usual) to v2 weight (1..10000, 100 usual), as runc has it since 1.4: the usual meets the usual. */
export function sharesToWeight(shares: number): number {
  const bounded = Math.min(262_144, Math.max(2, shares));
  const exponent = Math.log2(bounded);
  return Math.min(
    10_000,
    Math.max(1, Math.ceil(10 ** ((exponent * exponent + 125 * exponent) / 612 - 7 / 34))),
  );
}

/** Groups of one engine: all below one parent, so that two engines never meet. */
export class Cgroups {
  readonly hierarchies: CgroupHierarchies;
  readonly #parent: string;
  readonly #delegated: string;

  /** `parent`: path below the roots, with a leading slash; `delegated` is the part of it that is not ours to change. */
  constructor(hierarchies: CgroupHierarchies, parent: string, delegated = "") {
    this.hierarchies = hierarchies;
    this.#parent = parent;
    this.#delegated = delegated;
  }

  /** Hybrid hosts may keep a stray controller in the v2 tree: what counts is where memory is. */
  get isV2(): boolean {
    return this.hierarchies.v2Controllers.has("memory");
  }

  /** False where this daemon may make no groups: nothing is limited or measured then. */
  get isAvailable(): boolean {
    return this.hierarchies.v1.size > 0 || this.hierarchies.v2 !== undefined;
  }

  /** Whether limits of a controller can be set; "io" is v1's blkio. */
  has(controller: "memory" | "cpu" | "cpuset" | "pids" | "io"): boolean {
    const { v1, v2Controllers } = this.hierarchies;
    return v1.has(controller === "io" ? "blkio" : controller) || v2Controllers.has(controller);
  }

  /** Makes the parents ready to have limited children. Problems show when the first limit is set. */
  async prepare(parent: string = this.#parent): Promise<void> {
    const { v1, v2 } = this.hierarchies;
    const cpuset = v1.get("cpuset");
    if (cpuset !== undefined) await fillCpuset(cpuset, parent);
    if (v2 === undefined) return;
    await fs.mkdir(path.join(v2, parent), { recursive: true });
    const wanted = V2_CONTROLLERS.filter((each) => this.hierarchies.v2Controllers.has(each));
    let folder = path.join(v2, this.#delegated);
    const parts = parent.slice(this.#delegated.length).split("/");
    for (const part of ["", ...parts.filter((each) => each !== "")]) {
      folder = path.join(folder, part);
      for (const each of wanted) await tryWrite(path.join(folder, "cgroup.subtree_control"), `+${each}`);
    }
  }

  /** Removes the parents if nothing is left in them. */
  async removeParent(): Promise<void> {
    const roots = new Set([
      ...this.hierarchies.v1.values(),
      this.hierarchies.v2 ?? "",
      ...namedHierarchies(),
    ]);
    for (const root of roots) {
      if (root !== "") await fs.rmdir(path.join(root, this.#parent)).catch(() => undefined);
    }
  }

  folder(root: string, id: string, parent?: string): string {
    return path.join(root, parent === undefined || parent === "" ? this.#parent : parent, id);
  }

  /** Folders of a container by version, the v2 one last. */
  groups(id: string, options: { readonly parent?: string; readonly cpuset: boolean }): LaunchSpec["cgroups"] {
    const { v1, v2 } = this.hierarchies;
    const names: string[] = [...ALWAYS];
    if (options.cpuset) names.push("cpuset");
    if (v2 === undefined) names.push("freezer");
    const roots = [...new Set(names.map((each) => v1.get(each)).filter((each) => each !== undefined))];
    return [
      ...roots.map((root) => ({ version: 1 as const, folder: this.folder(root, id, options.parent) })),
      ...(v2 === undefined ? [] : [{ version: 2 as const, folder: this.folder(v2, id, options.parent) }]),
    ];
  }

  /** The v1 folder of a controller, or undefined on v2 hosts. */
  v1Folder(controller: string, id: string, parent?: string): string | undefined {
    const root = this.hierarchies.v1.get(controller);
    return root === undefined ? undefined : this.folder(root, id, parent);
  }

  v2Folder(id: string, parent?: string): string | undefined {
    const root = this.hierarchies.v2;
    return root === undefined ? undefined : this.folder(root, id, parent);
  }

  /** Files and values of the limits, in the order in which they must be written. */
  limitWrites(id: string, limits: ResourceLimits, parent?: string): readonly CgroupWrite[] {
    const writes = this.isV2 ? v2Writes(limits) : v1Writes(this.#withWholeCpuset(limits, parent));
    return writes.flatMap(({ controller, file, value, isOptional }) => {
      const folder = controller === "" ? this.v2Folder(id, parent) : this.v1Folder(controller, id, parent);
      return folder === undefined ? [] : [{ file: path.join(folder, file), value, isOptional }];
    });
  }

  /** v1: a group whose cpus are set takes no process while its memory nodes aren't, and the other way round: the rest is the parent's. */
  #withWholeCpuset(limits: ResourceLimits, parent?: string): ResourceLimits {
    const { cpusetCpus, cpusetMems } = limits;
    if ((cpusetCpus === undefined) === (cpusetMems === undefined)) return limits;
    const missing = cpusetCpus === undefined ? "cpusetCpus" : "cpusetMems";
    const folder = this.v1Folder("cpuset", "", parent);
    if (folder === undefined) return limits;
    const value = readOrEmpty(path.join(folder, missing === "cpusetCpus" ? "cpuset.cpus" : "cpuset.mems"));
    return value === "" ? limits : { ...limits, [missing]: value };
  }

  /**
   * v1: a container that was started without limits of this kind has no cpuset group: makes one and moves what runs there.
   * The container's monitor knows nothing of it, so leaveCpuset() belongs to it.
   */
  async enterCpuset(id: string, limits: ResourceLimits, parent?: string): Promise<void> {
    const folder = this.v1Folder("cpuset", id, parent);
    const others = this.v1Folder("memory", id, parent) ?? this.v2Folder(id, parent);
    if (folder === undefined || others === undefined || existsSync(folder)) return;
    await fs.mkdir(folder);
    try {
      const own = this.limitWrites(id, limits, parent).filter((each) => path.dirname(each.file) === folder);
      for (const { file, value } of own) await fs.writeFile(file, value);
      // What is forked meanwhile shows in the next round.
      const moved = new Set<string>();
      for (let count = -1; count < moved.size;) {
        count = moved.size;
        for (const pid of (await fs.readFile(path.join(others, "cgroup.procs"), "utf8")).split("\n")) {
          if (pid === "" || moved.has(pid)) continue;
          moved.add(pid);
          await fs.writeFile(path.join(folder, "cgroup.procs"), pid).catch(ignoreEnded);
        }
      }
    } catch (caught) {
      await this.leaveCpuset(id, parent);
      throw caught;
    }
  }

  /** Once nothing of the container runs. */
  async leaveCpuset(id: string, parent?: string): Promise<void> {
    const folder = this.v1Folder("cpuset", id, parent);
    if (folder !== undefined) await fs.rmdir(folder).catch(() => undefined);
  }

  async freeze(id: string, isFrozen: boolean, parent?: string): Promise<void> {
    const v2 = this.v2Folder(id, parent);
    if (v2 !== undefined && existsSync(path.join(v2, "cgroup.freeze"))) {
      await fs.writeFile(path.join(v2, "cgroup.freeze"), isFrozen ? "1" : "0");
      const wanted = `frozen ${isFrozen ? 1 : 0}`;
      return pollFile(path.join(v2, "cgroup.events"), (text) => text.includes(wanted));
    }
    const v1 = this.v1Folder("freezer", id, parent);
    if (v1 === undefined) throw new ClusterError("unimplemented", "This machine has no freezer cgroup");
    const file = path.join(v1, "freezer.state");
    const state = isFrozen ? "FROZEN" : "THAWED";
    await fs.writeFile(file, state);
    // A fork in the wrong moment leaves it FREEZING: writing again helps.
    return pollFile(
      file,
      (text) => text.trim() === state,
      () => fs.writeFile(file, state),
    );
  }
}

async function pollFile(
  file: string,
  isDone: (text: string) => boolean,
  again?: () => Promise<void>,
): Promise<void> {
  for (let poll = 0; poll < FREEZE_POLLS_MAX; poll++) {
    if (isDone(await fs.readFile(file, "utf8"))) return;
    if (poll > 10) await again?.();
    await new Promise((resolve) => setTimeout(resolve, FREEZE_POLL_MS));
  }
  throw new ClusterError("deadline_exceeded", `Cannot change ${file}: processes did not follow in time`);
}

function readOrEmpty(file: string): string {
  try {
    return readFileSync(file, "utf8").trim();
  } catch {
    return "";
  }
}

function ignoreEnded(caught: unknown): void {
  if (!hasNodeCode(caught, "ESRCH")) throw caught;
}

async function tryWrite(file: string, value: string): Promise<void> {
  await fs.writeFile(file, value).catch(() => undefined);
}

/** v1: a group takes no process before its cpus and mems are set, from the top down. */
async function fillCpuset(root: string, parent: string): Promise<void> {
  let folder = root;
  for (const part of parent.split("/").filter((each) => each !== "")) {
    const above = folder;
    folder = path.join(folder, part);
    await fs.mkdir(folder, { recursive: true });
    for (const file of ["cpuset.cpus", "cpuset.mems"]) {
      const own = await fs.readFile(path.join(folder, file), "utf8");
      if (own.trim() === "")
        await tryWrite(path.join(folder, file), await fs.readFile(path.join(above, file), "utf8"));
    }
  }
}

interface RelativeWrite {
  /** v1 controller, or "" for v2. */
  readonly controller: string;
  readonly file: string;
  readonly value: string;
  readonly isOptional: boolean;
}

type Put = (
  controller: string,
  file: string,
  value: number | string | undefined,
  isOptional?: boolean,
) => void;

function collect(fill: (put: Put) => void): readonly RelativeWrite[] {
  const writes: RelativeWrite[] = [];
  fill((controller, file, value, isOptional = false) => {
    if (value !== undefined) writes.push({ controller, file, value: String(value), isOptional });
  });
  return writes;
}

function v1Writes(limits: ResourceLimits): readonly RelativeWrite[] {
  return collect((put) => {
    put("memory", "memory.limit_in_bytes", limits.memory);
    // Some kernels don't count swap.
    put("memory", "memory.memsw.limit_in_bytes", limits.memorySwap, true);
    put("memory", "memory.soft_limit_in_bytes", limits.memoryReservation);
    put("memory", "memory.swappiness", limits.memorySwappiness);
    if (limits.isOomKillDisabled === true) put("memory", "memory.oom_control", "1");
    put("cpu", "cpu.shares", limits.cpuShares);
    put("cpu", "cpu.cfs_period_us", limits.cpuPeriod);
    put("cpu", "cpu.cfs_quota_us", limits.cpuQuota);
    put("cpuset", "cpuset.cpus", limits.cpusetCpus);
    put("cpuset", "cpuset.mems", limits.cpusetMems);
    put(
      "pids",
      "pids.max",
      limits.pidsLimit === undefined ? undefined : limits.pidsLimit > 0 ? limits.pidsLimit : "max",
    );
    // Weights need a scheduler that knows them; many disks have none.
    put("blkio", "blkio.weight", limits.blkioWeight, true);
    put("blkio", "blkio.bfq.weight", limits.blkioWeight, true);
    for (const line of limits.blkioWeightDevice ?? []) put("blkio", "blkio.weight_device", line, true);
    const throttle = limits.blkioThrottle;
    for (const line of throttle?.readBps ?? []) put("blkio", "blkio.throttle.read_bps_device", line);
    for (const line of throttle?.writeBps ?? []) put("blkio", "blkio.throttle.write_bps_device", line);
    for (const line of throttle?.readIops ?? []) put("blkio", "blkio.throttle.read_iops_device", line);
    for (const line of throttle?.writeIops ?? []) put("blkio", "blkio.throttle.write_iops_device", line);
  });
}

function v2Writes(limits: ResourceLimits): readonly RelativeWrite[] {
  const { memory, memorySwap, cpuQuota } = limits;
  const swap =
    memorySwap === undefined || memory === undefined
      ? undefined
      : memorySwap < 0
        ? "max"
        : memorySwap - memory;
  const quota = cpuQuota === undefined ? undefined : cpuQuota > 0 ? cpuQuota : "max";
  return collect((put) => {
    put("", "memory.max", memory === undefined ? undefined : memory > 0 ? memory : "max");
    put("", "memory.swap.max", swap, true);
    put("", "memory.low", limits.memoryReservation);
    put("", "cpu.weight", limits.cpuShares === undefined ? undefined : sharesToWeight(limits.cpuShares));
    put("", "cpu.max", quota === undefined ? undefined : `${quota} ${limits.cpuPeriod ?? 100_000}`);
    put("", "cpuset.cpus", limits.cpusetCpus);
    put("", "cpuset.mems", limits.cpusetMems);
    put(
      "",
      "pids.max",
      limits.pidsLimit === undefined ? undefined : limits.pidsLimit > 0 ? limits.pidsLimit : "max",
    );
    put("", "io.bfq.weight", limits.blkioWeight, true);
    const throttle = limits.blkioThrottle;
    const io = (lines: readonly string[] | undefined, key: string): void => {
      for (const line of lines ?? []) put("", "io.max", line.replace(" ", ` ${key}=`));
    };
    io(throttle?.readBps, "rbps");
    io(throttle?.writeBps, "wbps");
    io(throttle?.readIops, "riops");
    io(throttle?.writeIops, "wiops");
  });
}
