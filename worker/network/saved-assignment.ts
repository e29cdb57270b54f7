/**
 * The last network state that managers gave, kept in the run folder until the next boot, so that a daemon that restarts
 * while no manager answers still serves names and mends what breaks. Written at most once per interval; losing it is
 * harmless.
 */
import path from "node:path";
import type { Cancel, Env } from "../../common/env.ts";
import { ClusterError } from "../../common/errors.ts";
import type { Logger } from "../../common/log.ts";
import type { MeshAssignment, NetworkAssignment } from "../../model/dispatch.ts";
import type { NetworkState } from "./worker-network.ts";

interface SavedState {
  readonly networks: readonly NetworkAssignment[];
  readonly mesh?: MeshAssignment;
}

function isSavedState(value: unknown): value is SavedState {
  return typeof value === "object" && value !== null && "networks" in value && Array.isArray(value.networks);
}

export class SavedAssignment {
  readonly #file: string;
  readonly #env: Pick<Env, "timers" | "disk">;
  readonly #log: Logger;
  readonly #intervalMs: number;
  #pending: NetworkState | undefined;
  #cancel: Cancel | undefined;
  #tail: Promise<void> = Promise.resolve();

  constructor(file: string, env: Pick<Env, "timers" | "disk">, log: Logger, intervalMs: number) {
    this.#file = file;
    this.#env = env;
    this.#log = log;
    this.#intervalMs = intervalMs;
  }

  async load(): Promise<NetworkState | undefined> {
    try {
      if (!(await this.#env.disk.exists(this.#file))) return undefined;
      const text = Buffer.from(await this.#env.disk.readFile(this.#file)).toString("utf8");
      const value: unknown = JSON.parse(text);
      if (!isSavedState(value)) return undefined;
      const networks = new Map(value.networks.map((network) => [network.networkId, network]));
      return { networks, mesh: value.mesh };
    } catch (caught) {
      this.#log.warn("last network state could not be read", { error: ClusterError.from(caught) });
      return undefined;
    }
  }

  save(state: NetworkState): void {
    this.#pending = state;
    this.#cancel ??= this.#env.timers.after(this.#intervalMs, () => this.#flush());
  }

  async close(): Promise<void> {
    this.#flush();
    await this.#tail;
  }

  async remove(): Promise<void> {
    this.#pending = undefined;
    this.#flush();
    await this.#tail;
    await this.#env.disk.remove(this.#file);
  }

  #flush(): void {
    this.#cancel?.();
    this.#cancel = undefined;
    const state = this.#pending;
    this.#pending = undefined;
    if (state === undefined) return;
    this.#tail = this.#tail.then(() => this.#write(state));
  }

  async #write(state: NetworkState): Promise<void> {
    const { mesh } = state;
    const saved: SavedState = {
      networks: [...state.networks.values()],
      ...(mesh === undefined ? {} : { mesh }),
    };
    try {
      await this.#env.disk.makeFolder(path.dirname(this.#file));
      await this.#env.disk.writeFileAtomic(this.#file, Buffer.from(JSON.stringify(saved)));
    } catch (caught) {
      this.#log.warn("last network state could not be kept", { error: ClusterError.from(caught) });
    }
  }
}
