/** Small translations between what containers ask for, what they got, and Docker's shapes of it. Pure. */
import { ClusterError } from "../../common/errors.ts";
import type { EndpointSettings, HostConfig } from "../../model/engine.ts";
import type { ContainerNetworkRequest, ContainerNetworkResult } from "../ports.ts";
import type { EndpointOwner } from "./local-describe.ts";
import type { PortRequest, PublishedPort } from "./local-ports.ts";
import type { LocalNetworkRecord } from "./local-records.ts";

/** The interface with the highest gateway priority first, else in the order asked for. */
export function byGateway<T extends { readonly settings: EndpointSettings }>(wanted: readonly T[]): T[] {
  return wanted.toSorted((one, other) => (other.settings.GwPriority ?? 0) - (one.settings.GwPriority ?? 0));
}

/** Asks for exactly what was published before. */
export function asRequest(port: PublishedPort): PortRequest {
  const { protocol, containerPort, hostIp, hostPort, isDual = false } = port;
  return { protocol, containerPort, hostIp, isDual, first: hostPort, last: hostPort };
}

/** Docker's NetworkSettings.Ports. */
export function describePorts(ports: readonly PublishedPort[]): ContainerNetworkResult["ports"] {
  const described: Record<string, { HostIp: string; HostPort: string }[]> = {};
  for (const port of ports) {
    const key = `${port.containerPort}/${port.protocol}`;
    const HostPort = String(port.hostPort);
    const addresses = port.isDual === true ? [port.hostIp, "::"] : [port.hostIp];
    described[key] = [...(described[key] ?? []), ...addresses.map((HostIp) => ({ HostIp, HostPort }))];
  }
  return described;
}

export function publishedOf(ports: ContainerNetworkResult["ports"]): PublishedPort[] {
  return Object.entries(ports).flatMap(([key, bindings]) => {
    const [port = "", protocol] = key.split("/");
    const all = bindings ?? [];
    const has = (HostIp: string, HostPort: string): boolean =>
      all.some((each) => each.HostIp === HostIp && each.HostPort === HostPort);
    return all
      .filter(({ HostIp, HostPort }) => HostIp !== "::" || !has("0.0.0.0", HostPort))
      .map(({ HostIp, HostPort }) => ({
        protocol: protocol === "udp" ? ("udp" as const) : ("tcp" as const),
        containerPort: Number(port),
        hostIp: HostIp,
        ...(HostIp === "0.0.0.0" && has("::", HostPort) ? { isDual: true } : {}),
        hostPort: Number(HostPort),
      }));
  });
}

/** A container's own lines of its hosts file: its name with its domain, wherever that was given, then the bare one. */
export function ownHosts(
  ips: readonly string[],
  request: Pick<ContainerNetworkRequest, "name" | "hostname" | "config">,
): { ip: string; names: string[] }[] {
  const { name, hostname, config } = request;
  const domain = config.Domainname ?? "";
  const full = `${hostname === "" ? name : hostname}${domain === "" ? "" : `.${domain}`}`;
  const [bare = full] = full.split(".", 1);
  return ips.filter((ip) => ip !== "").map((ip) => ({ ip, names: bare === full ? [full] : [full, bare] }));
}

/** `--dns-search`, or where the host searches. */
export function searchDomains(hostConfig: HostConfig, ofHost: readonly string[]): readonly string[] {
  const own = hostConfig.DnsSearch ?? [];
  return own.length > 0 ? own : ofHost;
}

/** Names of one label are the embedded server's business before the search list is tried, unless the user says otherwise. */
export function withDots(options: readonly string[]): readonly string[] {
  return options.some((option) => option.startsWith("ndots:")) ? options : [...options, "ndots:0"];
}

/** `--add-host NAME:IP`, "host-gateway" standing for this host as the container reaches it. */
export function extraHosts(hostConfig: HostConfig, gateway: string): { ip: string; names: string[] }[] {
  return (hostConfig.ExtraHosts ?? []).map((entry) => {
    const at = entry.search(/[:=]/);
    const ip = entry.slice(at + 1);
    return { ip: ip === "host-gateway" ? gateway : ip, names: [entry.slice(0, at)] };
  });
}

/** Docker's sentence around a host port that could not be had; other errors as they are. */
export function publishFailure(caught: unknown, container: string, endpointId: string): ClusterError {
  const error = ClusterError.from(caught);
  if (!/port is already|bind host port|ports are allocated/.test(error.message)) return error;
  return new ClusterError(
    error.code,
    `driver failed programming external connectivity on endpoint ${container} (${endpointId}): ${error.message}`,
    { cause: caught },
  );
}

/** Why a network that containers are on can't be removed. */
export function inUse({ name }: LocalNetworkRecord, owners: readonly EndpointOwner[]): ClusterError {
  const shown = owners.map(
    ({ containerName, endpoint }) => `name:"${containerName}" id:"${endpoint.endpointId.slice(0, 12)}"`,
  );
  const list = shown.length === 0 ? "" : ` (${shown.join(", ")})`;
  return new ClusterError(
    "permission_denied",
    `error while removing network: network ${name} has active endpoints${list}`,
  );
}
