/**
 * What the sessions are told from, kept up to date by the store's events: tasks by node, endpoints and names by network,
 * ingress ports, peers. One for the leader, shared by all sessions; each table logs its changes so that a session is sent
 * differences only. Synchronous and without time.
 */
import { networksOf } from "../../model/defaults.ts";
import type {
  ImageAssignment,
  IngressPort,
  NetworkServiceRecord,
  PeerNode,
  RemoteEndpoint,
} from "../../model/dispatch.ts";
import { guestKey } from "../../model/node-guests.ts";
import type {
  ClusterImage,
  Network,
  Node,
  NodeGuest,
  Service,
  StoreEvent,
  Task,
} from "../../model/objects.ts";
import type { StoreView } from "../../model/store-view.ts";
import { TaskState, isTerminal } from "../../model/task-state.ts";
import {
  endpointOf,
  endpointState,
  guestEndpoint,
  ingressPortKey,
  ingressPorts,
  isServing,
  peerOf,
  sameEndpoint,
  sameIngressPort,
  samePeer,
  sameServiceRecord,
  serviceRecord,
} from "./endpoints.ts";
import { CHANGE_LOG_COUNT_MAX } from "./limits.ts";
import { LoggedMap } from "./logged-map.ts";

export interface NetworkTable {
  readonly endpoints: LoggedMap<RemoteEndpoint>;
  readonly services: LoggedMap<NetworkServiceRecord>;
}

const NO_IMAGES: ReadonlyMap<string, ImageAssignment> = new Map();

