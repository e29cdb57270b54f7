/** Swarm networks in Docker's JSON, which differs between /networks and the attachments of tasks. Pure. */
import { ZERO_TIME } from "../../common/time.ts";
import type { NetworkAssignment } from "../../model/dispatch.ts";
import type { Network, Service, Task } from "../../model/objects.ts";
import type { StoreView } from "../../model/store-view.ts";
import { isTerminal } from "../../model/task-state.ts";
import { nodeName } from "../lookup.ts";
import { metaJson, withLabels } from "./meta.ts";

const VXLAN_OPTION = "com.docker.network.driver.overlay.vxlanid_list";

function driverOptions(network: Network): Readonly<Record<string, string>> {
  const { allocation, spec } = network;
  const vxlan = allocation === undefined ? {} : { [VXLAN_OPTION]: String(allocation.vni) };
  return { ...vxlan, ...spec.Options };
}

function ipamConfig(network: Network): readonly object[] {
  const given = network.spec.IPAM?.Config ?? [];
  const subnets = network.allocation?.subnets;
  if (subnets === undefined) return given;
  return subnets.map(({ subnet, gateway }) => {
    const own = given.find((config) => config.Subnet === subnet);
    return { ...own, Subnet: subnet, Gateway: gateway };
  });
}

/** The `Network` of a task's attachment. */
export function networkRefJson(network: Network): object {
  const { spec } = network;
  return {
    ...metaJson(network),
    Spec: {
      ...withLabels(spec),
      DriverConfiguration: { Name: spec.Driver ?? "overlay" },
      IPAMOptions: { Driver: { Name: spec.IPAM?.Driver ?? "default" } },
      Scope: "swarm",
    },
    DriverState: { Name: spec.Driver ?? "overlay", Options: driverOptions(network) },
    IPAMOptions: { Driver: { Name: spec.IPAM?.Driver ?? "default" }, Configs: ipamConfig(network) },
  };
}

export interface NetworkJson {
  readonly Name: string;
  readonly Id: string;
  readonly Created: string;
  readonly Scope: string;
  readonly Driver: string;
  readonly Labels: Readonly<Record<string, string>>;
  readonly [key: string]: unknown;
}

/** As GET /networks shows it on a manager, with or without a local endpoint. */
export function networkJson(network: Network): NetworkJson {
  const { spec } = network;
  return {
    Name: spec.Name,
    Id: network.id,
    Created: network.createdAt,
    Scope: "swarm",
    Driver: spec.Driver || "overlay",
    EnableIPv4: true,
    EnableIPv6: spec.EnableIPv6 ?? false,
    IPAM: {
      Driver: spec.IPAM?.Driver || "default",
      Options: spec.IPAM?.Options ?? null,
      Config: ipamConfig(network),
    },
    Internal: spec.Internal ?? false,
    Attachable: spec.Attachable ?? false,
    Ingress: spec.Ingress ?? false,
    ConfigFrom: { Network: spec.ConfigFrom?.Network ?? "" },
    ConfigOnly: spec.ConfigOnly ?? false,
    Containers: null,
    Options: driverOptions(network),
    Labels: spec.Labels ?? {},
  };
}

/** As a worker shows a network of the cluster that is set up on it: what its managers have told it, and no more. */
export function assignedNetworkJson(network: NetworkAssignment): NetworkJson {
  return {
    Name: network.name,
    Id: network.networkId,
    Created: ZERO_TIME,
    Scope: "swarm",
    Driver: "overlay",
    EnableIPv4: true,
    EnableIPv6: false,
    IPAM: {
      Driver: "default",
      Options: null,
      Config: network.subnets.map(({ subnet, gateway }) => ({ Subnet: subnet, Gateway: gateway })),
    },
    Internal: network.isInternal,
    Attachable: network.isAttachable ?? false,
    Ingress: false,
    ConfigFrom: { Network: "" },
    ConfigOnly: false,
    Containers: null,
    Options: { [VXLAN_OPTION]: String(network.vni), ...network.options },
    Labels: {},
  };
}

function taskEntry(task: Task, networkId: string, view: StoreView): object {
  const attachment = task.networks.find((each) => each.networkId === networkId);
  const node = view.get("node", task.nodeId);
  return {
    Name: task.name || `${task.serviceName}.${task.slot}.${task.id}`,
    EndpointID: "",
    EndpointIP: attachment?.addresses[0]?.split("/", 1)[0] ?? "",
    Info: { "Host IP": node?.status.addr ?? "" },
  };
}

function serviceEntry(service: Service, networkId: string, view: StoreView): object {
  const tasks = view
    .list("task", { kind: "service", serviceId: service.id })
    .filter(
      (task) => task.networks.some((each) => each.networkId === networkId) && !isTerminal(task.status.state),
    );
  return {
    VIP: service.endpoint?.virtualIps.find((vip) => vip.networkId === networkId)?.addr.split("/", 1)[0] ?? "",
    Ports: (service.endpoint?.ports ?? []).map(
      (port) => `Target: ${port.TargetPort}, Publish: ${port.PublishedPort}`,
    ),
    LocalLBIndex: 0,
    Tasks: tasks.map((task) => taskEntry(task, networkId, view)),
  };
}

/** The machines that have tasks on the network. */
function peersOf(network: Network, view: StoreView): readonly { Name: string; IP: string }[] {
  const tasks = view.list("task", { kind: "network", networkId: network.id });
  const nodeIds = new Set(tasks.filter((task) => !isTerminal(task.status.state)).map((task) => task.nodeId));
  return [...nodeIds].flatMap((nodeId) => {
    const node = view.get("node", nodeId);
    return node === undefined ? [] : [{ Name: nodeName(node), IP: node.dataPathAddress }];
  });
}

/** As a machine shows it that is one of its peers. */
export function peerNetworkJson(network: Network, view: StoreView): object {
  return { ...networkJson(network), Peers: peersOf(network, view) };
}

/** With `verbose`: the services on the network, too, with their addresses and tasks. */
export function verboseNetworkJson(network: Network, view: StoreView): object {
  const services = view.list("service", { kind: "network", networkId: network.id });
  return {
    ...peerNetworkJson(network, view),
    Services: Object.fromEntries(
      services.map((service) => [service.spec.Name, serviceEntry(service, network.id, view)]),
    ),
  };
}
