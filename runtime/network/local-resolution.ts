/** What containers on local networks are told of names: name servers for resolv.conf, lines for the hosts file. */
import type { AttachedNetworks, HostConfig } from "../../model/engine.ts";
import type { ContainerNetworkRequest, ContainerNetworkResult, NameServers } from "../ports.ts";
import type { DnsForwarder } from "./dns-forwarder.ts";
import type { LocalBridges } from "./local-bridges.ts";
import type { NetworkCatalog } from "./local-catalog.ts";
import type { LocalGuests } from "./local-guests.ts";
import type { Member, Members } from "./local-members.ts";
import { extraHosts, ownHosts, searchDomains, withDots } from "./local-results.ts";

export interface LocalResolutionDeps {
  readonly forwarder: DnsForwarder;
  readonly catalog: NetworkCatalog;
  readonly bridges: LocalBridges;
  readonly guests: LocalGuests;
  readonly members: Members;
}

export class LocalResolution {
  readonly #deps: LocalResolutionDeps;

  constructor(deps: LocalResolutionDeps) {
    this.#deps = deps;
  }

  /**
   * What goes into resolv.conf. A network that is not a bridge of ours has no name server of ours. The default bridge
   * knows no names, so its containers ask whom the user named, or whom the host asks, as with dockerd; ours passes on
   * where the host's servers are on its loopback, which a container can't reach.
   */
  nameservers(member: Member): NameServers {
    const host = this.#deps.forwarder.host().nameservers;
    const ids = Object.keys(member.endpoints);
    const named = ids.find((id) => this.#deps.catalog.get(id)?.name !== "bridge");
    const nameService = this.#deps.bridges.facts(named ?? ids[0] ?? "")?.gateway;
    if (nameService === undefined) return { nameservers: host };
    if (named !== undefined || this.#deps.guests.has(member.containerId))
      return { nameservers: [nameService], nameService };
    if (member.dns.length > 0) return { nameservers: member.dns };
    const reachable = host.filter((server) => !server.startsWith("127."));
    return { nameservers: reachable.length > 0 ? reachable : [nameService] };
  }

  /** All of a container's resolv.conf. */
  resolver(
    member: Member,
    hostConfig: HostConfig,
  ): NameServers & Pick<AttachedNetworks, "searchDomains" | "dnsOptions"> {
    const told = this.nameservers(member);
    const dnsOptions = hostConfig.DnsOptions ?? [];
    return {
      ...told,
      searchDomains: searchDomains(hostConfig, this.#deps.forwarder.host().search),
      dnsOptions: told.nameService === undefined ? dnsOptions : withDots(dnsOptions),
    };
  }

  /** What a container's hosts file has beyond localhost. */
  hosts(member: Member, request: ContainerNetworkRequest): ContainerNetworkResult["hosts"] {
    const { hostConfig } = request;
    const gateway = this.#deps.bridges.facts(Object.keys(member.endpoints)[0] ?? "")?.gateway ?? "";
    const ips = Object.values(member.endpoints).flatMap(({ ip, ipv6 }) => [ip, ipv6?.ip ?? ""]);
    return [...ownHosts(ips, request), ...this.#linkHosts(hostConfig), ...extraHosts(hostConfig, gateway)];
  }

  /** A local name server knows the cluster's names too, the cluster's does not know local ones. */
  namesOf(member: Member | undefined, clusterNames: NameServers | undefined): NameServers | undefined {
    const own = member === undefined ? undefined : this.nameservers(member);
    const isOurs = own?.nameService !== undefined || clusterNames?.nameService === undefined;
    return isOurs ? (own ?? clusterNames) : clusterNames;
  }

  /** `--link NAME:ALIAS`: the other container's address under its alias and name. */
  #linkHosts(hostConfig: HostConfig): { ip: string; names: string[] }[] {
    return (hostConfig.Links ?? []).flatMap((link) => {
      const [target = "", alias = target] = link.split(":").map((part) => part.split("/").at(-1) ?? part);
      const member = this.#deps.members.find(
        (each) => each.name === target || each.containerId.startsWith(target),
      );
      const [endpoint] = Object.values(member?.endpoints ?? {});
      if (member === undefined || endpoint === undefined) return [];
      return [
        { ip: endpoint.ip, names: [...new Set([alias, member.containerId.slice(0, 12), member.name])] },
      ];
    });
  }
}
