/** What other nodes must know of a task or service, derived from the store's objects. Pure. */
import { withoutMask } from "../../common/addresses.ts";
import { networksOf } from "../../model/defaults.ts";
import type { IngressPort, NetworkServiceRecord, PeerNode, RemoteEndpoint } from "../../model/dispatch.ts";
import { type Node, type NodeGuest, NodeState, type Service, type Task } from "../../model/objects.ts";
import { isTerminal, TaskState } from "../../model/task-state.ts";

/** A task takes traffic while it runs and is wanted to; while it runs and is not, it only finishes what it has. */
export function endpointState(task: Task): RemoteEndpoint["state"] | undefined {
  const { state } = task.status;
  if (task.nodeId === "" || state < TaskState.assigned || isTerminal(state)) return undefined;
  if (state < TaskState.running) return task.desiredState >= TaskState.shutdown ? undefined : "starting";
  return task.desiredState >= TaskState.shutdown ? "draining" : "ready";
}

/** The task's end on one network; undefined when it has none (any more). */
export function endpointOf(task: Task, networkId: string): RemoteEndpoint | undefined {
  const state = endpointState(task);
  const attachment = task.networks.find((each) => each.networkId === networkId);
  const address = attachment?.addresses[0];
  if (state === undefined || address === undefined) return undefined;
  const hostname = task.spec.ContainerSpec.Hostname;
  return {
    taskId: task.id,
    serviceId: task.serviceId,
    nodeId: task.nodeId,
    ip: withoutMask(address),
    state,
    // "web.1.TASKID" and, for people, "web.1", which passes from task to task of the slot.
    names: [task.name, task.name.replace(`.${task.id}`, ""), ...(hostname === undefined ? [] : [hostname])],
  };
}

/** The end of a container outside of any service; undefined until it has an address. */
export function guestEndpoint(guest: NodeGuest, nodeId: string): RemoteEndpoint | undefined {
  if (guest.address === "") return undefined;
  const { containerId: taskId, address, names } = guest;
  return { taskId, serviceId: "", nodeId, ip: withoutMask(address), state: "ready", names };
}

function sameTexts(left: readonly string[], right: readonly string[]): boolean {
  return left.length === right.length && left.every((text, index) => text === right[index]);
}

export function sameEndpoint(left: RemoteEndpoint, right: RemoteEndpoint): boolean {
  return (
    left.state === right.state &&
    left.ip === right.ip &&
    left.nodeId === right.nodeId &&
    sameTexts(left.names, right.names)
  );
}

/** The service's names and VIP on one network; undefined if it isn't attached to it. */
export function serviceRecord(service: Service, networkId: string): NetworkServiceRecord | undefined {
  const attachment = networksOf(service.spec).find((each) => each.Target === networkId);
  if (attachment === undefined) return undefined;
  const vip = service.endpoint?.virtualIps.find((each) => each.networkId === networkId)?.addr ?? "";
  return {
    serviceId: service.id,
    name: service.spec.Name,
    aliases: attachment.Aliases ?? [],
    vip: withoutMask(vip),
  };
}

export function sameServiceRecord(left: NetworkServiceRecord, right: NetworkServiceRecord): boolean {
  return left.name === right.name && left.vip === right.vip && sameTexts(left.aliases, right.aliases);
}

export function ingressPortKey(port: Pick<IngressPort, "protocol" | "publishedPort">): string {
  return `${port.protocol}/${port.publishedPort}`;
}

/** The service's ingress ports with the tasks behind them, in the order of task ids. */
export function ingressPorts(service: Service, tasks: Iterable<Task>): readonly IngressPort[] {
  const ports = (service.endpoint?.ports ?? []).filter((port) => port.PublishMode === "ingress");
  if (ports.length === 0) return [];
  const backends = [...tasks]
    .filter((task) => endpointState(task) === "ready" && (task.status.meshIp ?? "") !== "")
    .map((task) => ({ taskId: task.id, nodeId: task.nodeId, meshIp: task.status.meshIp ?? "" }))
    .sort((a, b) => (a.taskId < b.taskId ? -1 : 1));
  return ports.map((port) => ({
    serviceId: service.id,
    protocol: port.Protocol,
    publishedPort: port.PublishedPort,
    targetPort: port.TargetPort,
    backends,
  }));
}

export function sameIngressPort(left: IngressPort, right: IngressPort): boolean {
  return (
    left.serviceId === right.serviceId &&
    left.targetPort === right.targetPort &&
    left.backends.length === right.backends.length &&
    left.backends.every((each, index) => {
      const other = right.backends[index];
      return other?.taskId === each.taskId && other.meshIp === each.meshIp;
    })
  );
}

/** How the node is reached by others; undefined until it has had a session and a block of the mesh. */
export function peerOf(node: Node): PeerNode | undefined {
  if (node.rpcAddress === "" || node.meshSubnet === undefined) return undefined;
  return {
    nodeId: node.id,
    dataPathAddress: node.dataPathAddress,
    rpcAddress: node.rpcAddress,
    meshSubnet: node.meshSubnet,
  };
}

export function samePeer(left: PeerNode, right: PeerNode): boolean {
  return (
    left.dataPathAddress === right.dataPathAddress &&
    left.rpcAddress === right.rpcAddress &&
    left.meshSubnet === right.meshSubnet
  );
}

/** Whether what is asked of the node's tasks can be relied on: a node that is down serves nothing. */
export function isServing(node: Node | undefined): boolean {
  return node !== undefined && node.status.state !== NodeState.down;
}
