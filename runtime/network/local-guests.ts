/**
 * Containers of this machine that ask for networks of the cluster: passes them on to the worker's network, and remembers
 * which they are. Used by local-networks.ts alone; without a cluster there are none.
 */
import { createHash } from "node:crypto";
import { ClusterError } from "../../common/errors.ts";
import type { Logger } from "../../common/log.ts";
import type {
  ClusterNetwork,
  EndpointSettings,
  Guest,
  GuestNetworks,
  GuestPlace,
  NameDirectory,
  NetworkNamespaceTarget,
} from "../../model/engine.ts";
import type {
  ContainerDirectory,
  ContainerNetworkRequest,
  ContainerNetworkResult,
  NameServers,
} from "../ports.ts";
import type { NetworkCatalog } from "./local-catalog.ts";
import { portRequests } from "./local-ports.ts";
import type { PublishedPort } from "./local-ports.ts";
import {
  describePorts,
  extraHosts,
  ownHosts,
  publishedOf,
  searchDomains,
  withDots,
} from "./local-results.ts";

type Request = Omit<ContainerNetworkRequest, "target">;
type Endpoints = Readonly<Record<string, EndpointSettings>>;

interface Known {
  readonly guest: Guest;
  /** By network name, with what the user asked for. */
  readonly endpoints: Endpoints;
  /** Where it is on the mesh. */
  readonly meshIp: string | undefined;
}

/** Networks that a container names, its mode's first. */
function references(request: Request): string[] {
  const mode = request.hostConfig.NetworkMode ?? "";
  const asked = Object.keys(request.networkingConfig?.EndpointsConfig ?? {});
  return [...new Set([mode === "" ? "default" : mode, ...asked])];
}

type Named = Pick<ReturnType<ContainerDirectory["find"]>, "id" | "name" | "hostname">;

/** The container's names on the network and the address that it asks for there. */
function placeOf(container: Named, network: ClusterNetwork, settings: EndpointSettings): GuestPlace {
  const names = [
    container.name,
    ...(settings.Aliases ?? []),
    container.id.slice(0, 12),
    container.hostname,
  ].filter((name) => name !== "");
  return {
    networkId: network.id,
    names: [...new Set(names)],
    address: settings.IPAMConfig?.IPv4Address ?? "",
  };
}

/** The request without these networks; another takes the place of the mode's. */
function without<T extends Request>(request: T, foreign: readonly string[]): T {
  const { hostConfig, networkingConfig } = request;
  const isOurs = (reference: string): boolean => !foreign.includes(reference);
  const [first = "default"] = references(request).filter(isOurs);
  const own = Object.entries(networkingConfig?.EndpointsConfig ?? {}).filter(([name]) => isOurs(name));
  return {
    ...request,
    hostConfig: { ...hostConfig, NetworkMode: first },
    networkingConfig: { EndpointsConfig: Object.fromEntries(own) },
  };
}

