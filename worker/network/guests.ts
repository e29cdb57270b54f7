/**
 * Containers outside of any service that join attachable networks of the cluster (`docker run --network`). A network that no
 * task of this node is on is asked for at the managers and waited for. Connecting itself is worker-network.ts's work.
 */
import type { Timers } from "../../common/env.ts";
import { ClusterError } from "../../common/errors.ts";
import type { NetworkAssignment } from "../../model/dispatch.ts";
import type { AttachedNetworks, Guest, GuestNetworks } from "../../model/engine.ts";
import { GUEST_NETWORK_WAIT_MS } from "./limits.ts";

export interface GuestDeps {
  readonly timers: Timers;
  /** Networks that are set up on this node now. */
  readonly networks: () => readonly NetworkAssignment[];
  readonly connect: (
    guest: Guest,
    networks: readonly NetworkAssignment[],
  ) => Promise<readonly [address: string, attached: AttachedNetworks]>;
  readonly takeOver: (guest: Guest, networkIds: readonly string[], address: string) => Promise<void>;
  readonly disconnect: (containerId: string) => Promise<void>;
}

export class NodeGuests implements GuestNetworks {
  readonly #deps: GuestDeps;
  /** Networks that guests are on, by container. */
  readonly #used = new Map<string, readonly string[]>();
  /** Names or ids that are asked for, and by how many. */
  readonly #asked = new Map<string, number>();
  readonly #waiting = new Set<() => void>();
  #listener: ((references: readonly string[]) => void) | undefined;
  #told = "";

  constructor(deps: GuestDeps) {
    this.#deps = deps;
  }

  onChange(listener: (references: readonly string[]) => void): void {
    this.#listener = listener;
    this.#told = "";
    this.#tell();
  }

  /** Managers have said something new: who waits for a network looks again. */
  networksChanged(): void {
    for (const look of this.#waiting) look();
  }

  async open(reference: string): Promise<{ readonly id: string; readonly name: string } | undefined> {
    this.#asked.set(reference, (this.#asked.get(reference) ?? 0) + 1);
    this.#tell();
    try {
      const found = await this.#await(reference);
      return found === undefined ? undefined : { id: found.networkId, name: found.name };
    } finally {
      this.#forgetLater(reference);
    }
  }

  async attach(guest: Guest): Promise<AttachedNetworks> {
    const networks = guest.networkIds.map((id) => this.#require(id));
    this.#use(guest);
    try {
      const [, attached] = await this.#deps.connect(guest, networks);
      return attached;
    } catch (caught) {
      await this.detach(guest.target.containerId);
      throw caught;
    }
  }

  async detach(containerId: string): Promise<void> {
    if (!this.#used.delete(containerId)) return;
    await this.#deps.disconnect(containerId);
    this.#tell();
  }

  async adopt(guest: Guest, address: string): Promise<void> {
    this.#use(guest);
    await this.#deps.takeOver(guest, guest.networkIds, address);
  }

  #use(guest: Guest): void {
    this.#used.set(guest.target.containerId, guest.networkIds);
    this.#tell();
  }

  #find(reference: string): NetworkAssignment | undefined {
    const all = this.#deps.networks().filter((network) => network.isAttachable === true);
    return (
      all.find((network) => network.networkId === reference) ??
      all.find((network) => network.name === reference)
    );
  }

  #require(id: string): NetworkAssignment {
    const found = this.#find(id);
    if (found === undefined) throw new ClusterError("not_found", `network ${id} not found`);
    return found;
  }

  #await(reference: string): Promise<NetworkAssignment | undefined> {
    const found = this.#find(reference);
    if (found !== undefined) return Promise.resolve(found);
    return new Promise((resolve) => {
      const finish = (result: NetworkAssignment | undefined): void => {
        this.#waiting.delete(look);
        cancel();
        resolve(result);
      };
      const look = (): void => {
        const now = this.#find(reference);
        if (now !== undefined) finish(now);
      };
      const cancel = this.#deps.timers.after(GUEST_NETWORK_WAIT_MS, () => finish(undefined));
      this.#waiting.add(look);
    });
  }

  /** Between the check at create and the attachment at start the network stays asked for, for a while. */
  #forgetLater(reference: string): void {
    const KEEP_MS = 30_000;
    this.#deps.timers.after(KEEP_MS, () => {
      const count = (this.#asked.get(reference) ?? 1) - 1;
      if (count > 0) this.#asked.set(reference, count);
      else this.#asked.delete(reference);
      this.#tell();
    });
  }

  #tell(): void {
    const references = [...new Set([...this.#asked.keys(), ...[...this.#used.values()].flat()])].toSorted();
    const text = references.join("\n");
    if (text === this.#told) return;
    this.#told = text;
    this.#listener?.(references);
  }
}
