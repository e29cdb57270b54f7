/**
 * Containers outside of any service that join attachable networks of the cluster (`docker run --network`). The managers are
 * told of them, give them addresses and tell all nodes their names. Connecting itself is worker-network.ts's work.
 */
import { ipv4Number, withoutMask } from "../../common/addresses.ts";
import type { Timers } from "../../common/env.ts";
import { ClusterError } from "../../common/errors.ts";
import type { GuestReport, NetworkAssignment, RemoteEndpoint } from "../../model/dispatch.ts";
import type {
  AttachedNetworks,
  ClusterNetwork,
  Guest,
  GuestNetworks,
  GuestPlace,
  NameDirectory,
} from "../../model/engine.ts";
import { contains, parseAddress, parseBlock, splitCidr } from "../../runtime/network/addresses.ts";
import { GUEST_ADDRESS_WAIT_MS, GUEST_NETWORK_WAIT_MS } from "./limits.ts";

/** A guest's place with what the managers have said of it. */
export interface GuestAttachment {
  readonly network: NetworkAssignment;
  readonly names: readonly string[];
  /** With mask. */
  readonly address: string;
}

export interface GuestDeps {
  readonly timers: Timers;
  /** Networks that are set up on this node now. */
  readonly networks: () => readonly NetworkAssignment[];
  /** Makes the guest's networks these, or changes nothing of what it had. */
  readonly connect: (guest: Guest, attachments: readonly GuestAttachment[]) => Promise<AttachedNetworks>;
  readonly names: (containerId: string) => NameDirectory;
  readonly takeOver: (guest: Guest, meshIp: string) => Promise<void>;
  readonly disconnect: (containerId: string) => Promise<void>;
}

export class NodeGuests implements GuestNetworks {
  readonly #deps: GuestDeps;
  /** By container. */
  readonly #guests = new Map<string, Guest>();
  /** Names or ids that are asked for, and by how many. */
  readonly #asked = new Map<string, number>();
  readonly #waiting = new Set<() => void>();
  #listener: ((report: GuestReport) => void) | undefined;
  #told = "";

  constructor(deps: GuestDeps) {
    this.#deps = deps;
  }

  onChange(listener: (report: GuestReport) => void): void {
    this.#listener = listener;
    this.#told = "";
    this.#tell();
  }

