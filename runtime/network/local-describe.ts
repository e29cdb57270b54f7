/** Local networks as Docker shows them, and Docker's filters over them. Pure. */
import { ClusterError } from "../../common/errors.ts";
import type { EndpointSettings, Filters, JsonObject } from "../../model/engine.ts";
import { checkFilterKeys, filterFlag, labelsPass } from "../../model/filters.ts";
import { bridgeName, PREDEFINED } from "./local-records.ts";
import type { LocalNetworkRecord } from "./local-records.ts";

export interface Ipv6Endpoint {
  readonly ip: string;
  readonly prefixLength: number;
  /** "" on internal networks. */
  readonly gateway: string;
}

/** A container's end on one network. */
export interface LocalEndpoint {
  readonly endpointId: string;
  readonly ip: string;
  readonly prefixLength: number;
  readonly gateway: string;
  /** Absent where the network has no IPv6, or the endpoint is older than that. */
  readonly ipv6?: Ipv6Endpoint;
  readonly mac: string;
  /** As the user gave them. */
  readonly settings: EndpointSettings;
  /** Names by which the network's name server knows it. */
  readonly dnsNames: readonly string[];
}

export interface EndpointOwner {
  readonly containerId: string;
  readonly containerName: string;
  readonly endpoint: LocalEndpoint;
}

/** Docker's network object. */
export function describeNetwork(record: LocalNetworkRecord, owners: readonly EndpointOwner[]): JsonObject {
  const all = record.ipv6Plan === undefined ? record.plans : [...record.plans, record.ipv6Plan];
  const plans = all.map((plan) => ({ ...plan }) as JsonObject);
  return {
    Name: record.name,
    Id: record.id,
    Created: record.created,
    Scope: "local",
    Driver: record.isConfigOnly ? "null" : record.driver,
    EnableIPv4: true,
    EnableIPv6: record.isIpv6Wanted,
    IPAM: {
      Driver: record.ipamDriver,
      Options: PREDEFINED.has(record.name) ? null : record.ipamOptions,
      Config: plans,
    },
    Internal: record.isInternal,
    Attachable: record.isAttachable,
    Ingress: false,
    ConfigFrom: { Network: record.configFrom },
    ConfigOnly: record.isConfigOnly,
    Containers: Object.fromEntries(
      owners.map(({ containerId, containerName, endpoint }) => [
        containerId,
        {
          Name: containerName,
          EndpointID: endpoint.endpointId,
          MacAddress: endpoint.mac,
          IPv4Address: `${endpoint.ip}/${endpoint.prefixLength}`,
          IPv6Address: endpoint.ipv6 === undefined ? "" : `${endpoint.ipv6.ip}/${endpoint.ipv6.prefixLength}`,
        },
      ]),
    ),
    Options: shownOptions(record),
    Labels: record.labels,
  };
}

function shownOptions(record: LocalNetworkRecord): Readonly<Record<string, string>> {
  const isDefault = record.driver === "bridge" && PREDEFINED.has(record.name);
  if (!isDefault) return record.options;
  return {
    ...record.options,
    "com.docker.network.bridge.name": bridgeName(record),
    "com.docker.network.driver.mtu": "1500",
  };
}

/** Docker's NetworkSettings.Networks entry. */
export function describeEndpoint(record: LocalNetworkRecord, endpoint: LocalEndpoint): EndpointSettings {
  const { settings } = endpoint;
  return {
    IPAMConfig: settings.IPAMConfig ?? null,
    Links: settings.Links ?? null,
    Aliases: settings.Aliases ?? null,
    DriverOpts: settings.DriverOpts ?? null,
    GwPriority: settings.GwPriority ?? 0,
    NetworkID: record.id,
    EndpointID: endpoint.endpointId,
    Gateway: endpoint.gateway,
    IPAddress: endpoint.ip,
    IPPrefixLen: endpoint.prefixLength,
    IPv6Gateway: endpoint.ipv6?.gateway ?? "",
    GlobalIPv6Address: endpoint.ipv6?.ip ?? "",
    GlobalIPv6PrefixLen: endpoint.ipv6?.prefixLength ?? 0,
    MacAddress: endpoint.mac,
    DNSNames: endpoint.dnsNames.length === 0 ? null : endpoint.dnsNames,
  };
}

const FILTERS: ReadonlySet<string> = new Set([
  "dangling",
  "driver",
  "id",
  "label",
  "label!",
  "name",
  "scope",
  "type",
  "until",
]);

function isOfType(record: LocalNetworkRecord, type: string): boolean {
  if (type !== "builtin" && type !== "custom")
    throw new ClusterError("invalid_argument", `invalid filter: 'type'='${type}'`);
  return PREDEFINED.has(record.name) === (type === "builtin");
}

function matchesOne(record: LocalNetworkRecord, key: string, value: string): boolean {
  switch (key) {
    case "name":
      return record.name.includes(value);
    case "id":
      return record.id.startsWith(value);
    case "driver":
      return record.driver === value;
    case "scope":
      return value === "local";
    case "type":
      return isOfType(record, value);
    default:
      return true;
  }
}

/** Docker's rules: labels must all match, of the other keys one value each. */
export function matchesFilters(record: LocalNetworkRecord, filters: Filters, isUsed: boolean): boolean {
  checkFilterKeys(filters, FILTERS);
  const isDangling = filterFlag(filters, "dangling");
  if (isDangling !== undefined && isDangling !== (!isUsed && !PREDEFINED.has(record.name))) return false;
  const others = [...filters].filter(([, values]) => values.length > 0);
  return (
    labelsPass(filters, record.labels) &&
    others.every(([key, values]) => values.map((value) => matchesOne(record, key, value)).some(Boolean))
  );
}