export class ClusterPicture {
  readonly #tasks = new Map<string, Task>();
  readonly #tasksByNode = new Map<string, Map<string, Task>>();
  readonly #tasksByService = new Map<string, Map<string, Task>>();
  readonly #services = new Map<string, Service>();
  readonly #nodes = new Map<string, Node>();
  readonly #networks = new Map<string, Network>();
  readonly #tables = new Map<string, NetworkTable>();
  #version = 0;
  readonly #changed = (): void => {
    this.#version += 1;
  };
  readonly #ingress = new LoggedMap<IngressPort>(sameIngressPort, CHANGE_LOG_COUNT_MAX, this.#changed);
  readonly #peers = new LoggedMap<PeerNode>(samePeer, CHANGE_LOG_COUNT_MAX, this.#changed);
  /** Keys under which a service's ports stand in #ingress now. */
  readonly #ingressKeys = new Map<string, ReadonlySet<string>>();
  /** What each node keeps for the cluster, by record. */
  readonly #imagesByNode = new Map<string, Map<string, ImageAssignment>>();
  #imagesVersion = 0;
  readonly #staleServices = new Set<string>();
  readonly #changedNodes = new Set<string>();

  constructor(view: StoreView) {
    for (const network of view.list("network")) this.#networks.set(network.id, network);
    for (const node of view.list("node")) this.#setNode(node);
    for (const image of view.list("image")) this.#setImage(image, undefined);
    for (const service of view.list("service")) this.#setService(service, undefined);
    for (const task of view.list("task")) this.#setTask(task, undefined);
  }

  /** Grows with each change of anything but tasks by node: while it stays, a session has only its own tasks to look at. */
  get version(): number {
    return this.#version;
  }

  get ingress(): LoggedMap<IngressPort> {
    return this.#ingress;
  }

  get peers(): LoggedMap<PeerNode> {
    return this.#peers;
  }

  node(nodeId: string): Node | undefined {
    return this.#nodes.get(nodeId);
  }

  network(networkId: string): Network | undefined {
    return this.#networks.get(networkId);
  }

  /** Grows with each change of who keeps what. */
  get imagesVersion(): number {
    return this.#imagesVersion;
  }

  /** Images that the node keeps for the cluster, by the record's id. */
  imagesOf(nodeId: string): ReadonlyMap<string, ImageAssignment> {
    return this.#imagesByNode.get(nodeId) ?? NO_IMAGES;
  }

  /** The network that containers outside of services may join, by id or name. */
  attachable(reference: string): Network | undefined {
    const found =
      this.#networks.get(reference) ??
      [...this.#networks.values()].find((network) => network.spec.Name === reference);
    return found?.spec.Attachable === true ? found : undefined;
  }

  task(taskId: string): Task | undefined {
    return this.#tasks.get(taskId);
  }

  tasksOn(nodeId: string): ReadonlyMap<string, Task> {
    return this.#tasksByNode.get(nodeId) ?? new Map<string, Task>();
  }

  /** Tables of a network; made when first asked for. */
  table(networkId: string): NetworkTable {
    const known = this.#tables.get(networkId);
    if (known !== undefined) return known;
    const table: NetworkTable = {
      endpoints: new LoggedMap<RemoteEndpoint>(sameEndpoint, CHANGE_LOG_COUNT_MAX, this.#changed),
      services: new LoggedMap<NetworkServiceRecord>(sameServiceRecord, CHANGE_LOG_COUNT_MAX, this.#changed),
    };
    this.#tables.set(networkId, table);
    return table;
  }

  /** True if others may send the task traffic, so that its end has to be announced. */
  isReachable(task: Task): boolean {
    if (endpointState(task) !== "ready" || !isServing(this.#nodes.get(task.nodeId))) return false;
    if (task.networks.length > 0) return true;
    return task.ports.some((port) => port.PublishMode === "ingress");
  }

  apply(event: StoreEvent): void {
    switch (event.table) {
      case "task":
        if (event.action === "remove") this.#removeTask(event.object);
        else this.#setTask(event.object, event.previous);
        return;
      case "service":
        if (event.action === "remove") this.#removeService(event.object);
        else this.#setService(event.object, event.previous);
        return;
      case "node":
        this.#changed();
        if (event.action === "remove") this.#removeNode(event.object);
        else this.#setNode(event.object);
        return;
      case "network":
        this.#changed();
        if (event.action === "remove") this.#removeNetwork(event.object);
        else this.#networks.set(event.object.id, event.object);
        return;
      case "image":
        this.#changed();
        if (event.action === "remove") this.#removeImage(event.object);
        else this.#setImage(event.object, event.previous);
        return;
      case "cluster":
      case "secret":
      case "config":
        return;
    }
  }

  /** Brings derived tables up to date after a run of apply(), and returns the nodes whose own tasks changed. */
  settle(): ReadonlySet<string> {
    for (const serviceId of this.#staleServices) this.#publish(serviceId);
    this.#staleServices.clear();
    const changed = new Set(this.#changedNodes);
    this.#changedNodes.clear();
    return changed;
  }

  #setTask(task: Task, previous: Task | undefined): void {
    if (previous !== undefined && previous.nodeId !== task.nodeId) this.#unplace(previous);
    this.#tasks.set(task.id, task);
    into(this.#tasksByService, task.serviceId).set(task.id, task);
    if (task.nodeId !== "") {
      into(this.#tasksByNode, task.nodeId).set(task.id, task);
      if (previous === undefined || !isEcho(previous, task)) this.#changedNodes.add(task.nodeId);
    }
    this.#setEndpoints(task);
    this.#staleServices.add(task.serviceId);
  }

  #setEndpoints(task: Task): void {
    const serves = isServing(this.#nodes.get(task.nodeId));
    for (const { networkId } of task.networks) {
      const endpoint = serves ? endpointOf(task, networkId) : undefined;
      if (endpoint === undefined) this.table(networkId).endpoints.delete(task.id);
      else this.table(networkId).endpoints.set(task.id, endpoint);
    }
  }

  #unplace(task: Task): void {
    this.#tasksByNode.get(task.nodeId)?.delete(task.id);
    this.#changedNodes.add(task.nodeId);
  }

  #removeTask(task: Task): void {
    const known = this.#tasks.get(task.id) ?? task;
    this.#tasks.delete(task.id);
    this.#unplace(known);
    this.#tasksByService.get(known.serviceId)?.delete(task.id);
    for (const { networkId } of known.networks) this.table(networkId).endpoints.delete(task.id);
    this.#staleServices.add(known.serviceId);
  }

  #setService(service: Service, previous: Service | undefined): void {
    this.#services.set(service.id, service);
    const now = new Set(networksOf(service.spec).map((each) => each.Target));
    for (const { Target } of previous === undefined ? [] : networksOf(previous.spec)) {
      if (!now.has(Target)) this.table(Target).services.delete(service.id);
    }
    for (const networkId of now) {
      const record = serviceRecord(service, networkId);
      if (record !== undefined) this.table(networkId).services.set(service.id, record);
    }
    this.#staleServices.add(service.id);
  }

  #removeService(service: Service): void {
    this.#services.delete(service.id);
    for (const { Target } of networksOf(service.spec)) this.table(Target).services.delete(service.id);
    this.#staleServices.add(service.id);
  }

  #setNode(node: Node): void {
    const before = this.#nodes.get(node.id);
    this.#nodes.set(node.id, node);
    const peer = peerOf(node);
    if (peer !== undefined) this.#peers.set(node.id, peer);
    this.#changedNodes.add(node.id);
    this.#setGuests(node, before);
    // Nothing is sent to a node that is down, and everything again once it is back.
    if (before !== undefined && isServing(before) !== isServing(node)) this.#nodeServingChanged(node.id);
  }

  #removeNode(node: Node): void {
    this.#nodes.delete(node.id);
    this.#peers.delete(node.id);
    for (const guest of node.guests ?? []) this.#setGuest(guest, node.id, undefined);
    this.#nodeServingChanged(node.id);
  }

  #setGuests(node: Node, before: Node | undefined): void {
    const staying = new Set(node.guests?.map(guestKey));
    for (const guest of before?.guests ?? [])
      if (!staying.has(guestKey(guest))) this.#setGuest(guest, node.id, undefined);
    for (const guest of node.guests ?? [])
      this.#setGuest(guest, node.id, isServing(node) ? guestEndpoint(guest, node.id) : undefined);
  }

  /** A node has no say over endpoints of others, whatever it calls its guests. */
  #setGuest(guest: NodeGuest, nodeId: string, endpoint: RemoteEndpoint | undefined): void {
    if (!this.#networks.has(guest.networkId)) return;
    const { endpoints } = this.table(guest.networkId);
    const { containerId } = guest;
    const holder = endpoints.values.get(containerId)?.nodeId;
    if (this.#tasks.has(containerId) || (holder !== undefined && holder !== nodeId)) return;
    if (endpoint === undefined) endpoints.delete(containerId);
    else endpoints.set(containerId, endpoint);
  }

  #nodeServingChanged(nodeId: string): void {
    for (const task of this.tasksOn(nodeId).values()) {
      this.#setEndpoints(task);
      this.#staleServices.add(task.serviceId);
    }
  }

  #setImage(image: ClusterImage, previous: ClusterImage | undefined): void {
    if (previous !== undefined) this.#removeImage(previous);
    const { Name: name, Digest: digest } = image.spec;
    for (const { nodeId } of image.holders) {
      const kept = this.#imagesByNode.get(nodeId) ?? new Map<string, ImageAssignment>();
      this.#imagesByNode.set(nodeId, kept);
      kept.set(image.id, { name, digest });
    }
    this.#imagesVersion += 1;
  }

  #removeImage(image: ClusterImage): void {
    for (const { nodeId } of image.holders) {
      const kept = this.#imagesByNode.get(nodeId);
      kept?.delete(image.id);
      if (kept?.size === 0) this.#imagesByNode.delete(nodeId);
    }
    this.#imagesVersion += 1;
  }

  #removeNetwork(network: Network): void {
    this.#networks.delete(network.id);
    this.#tables.delete(network.id);
  }

  #publish(serviceId: string): void {
    const service = this.#services.get(serviceId);
    const tasks = [...(this.#tasksByService.get(serviceId)?.values() ?? [])].filter((task) =>
      isServing(this.#nodes.get(task.nodeId)),
    );
    const ports = service === undefined ? [] : ingressPorts(service, tasks);
    const keys = new Set(ports.map(ingressPortKey));
    for (const key of this.#ingressKeys.get(serviceId) ?? []) {
      // Another service may have taken the port over since.
      if (!keys.has(key) && this.#ingress.values.get(key)?.serviceId === serviceId) this.#ingress.delete(key);
    }
    for (const port of ports) this.#ingress.set(ingressPortKey(port), port);
    if (keys.size === 0) this.#ingressKeys.delete(serviceId);
    else this.#ingressKeys.set(serviceId, keys);
    if (service === undefined && (this.#tasksByService.get(serviceId)?.size ?? 0) === 0) {
      this.#tasksByService.delete(serviceId);
    }
  }
}

function into(index: Map<string, Map<string, Task>>, key: string): Map<string, Task> {
  const known = index.get(key);
  if (known !== undefined) return known;
  const made = new Map<string, Task>();
  index.set(key, made);
  return made;
}

/** True if the task's way towards its end is all that changed, which its worker told of itself and needn't be told again. */
function isEcho(previous: Task, task: Task): boolean {
  return (
    previous.status.state >= TaskState.assigned &&
    !isTerminal(task.status.state) &&
    previous.nodeId === task.nodeId &&
    previous.desiredState === task.desiredState &&
    previous.spec === task.spec &&
    previous.networks === task.networks &&
    previous.ports === task.ports
  );
}
