/**
 * Containers of this machine that ask for networks of the cluster: passes them on to the worker's network, and remembers
 * which they are. Used by local-networks.ts alone; without a cluster there are none.
 */
import { createHash } from "node:crypto";
import { ClusterError } from "../../common/errors.ts";
import type { Logger } from "../../common/log.ts";
import type { Guest, GuestNetworks, GuestPlace, NetworkNamespaceTarget } from "../../model/engine.ts";
import type { ContainerNetworkRequest, ContainerNetworkResult } from "../ports.ts";
import type { NetworkCatalog } from "./local-catalog.ts";
import { portRequests } from "./local-ports.ts";
import type { PublishedPort } from "./local-ports.ts";
import { describePorts, extraHosts, publishedOf } from "./local-results.ts";

type Request = Omit<ContainerNetworkRequest, "target">;

/** Networks that a container names, its mode's first. */
function references(request: Request): string[] {
  const mode = request.hostConfig.NetworkMode ?? "";
  const asked = Object.keys(request.networkingConfig?.EndpointsConfig ?? {});
  return [...new Set([mode === "" ? "default" : mode, ...asked])];
}

/** The container's names on the network and the address that it asks for there. */
function placeOf(
  request: ContainerNetworkRequest,
  reference: string,
  network: { readonly id: string; readonly name: string },
): GuestPlace {
  const settings = request.networkingConfig?.EndpointsConfig ?? {};
  const endpoint = settings[reference] ?? settings[network.name] ?? settings[network.id];
  const shortId = request.target.containerId.slice(0, 12);
  const names = [request.name, ...(endpoint?.Aliases ?? []), shortId, request.hostname];
  return {
    networkId: network.id,
    names: [...new Set(names.filter((name) => name !== ""))],
    address: endpoint?.IPAMConfig?.IPv4Address ?? "",
  };
}

/** Host ports as asked for; on networks of the cluster each must be named. */
function publishedPorts(request: Request): PublishedPort[] {
  return portRequests(request.hostConfig, request.config).map((port) => {
    if (port.first === 0)
      throw new ClusterError(
        "invalid_argument",
        `Cannot publish port ${port.containerPort} of "${request.name}": on a network of the cluster the host port must be given`,
      );
    const { protocol, containerPort, hostIp } = port;
    return { protocol, containerPort, hostIp, hostPort: port.first };
  });
}

export class LocalGuests {
  readonly #catalog: NetworkCatalog;
  readonly #log: Logger;
  readonly #attached = new Set<string>();
  /** Found at the daemon's start, before the cluster was there. */
  readonly #pending = new Map<string, { readonly guest: Guest; readonly meshIp: string }>();
  #guests: GuestNetworks | undefined;

  constructor(catalog: NetworkCatalog, log: Logger) {
    this.#catalog = catalog;
    this.#log = log;
  }

  set(guests: GuestNetworks | undefined): void {
    this.#guests = guests;
    if (guests === undefined) return;
    for (const { guest, meshIp } of this.#pending.values()) {
      this.#attached.add(guest.target.containerId);
      guests.adopt(guest, meshIp).catch((caught: unknown) =>
        this.#log.warn("a container's place on a network of the cluster could not be taken over", {
          containerId: guest.target.containerId,
          error: ClusterError.from(caught),
        }),
      );
    }
    this.#pending.clear();
  }

  /** True if the container's networks are the cluster's. One kind at a time: a mixture is refused. */
  async isGuest(request: Request): Promise<boolean> {
    const wanted = references(request);
    const foreign = wanted.filter((reference) => this.#catalog.lookup(reference) === undefined);
    const guests = this.#guests;
    if (foreign.length === 0 || guests === undefined) return false;
    const found = await Promise.all(foreign.map((reference) => guests.open(reference)));
    const missing = foreign.find((_reference, index) => found[index] === undefined);
    if (missing !== undefined) throw new ClusterError("not_found", `network ${missing} not found`);
    if (foreign.length < wanted.length)
      throw new ClusterError(
        "invalid_argument",
        `Cannot connect "${request.name}" to networks of this machine and of the cluster at once: got ${wanted.join(", ")}`,
      );
    publishedPorts(request);
    return true;
  }

  async attach(request: ContainerNetworkRequest): Promise<ContainerNetworkResult> {
    const guests = this.#require();
    const places = await Promise.all(
      references(request).map(async (reference) => {
        const opened = await guests.open(reference);
        if (opened === undefined) throw new ClusterError("not_found", `network ${reference} not found`);
        return placeOf(request, reference, opened);
      }),
    );
    const ports = publishedPorts(request);
    const { target, hostConfig } = request;
    const attached = await guests.attach({
      target,
      places,
      nameservers: hostConfig.Dns ?? [],
      ports,
    });
    this.#attached.add(target.containerId);
    const search = hostConfig.DnsSearch ?? [];
    const [endpoint] = Object.values(attached.endpoints);
    const names = [request.hostname === "" ? request.name : request.hostname];
    return {
      ...attached,
      searchDomains: search.length > 0 ? search : attached.searchDomains,
      dnsOptions: [...attached.dnsOptions, ...(hostConfig.DnsOptions ?? [])],
      ports: describePorts(ports),
      hosts: [
        { ip: endpoint?.IPAddress ?? "", names },
        ...extraHosts(hostConfig, attached.nameservers[0] ?? ""),
      ],
      sandboxId: createHash("sha256").update(`${target.containerId} ${target.pid}`).digest("hex"),
    };
  }

  has(containerId: string): boolean {
    return this.#attached.has(containerId) || this.#pending.has(containerId);
  }

  /** True if it was a guest. */
  async detach(containerId: string): Promise<boolean> {
    const wasPending = this.#pending.delete(containerId);
    if (!this.#attached.delete(containerId)) return wasPending;
    await this.#guests?.detach(containerId);
    return true;
  }

  /** True if the container, which runs since before this daemon, is a guest. */
  async adopt(
    container: NetworkNamespaceTarget & { readonly dns: readonly string[] },
    result: ContainerNetworkResult,
  ): Promise<boolean> {
    const endpoints = Object.entries(result.endpoints);
    const isLocal = endpoints.some(([name, { NetworkID }]) => this.#catalog.lookup(NetworkID ?? name));
    const { meshIp } = result;
    if (isLocal || meshIp === undefined) return false;
    const places = endpoints.flatMap(([, endpoint]) => {
      const { NetworkID: networkId, IPAddress, IPPrefixLen, DNSNames } = endpoint;
      if (networkId === undefined) return [];
      return [{ networkId, names: DNSNames ?? [], address: `${IPAddress}/${IPPrefixLen}` }];
    });
    const { containerId, pid, dns } = container;
    const target = { containerId, pid };
    const guest = { target, places, nameservers: dns, ports: publishedOf(result.ports) };
    this.#pending.set(containerId, { guest, meshIp });
    if (this.#guests !== undefined) this.set(this.#guests);
    return true;
  }

  #require(): GuestNetworks {
    if (this.#guests === undefined)
      throw new ClusterError(
        "unavailable",
        "Cannot connect the container: this machine has left the cluster",
      );
    return this.#guests;
  }
}
