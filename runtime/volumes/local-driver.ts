/**
 * Volumes in the data root: a folder each, or with options (type, device, o) a mount made when the first container uses it
 * and taken away after the last. Mounts made by an earlier life of the daemon are found again.
 */
import * as fs from "node:fs/promises";
import { statSync } from "node:fs";
import { lookup } from "node:dns/promises";
import path from "node:path";
import type { Disk } from "../../common/env.ts";
import { ClusterError } from "../../common/errors.ts";
import { isMounted, mountVolume, unmountVolume } from "./mount-calls.ts";
import { Turns } from "./turns.ts";
import type { DriverVolume, VolumeDriver } from "./volume-driver.ts";

const OPTIONS: ReadonlySet<string> = new Set(["type", "device", "o"]);

export interface LocalDriverOptions {
  /** Folder that holds one folder for each volume. */
  readonly root: string;
  readonly disk: Disk;
  /** Options the volume was made with. */
  readonly optionsOf: (name: string) => Readonly<Record<string, string>>;
}

export class LocalDriver implements VolumeDriver {
  readonly name = "local";
  readonly #options: LocalDriverOptions;
  readonly #users = new Map<string, Set<string>>();
  /** Mounting and unmounting of one volume go one after the other. */
  readonly #turns = new Turns();

  constructor(options: LocalDriverOptions) {
    this.#options = options;
  }

  scope(): Promise<string> {
    return Promise.resolve("local");
  }

  pathOf(name: string): string {
    return path.join(this.#options.root, name, "_data");
  }

  static checkOptions(name: string, options: Readonly<Record<string, string>>): void {
    const refuse = (why: string): never => {
      throw new ClusterError("invalid_argument", `create ${name}: ${why}`);
    };
    for (const key of Object.keys(options)) if (!OPTIONS.has(key)) refuse(`invalid option: "${key}"`);
    if (Object.keys(options).length === 0) return;
    for (const key of ["type", "device"]) {
      if ((options[key] ?? "") === "") refuse(`missing required option: "${key}"`);
    }
  }

  /** The engine makes the folder together with its record, so that both appear at once. */
  static async makeFolder(folder: string, disk: Disk): Promise<void> {
    await disk.makeFolder(folder, 0o755);
    // The umask must not decide what containers see.
    await fs.chmod(folder, 0o755);
  }

  async create(name: string): Promise<void> {
    await LocalDriver.makeFolder(this.pathOf(name), this.#options.disk);
  }

  remove(name: string): Promise<void> {
    return this.#turns.take(name, async () => {
      const target = this.pathOf(name);
      if (isMounted(target)) await unmountVolume(target);
      this.#users.delete(name);
    });
  }

  mount(name: string, userId: string): Promise<string> {
    return this.#turns.take(name, async () => {
      const target = this.pathOf(name);
      const users = this.#users.get(name) ?? new Set();
      const options = this.#options.optionsOf(name);
      if (options["type"] !== undefined && users.size === 0 && !isMounted(target)) {
        await mountVolume(await this.#request(name, options));
      }
      users.add(userId);
      this.#users.set(name, users);
      return target;
    });
  }

  async #request(
    name: string,
    options: Readonly<Record<string, string>>,
  ): Promise<Parameters<typeof mountVolume>[0]> {
    const { type = "", device = "", o = "" } = options;
    return {
      source: device,
      target: this.pathOf(name),
      type,
      options: type.startsWith("nfs") ? await withAddress(o) : o,
    };
  }

  unmount(name: string, userId: string): Promise<void> {
    return this.#turns.take(name, async () => {
      const users = this.#users.get(name);
      if (users === undefined || !users.delete(userId) || users.size > 0) return;
      this.#users.delete(name);
      const isMount = this.#options.optionsOf(name)["type"] !== undefined;
      if (isMount && isMounted(this.pathOf(name))) await unmountVolume(this.pathOf(name));
    });
  }

  get(name: string): Promise<DriverVolume | undefined> {
    const mountpoint = this.pathOf(name);
    const stats = statSync(path.dirname(mountpoint), { throwIfNoEntry: false });
    if (stats === undefined) return Promise.resolve(undefined);
    return Promise.resolve({ name, mountpoint, createdAt: "", status: {} });
  }

  list(): Promise<readonly DriverVolume[]> {
    // The engine's own records name all local volumes.
    return Promise.resolve([]);
  }
}

/** The kernel wants an address where people write a host name. */
async function withAddress(options: string): Promise<string> {
  const host = /(?:^|,)addr=([^,]+)/.exec(options)?.[1];
  if (host === undefined) return options;
  try {
    const { address } = await lookup(host);
    return options.replace(`addr=${host}`, `addr=${address}`);
  } catch (caught) {
    throw new ClusterError("unavailable", `error resolving passed in network volume address: ${host}`, {
      cause: caught,
    });
  }
}