  /** Managers have said something new: who waits for a network or an address looks again. */
  networksChanged(): void {
    for (const look of this.#waiting) look();
  }

  async open(reference: string): Promise<ClusterNetwork | undefined> {
    this.#asked.set(reference, (this.#asked.get(reference) ?? 0) + 1);
    this.#tell();
    try {
      const found = await this.#await(() => this.#find(reference), GUEST_NETWORK_WAIT_MS);
      return found === undefined ? undefined : { id: found.networkId, name: found.name };
    } finally {
      this.#forgetLater(reference);
    }
  }

  names(containerId: string): NameDirectory {
    return this.#deps.names(containerId);
  }

  async attach(guest: Guest): Promise<AttachedNetworks> {
    const { containerId, pid } = guest.target;
    const known = this.#guests.get(containerId);
    const former = known?.target.pid === pid ? known : undefined;
    const places = guest.places.map(
      (place) =>
        former?.places.find((each) => each.networkId === place.networkId) ??
        this.#checked(place, containerId),
    );
    const next = { ...guest, places };
    this.#guests.set(containerId, next);
    const isJoining = places.some((place) => former?.places.includes(place) !== true);
    // Of networks that it leaves, managers are told when its links are gone.
    if (isJoining) this.#tell();
    try {
      const attachments = await Promise.all(places.map((place) => this.#granted(place, containerId)));
      if (this.#guests.get(containerId) !== next)
        throw new ClusterError("unavailable", "Cannot connect the container: it has ended meanwhile");
      const attached = await this.#deps.connect(next, attachments);
      this.#tell();
      return attached;
    } catch (caught) {
      if (former === undefined) await this.detach(containerId);
      else if (this.#guests.get(containerId) === next) this.#guests.set(containerId, former);
      this.#tell();
      throw caught;
    }
  }

  /**
   * Says at once what the managers would only be silent about. An address that they still show for the container is from
   * a moment ago and may be on its way back to them: it is asked for again.
   */
  #checked(place: GuestPlace, containerId: string): GuestPlace {
    const network = this.#require(place.networkId);
    checkWish(network, place, containerId);
    const last = network.endpoints.find((each) => each.taskId === containerId);
    return place.address === "" && last !== undefined ? { ...place, address: last.ip } : place;
  }

  async detach(containerId: string): Promise<void> {
    if (!this.#guests.delete(containerId)) return;
    await this.#deps.disconnect(containerId);
    this.#tell();
  }

  async adopt(guest: Guest, meshIp: string): Promise<void> {
    this.#guests.set(guest.target.containerId, guest);
    this.#tell();
    await this.#deps.takeOver(guest, meshIp);
  }

  async #granted(place: GuestPlace, containerId: string): Promise<GuestAttachment> {
    const { networkId, names } = place;
    const wanted = withoutMask(place.address);
    const look = (): RemoteEndpoint | undefined =>
      this.#find(networkId)?.endpoints.find(
        (each) => each.taskId === containerId && (wanted === "" || each.ip === wanted),
      );
    const endpoint = await this.#await(look, GUEST_ADDRESS_WAIT_MS);
    const network = this.#require(networkId);
    if (endpoint === undefined)
      throw new ClusterError(
        "unavailable",
        `Cannot connect the container to network "${network.name}": the managers must give it ${wanted === "" ? "an address" : `the address ${wanted}`}, and have not within ${GUEST_ADDRESS_WAIT_MS / 1000} s`,
        { retryable: true },
      );
    return { network, names, address: withMask(network, endpoint.ip) };
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

  /** What `look` finds, now or when the managers have said more; undefined if it finds nothing in time. */
  #await<T>(look: () => T | undefined, waitMs: number): Promise<T | undefined> {
    const found = look();
    if (found !== undefined) return Promise.resolve(found);
    return new Promise((resolve) => {
      const finish = (result: T | undefined): void => {
        this.#waiting.delete(again);
        cancel();
        resolve(result);
      };
      const again = (): void => {
        const now = look();
        if (now !== undefined) finish(now);
      };
      const cancel = this.#deps.timers.after(waitMs, () => finish(undefined));
      this.#waiting.add(again);
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
    const guests = [...this.#guests.values()].flatMap(({ target, places }) =>
      places.map(({ networkId, names, address }) => ({
        containerId: target.containerId,
        networkId,
        names,
        address: withoutMask(address),
      })),
    );
    const used = guests.map(({ networkId }) => networkId);
    const report = { references: [...new Set([...this.#asked.keys(), ...used])].toSorted(), guests };
    const text = JSON.stringify(report);
    if (text === this.#told) return;
    this.#told = text;
    this.#listener?.(report);
  }
}

function checkWish(network: NetworkAssignment, { address }: GuestPlace, containerId: string): void {
  if (address === "") return;
  const asked = ipv4Number(address);
  if (asked === undefined || !subnetsOf(network).some((subnet) => contains(parseBlock(subnet), asked)))
    throw new ClusterError(
      "invalid_argument",
      `invalid endpoint settings: no subnet of network ${network.name} contains IP address ${address}: it has ${subnetsOf(network).join(", ")}`,
    );
  const isTaken =
    network.subnets.some(({ gateway }) => withoutMask(gateway) === address) ||
    network.services.some(({ vip }) => vip === address) ||
    network.endpoints.some((each) => each.ip === address && each.taskId !== containerId);
  if (isTaken)
    throw new ClusterError(
      "permission_denied",
      `Address already in use: ${address} on network ${network.name}`,
    );
}

function subnetsOf(network: NetworkAssignment): readonly string[] {
  return network.subnets.map(({ subnet }) => subnet).filter((subnet) => !subnet.includes(":"));
}

function withMask(network: NetworkAssignment, ip: string): string {
  const address = parseAddress(ip);
  const subnet = subnetsOf(network).find((each) => contains(parseBlock(each), address));
  return `${ip}/${subnet === undefined ? 32 : splitCidr(subnet).prefixLength}`;
}
