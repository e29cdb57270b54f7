/** Creating and removing networks: plans of transactions. Addresses and VNIs are the allocator's. */
import { overlaps } from "../../common/cidr.ts";
import { ClusterError } from "../../common/errors.ts";
import { type Network, NodeState, type Service } from "../../model/objects.ts";
import { isLive, isTerminal } from "../../model/task-state.ts";
import type { Transaction } from "../store/store.ts";
import { checkNameFree, existing } from "./lookup.ts";
import { checkNetworkSpec, ipv4Block } from "./validate/other-specs.ts";
import { refuse } from "./validate/rules.ts";

export function createNetwork(
  tx: Transaction,
  plan: { readonly id: string; readonly spec: unknown },
): readonly string[] {
  if (tx.get("network", plan.id) !== undefined) return [];
  const spec = checkNetworkSpec(plan.spec);
  checkNameFree(tx, "network", { id: plan.id, name: spec.Name });
  if (spec.Ingress === true) {
    const present = tx.list("network").find((each) => each.spec.Ingress === true);
    if (present !== undefined) {
      throw new ClusterError("already_exists", `ingress network (${present.id}) is already present`);
    }
  }
  for (const config of spec.IPAM?.Config ?? []) if (config.Subnet) checkDisjoint(tx, config.Subnet);
  tx.create("network", { id: plan.id, spec: { ...spec, Driver: spec.Driver || "overlay", Scope: "swarm" } });
  return [];
}

function checkDisjoint(tx: Transaction, subnet: string): void {
  const wanted = ipv4Block(subnet);
  if (wanted === undefined) throw refuse(`invalid subnet ${subnet}`);
  for (const network of tx.list("network")) {
    for (const held of subnetsOf(network)) {
      const block = ipv4Block(held);
      if (block === undefined || !overlaps(block, wanted)) continue;
      throw new ClusterError(
        "permission_denied",
        `invalid pool request: Pool overlaps with other one on this address space: ${subnet} and ${held} of network ${network.spec.Name}`,
        { details: { networkId: network.id } },
      );
    }
  }
}

function subnetsOf(network: Network): readonly string[] {
  const asked = (network.spec.IPAM?.Config ?? []).flatMap((config) => (config.Subnet ? [config.Subnet] : []));
  return network.allocation === undefined ? asked : network.allocation.subnets.map((each) => each.subnet);
}

/**
 * Services, their tasks of earlier specs, and containers outside of services count: tasks that are still stopping give the
 * network up by themselves.
 */
export function removeNetwork(tx: Transaction, id: string): undefined {
  const network = existing(tx, "network", id);
  const users = network.spec.Ingress === true ? ingressUsers(tx) : attachedServices(tx, id);
  const user = users[0];
  if (user !== undefined) {
    throw new ClusterError(
      "failed_precondition",
      network.spec.Ingress === true
        ? `ingress network cannot be removed because service ${user.id} depends on it`
        : `network ${network.id} is in use by service ${user.id}`,
      { details: { networkId: network.id, serviceId: user.id } },
    );
  }
  refuseIfAtWork(tx, network);
  refuseIfJoined(tx, network);
  tx.remove("network", id);
  return undefined;
}

/** An update that goes on, or is paused, has tasks of the spec before it. Those of a service that is gone are told to stop soon. */
function refuseIfAtWork(tx: Transaction, { id }: Network): void {
  const user = tx
    .list("task")
    .find(
      (task) =>
        isLive(task) &&
        !isTerminal(task.status.state) &&
        task.networks.some((each) => each.networkId === id) &&
        tx.get("service", task.serviceId) !== undefined &&
        tx.get("node", task.nodeId)?.status.state !== NodeState.down,
    );
  if (user === undefined) return;
  throw new ClusterError("failed_precondition", `network ${id} is in use by task ${user.id}`, {
    details: { networkId: id, taskId: user.id },
  });
}

/** What a node that is down has said of its containers holds nobody up. */
function refuseIfJoined(tx: Transaction, { id }: Network): void {
  for (const node of tx.list("node")) {
    if (node.status.state === NodeState.down) continue;
    const guest = node.guests?.find((each) => each.networkId === id);
    if (guest === undefined) continue;
    throw new ClusterError(
      "failed_precondition",
      `network ${id} is in use by container ${guest.containerId.slice(0, 12)} on node ${node.id}`,
      { details: { networkId: id, nodeId: node.id } },
    );
  }
}

function attachedServices(tx: Transaction, id: string): readonly Service[] {
  return tx
    .list("service")
    .filter((service) =>
      [...(service.spec.TaskTemplate.Networks ?? []), ...(service.spec.Networks ?? [])].some(
        (attachment) => attachment.Target === id,
      ),
    );
}

function ingressUsers(tx: Transaction): readonly Service[] {
  return tx
    .list("service")
    .filter((service) =>
      (service.spec.EndpointSpec?.Ports ?? []).some((port) => port.PublishMode !== "host"),
    );
}