function withSettings(attached: Endpoints, settings: Endpoints): Endpoints {
  return Object.fromEntries(
    Object.entries(attached).map(([name, endpoint]) => {
      const asked = settings[name] ?? settings[endpoint.NetworkID ?? ""];
      return [name, { ...asked, ...endpoint }];
    }),
  );
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
  /** By container. */
  readonly #known = new Map<string, Known>();
  /** Found at the daemon's start, before the cluster was there, with their addresses on the mesh. */
  readonly #pending = new Map<string, string>();
  #guests: GuestNetworks | undefined;

  constructor(catalog: NetworkCatalog, log: Logger) {
    this.#catalog = catalog;
    this.#log = log;
  }

  get isUp(): boolean {
    return this.#guests !== undefined;
  }

  set(guests: GuestNetworks | undefined): void {
    this.#guests = guests;
    if (guests === undefined) return;
    for (const [containerId, meshIp] of this.#pending) {
      const known = this.#known.get(containerId);
      if (known === undefined) continue;
      guests.adopt(known.guest, meshIp).catch((caught: unknown) =>
        this.#log.warn("a container's place on a network of the cluster could not be taken over", {
          containerId,
          error: ClusterError.from(caught),
        }),
      );
    }
    this.#pending.clear();
  }

  async open(reference: string): Promise<ClusterNetwork> {
    const opened = await this.#require().open(reference);
    if (opened === undefined) throw new ClusterError("not_found", `network ${reference} not found`);
    return opened;
  }

  /** The request's networks of the cluster, and what it asks of this machine's; undefined if that is nothing. */
  async split<T extends Request>(
    request: T,
  ): Promise<{ readonly foreign: readonly string[]; readonly local: T | undefined }> {
    const wanted = references(request);
    const foreign = wanted.filter((reference) => this.#catalog.lookup(reference) === undefined);
    if (foreign.length === 0 || this.#guests === undefined) return { foreign: [], local: request };
    await Promise.all(foreign.map((reference) => this.open(reference)));
    if (foreign.length < wanted.length) return { foreign, local: without(request, foreign) };
    publishedPorts(request);
    return { foreign, local: undefined };
  }

  /** Connects a container that starts. */
  async attach(
    request: ContainerNetworkRequest,
    how: {
      readonly foreign: readonly string[];
      readonly isLedOut: boolean;
      /** Local networks publish its ports. */
      readonly isLocalToo: boolean;
    },
  ): Promise<ContainerNetworkResult> {
    const { target, hostConfig } = request;
    const { foreign, isLedOut, isLocalToo } = how;
    const id = target.containerId;
    const settings = request.networkingConfig?.EndpointsConfig ?? {};
    const places = await Promise.all(
      foreign.map(async (reference) => {
        const opened = await this.open(reference);
        const own = settings[reference] ?? settings[opened.name] ?? settings[opened.id] ?? {};
        return placeOf({ ...request, id }, opened, own);
      }),
    );
    const ports = isLocalToo ? [] : publishedPorts(request);
    const guest = { target, places, nameservers: hostConfig.Dns ?? [], ports, isLedOut };
    const attached = await this.#require().attach(guest);
    const { meshIp } = attached;
    this.#known.set(id, { guest, meshIp, endpoints: withSettings(attached.endpoints, settings) });
    const dnsOptions = hostConfig.DnsOptions ?? [];
    const ips = Object.values(attached.endpoints).map(({ IPAddress = "" }) => IPAddress);
    return {
      ...attached,
      searchDomains: searchDomains(hostConfig, attached.searchDomains),
      dnsOptions: attached.dnsOptions.length === 0 ? dnsOptions : withDots(dnsOptions),
      ports: describePorts(ports),
      hosts: [
        ...ownHosts(ips, request),
        ...(isLocalToo ? [] : extraHosts(hostConfig, attached.nameservers[0] ?? "")),
      ],
      sandboxId: createHash("sha256").update(`${id} ${target.pid}`).digest("hex"),
    };
  }

  /** Puts a container that runs on one more network. */
  async join(
    container: ReturnType<ContainerDirectory["find"]>,
    network: ClusterNetwork,
    { settings, isLedOut }: { readonly settings: EndpointSettings; readonly isLedOut: boolean },
  ): Promise<NameServers> {
    const { id, pid, dns } = container;
    const known = this.#known.get(id);
    const target = { containerId: id, pid };
    const former = known?.guest ?? { target, places: [], nameservers: dns, ports: [] };
    const places = [...former.places, placeOf(container, network, settings)];
    return this.#change({ ...former, places, isLedOut }, { ...known?.endpoints, [network.name]: settings });
  }

  /** Takes a container that runs off a network. */
  async leave(containerId: string, networkId: string, isLedOut: boolean): Promise<NameServers | undefined> {
    const known = this.#known.get(containerId);
    if (known === undefined) return undefined;
    if (this.#pending.has(containerId))
      throw new ClusterError(
        "unavailable",
        "Cannot disconnect the container: the cluster's network is not up yet",
        { retryable: true },
      );
    const places = known.guest.places.filter((place) => place.networkId !== networkId);
    if (places.length > 0) return this.#change({ ...known.guest, places, isLedOut }, known.endpoints);
    // Its interface goes at once, which detach() leaves to the container's end.
    if (this.#guests !== undefined)
      await this.#change({ ...known.guest, places, ports: [], isLedOut: true }, {});
    await this.detach(containerId);
    return undefined;
  }

  /** The container's local networks have changed: without a way out there it gets one of the cluster's. */
  async lead(containerId: string, isLedOut: boolean): Promise<NameServers | undefined> {
    const known = this.#known.get(containerId);
    if (known === undefined || this.#guests === undefined) return undefined;
    return this.#change({ ...known.guest, isLedOut }, known.endpoints);
  }

  has(containerId: string): boolean {
    return this.#known.has(containerId);
  }

  describe(containerId: string): Endpoints {
    return this.#known.get(containerId)?.endpoints ?? {};
  }

  meshIp(containerId: string): string | undefined {
    return this.#known.get(containerId)?.meshIp;
  }

  names(containerId: string): NameDirectory | undefined {
    return this.has(containerId) ? this.#guests?.names(containerId) : undefined;
  }

  async detach(containerId: string): Promise<void> {
    const wasPending = this.#pending.delete(containerId);
    if (this.#known.delete(containerId) && !wasPending) await this.#guests?.detach(containerId);
  }

  /** The container, which runs since before this daemon, may be a guest. True if it is nothing else. */
  adopt(
    container: NetworkNamespaceTarget & { readonly dns: readonly string[] },
    result: ContainerNetworkResult,
  ): boolean {
    const all = Object.entries(result.endpoints);
    const ours = all.filter(
      ([name, { NetworkID = "", IPAddress = "" }]) =>
        NetworkID !== "" && IPAddress !== "" && this.#catalog.lookup(NetworkID || name) === undefined,
    );
    if (ours.length === 0) return false;
    const places = ours.map(([, { NetworkID = "", IPAddress, IPPrefixLen, DNSNames }]) => ({
      networkId: NetworkID,
      names: DNSNames ?? [],
      address: `${IPAddress}/${IPPrefixLen}`,
    }));
    const { containerId, pid, dns } = container;
    const { meshIp } = result;
    const isLedOut = meshIp === undefined;
    const ports = isLedOut ? [] : publishedOf(result.ports);
    const guest = { target: { containerId, pid }, places, nameservers: dns, ports, isLedOut };
    this.#known.set(containerId, { guest, meshIp, endpoints: Object.fromEntries(ours) });
    this.#pending.set(containerId, meshIp ?? "");
    if (this.#guests !== undefined) this.set(this.#guests);
    return ours.length === all.length;
  }

  async #change(guest: Guest, settings: Endpoints): Promise<NameServers> {
    const { endpoints, nameservers, nameService, meshIp } = await this.#require().attach(guest);
    const known = { guest, meshIp, endpoints: withSettings(endpoints, settings) };
    this.#known.set(guest.target.containerId, known);
    return { nameservers, ...(nameService === undefined ? {} : { nameService }) };
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
