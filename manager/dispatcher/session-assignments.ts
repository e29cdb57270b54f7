/**
 * What one session has been told, and what it has to be told next. Compares the shared picture with what was sent, so that
 * asking twice sends nothing twice. Synchronous; the dispatcher decides when to ask.
 */
import type { NetworkAssignment } from "../../model/dispatch.ts";
import type { Cluster, Config, Network, Secret, Task } from "../../model/objects.ts";
import type { StoreView } from "../../model/store-view.ts";
import { isTerminal, TaskState } from "../../model/task-state.ts";
import type { shoal } from "../../proto/messages.ts";
import type { ClusterPicture, NetworkTable } from "./cluster-picture.ts";
import { DOCUMENT_COUNT_MAX, GUEST_NETWORK_COUNT_MAX, MESH_VNI } from "./limits.ts";
import type { LoggedMap } from "./logged-map.ts";

export type AssignmentsMessage = shoal.v1.Assignments.$Properties;
type Document = shoal.v1.Document.$Properties;
type NetworkChange = shoal.v1.NetworkChange.$Properties;

const encoder = new TextEncoder();

function document(id: string, value: unknown): Document {
  return { id, json: encoder.encode(JSON.stringify(value)) };
}

/** Of values that many sessions are told: encoded once for all of them. */
const encodings = new WeakMap<object, Uint8Array>();

function sharedDocument(id: string, value: object): Document {
  let json = encodings.get(value);
  if (json === undefined) {
    json = encoder.encode(JSON.stringify(value));
    encodings.set(value, json);
  }
  return { id, json };
}

/** Differences of one logged table since `position`; everything, marked so, for a position that is unknown. */
interface TableDifference {
  readonly documents: Document[];
  readonly removed: string[];
  readonly isFull: boolean;
}

const NO_DIFFERENCE: TableDifference = { documents: [], removed: [], isFull: false };

function differences<V extends object>(
  table: LoggedMap<V>,
  position: number | undefined,
  skip?: string,
): TableDifference {
  if (position === table.end) return NO_DIFFERENCE;
  const changed = position === undefined ? undefined : table.changedSince(position);
  const documents: Document[] = [];
  const removed: string[] = [];
  for (const key of changed ?? table.values.keys()) {
    if (key === skip) continue;
    const value = table.values.get(key);
    if (value === undefined) removed.push(key);
    else documents.push(sharedDocument(key, value));
  }
  return { documents, removed, isFull: changed === undefined };
}

interface SentNetwork {
  readonly table: NetworkTable;
  readonly base: string;
  readonly endpointsEnd: number;
  readonly servicesEnd: number;
}

export interface NextOptions {
  readonly picture: ClusterPicture;
  readonly view: StoreView;
  /** The view's. */
  readonly cluster: Cluster | undefined;
  /** Tasks whose newest state is held back, with the state to tell instead (drain barrier). */
  readonly held: ReadonlyMap<string, Task>;
  /** False if nothing has happened to the node's own tasks since the last call: they are not looked at again. */
  readonly tasksChanged: boolean;
}

export class SessionAssignments {
  readonly #nodeId: string;
  #sequence: number;
  #isFirst = true;
  readonly #tasks = new Map<string, Task>();
  readonly #secrets = new Map<string, Secret>();
  readonly #configs = new Map<string, Config>();
  readonly #networks = new Map<string, SentNetwork>();
  readonly #images = new Map<string, string>();
  #imagesVersion = -1;
  /** What all but the node's own tasks was made of the last time; -1: look at it in any case. */
  #pictureVersion = -1;
  #cluster: Cluster | undefined;
  #wantedNetworks: ReadonlySet<string> = new Set();
  /** Names or ids, as the node gave them. */
  #guestNetworks: readonly string[] = [];
  #meshBase = "";
  #peersEnd: number | undefined;
  #ingressEnd: number | undefined;

  /** `sequence`: number of the last message of the session, from which this one, full again, goes on. */
  constructor(nodeId: string, sequence: number = 0) {
    this.#nodeId = nodeId;
    this.#sequence = sequence;
  }

  /** Number of the last message; 0 before the first. */
  get sequence(): number {
    return this.#sequence;
  }

  /** Networks that containers outside of any service use on the node, whole list. */
  setGuestNetworks(references: readonly string[]): void {
    this.#guestNetworks = references.slice(0, GUEST_NETWORK_COUNT_MAX);
    this.#pictureVersion = -1;
  }

  /** Messages that bring the worker up to date, in order; the first of a session is full. Empty if nothing has changed. */
  next(options: NextOptions): readonly AssignmentsMessage[] {
    const { cluster, picture, tasksChanged } = options;
    const isSame = this.#pictureVersion === picture.version && this.#cluster === cluster;
    if (isSame && !tasksChanged && !this.#isFirst) return NO_MESSAGES;
    this.#pictureVersion = picture.version;
    this.#cluster = cluster;
    const own = tasksChanged || this.#isFirst ? this.#ownChanges(options) : NOTHING;
    const parts = [
      own,
      this.#networkChanges(options),
      this.#meshChanges(options),
      this.#imageChanges(options),
    ];
    if (!this.#isFirst && parts.every(isEmpty)) return NO_MESSAGES;
    const full = this.#isFirst;
    this.#isFirst = false;
    return this.#cut(Object.assign({}, ...parts, { full }) as AssignmentsMessage);
  }

  #ownChanges(options: NextOptions): AssignmentsMessage {
    const tasks = this.#assigned(options);
    const live = [...tasks.values()].filter((task) => !isTerminal(task.status.state));
    this.#wantedNetworks = new Set(live.flatMap((task) => task.networks.map((each) => each.networkId)));
    return { ...this.#taskChanges(tasks), ...this.#dependencyChanges(live, options.view) };
  }

  #assigned({ picture, held }: NextOptions): ReadonlyMap<string, Task> {
    const tasks = new Map<string, Task>();
    for (const [id, task] of picture.tasksOn(this.#nodeId)) {
      // A task is the worker's from the moment the scheduler has put it there.
      if (task.status.state >= TaskState.assigned) tasks.set(id, held.get(id) ?? task);
    }
    // What is held is told as it was even when it is gone from the store.
    for (const [id, task] of held) {
      if (task.nodeId === this.#nodeId) tasks.set(id, task);
    }
    return tasks;
  }

  #taskChanges(tasks: ReadonlyMap<string, Task>): Pick<AssignmentsMessage, "tasks" | "removedTasks"> {
    const documents: Document[] = [];
    const removedTasks: string[] = [];
    for (const id of this.#tasks.keys()) {
      if (!tasks.has(id)) removedTasks.push(id);
    }
    for (const id of removedTasks) this.#tasks.delete(id);
    for (const [id, task] of tasks) {
      const sent = this.#tasks.get(id);
      this.#tasks.set(id, task);
      // The worker knows its own statuses: an echo of them would only cost.
      if (sent !== undefined && isOnlyStatus(sent, task)) continue;
      documents.push(document(id, task));
    }
    return { tasks: documents, removedTasks };
  }

  #dependencyChanges(
    live: readonly Task[],
    view: StoreView,
  ): Pick<AssignmentsMessage, "secrets" | "removedSecrets" | "configs" | "removedConfigs"> {
    const secretIds = new Set<string>();
    const configIds = new Set<string>();
    for (const { spec, desiredState } of live) {
      if (desiredState >= TaskState.shutdown) continue;
      for (const { SecretID } of spec.ContainerSpec.Secrets ?? []) secretIds.add(SecretID);
      for (const { ConfigID } of spec.ContainerSpec.Configs ?? []) configIds.add(ConfigID);
    }
    const secrets = changedObjects(this.#secrets, secretIds, (id) => view.get("secret", id));
    const configs = changedObjects(this.#configs, configIds, (id) => view.get("config", id));
    return {
      secrets: secrets.documents,
      removedSecrets: secrets.removed,
      configs: configs.documents,
      removedConfigs: configs.removed,
    };
  }

  #imageChanges({ picture }: NextOptions): Pick<AssignmentsMessage, "images" | "removedImages"> {
    if (this.#imagesVersion === picture.imagesVersion) return NOTHING;
    this.#imagesVersion = picture.imagesVersion;
    const kept = picture.imagesOf(this.#nodeId);
    const removedImages = [...this.#images.keys()].filter((id) => !kept.has(id));
    for (const id of removedImages) this.#images.delete(id);
    const images: Document[] = [];
    for (const [id, image] of kept) {
      const json = JSON.stringify(image);
      if (this.#images.get(id) === json) continue;
      this.#images.set(id, json);
      images.push({ id, json: encoder.encode(json) });
    }
    return { images, removedImages };
  }

  #networkChanges({
    picture,
  }: NextOptions): Pick<AssignmentsMessage, "networks" | "removedNetworks" | "networkChanges"> {
    const wanted = this.#allNetworks(picture);
    const networks: Document[] = [];
    const changes: NetworkChange[] = [];
    const removedNetworks: string[] = [];
    for (const id of this.#networks.keys()) if (!wanted.has(id)) removedNetworks.push(id);
    for (const id of removedNetworks) this.#networks.delete(id);
    for (const id of wanted) {
      const json = networkBase(picture.network(id));
      if (json === undefined) continue;
      const table = picture.table(id);
      let sent = this.#networks.get(id);
      // The tables are new when the network was made again under the same id, or the picture was drawn afresh.
      if (sent !== undefined && sent.table !== table) sent = undefined;
      const { end: endpointsEnd } = table.endpoints;
      const { end: servicesEnd } = table.services;
      const isSame =
        sent?.base === json && sent.endpointsEnd === endpointsEnd && sent.servicesEnd === servicesEnd;
      if (isSame) continue;
      if (sent?.base !== json) networks.push({ id, json: encoder.encode(json) });
      const change = networkChange(id, table, sent);
      if (change !== undefined) changes.push(change);
      this.#networks.set(id, { table, base: json, endpointsEnd, servicesEnd });
    }
    if (networks.length === 0 && removedNetworks.length === 0 && changes.length === 0) return NOTHING;
    return { networks, removedNetworks, networkChanges: changes };
  }

  /** Ids of the networks that the node's tasks use, and its guests. */
  #allNetworks(picture: ClusterPicture): ReadonlySet<string> {
    if (this.#guestNetworks.length === 0) return this.#wantedNetworks;
    const wanted = new Set(this.#wantedNetworks);
    for (const reference of this.#guestNetworks) {
      const id = picture.attachable(reference)?.id;
      if (id !== undefined) wanted.add(id);
    }
    return wanted;
  }

  #meshChanges({
    picture,
    cluster,
  }: NextOptions): Pick<
    AssignmentsMessage,
    "meshJson" | "peers" | "removedPeers" | "ingressPorts" | "removedIngressPorts"
  > {
    const subnet = picture.node(this.#nodeId)?.meshSubnet;
    if (subnet === undefined) return NOTHING;
    if (cluster === undefined) return NOTHING;
    const base = meshBase(cluster, subnet);
    const isSame = this.#peersEnd === picture.peers.end && this.#ingressEnd === picture.ingress.end;
    if (isSame && base === this.#meshBase) return NOTHING;
    const peers = differences(picture.peers, this.#peersEnd, this.#nodeId);
    const ingress = differences(picture.ingress, this.#ingressEnd);
    this.#peersEnd = picture.peers.end;
    this.#ingressEnd = picture.ingress.end;
    const isNewBase = base !== this.#meshBase;
    this.#meshBase = base;
    return {
      ...(isNewBase ? { meshJson: encoder.encode(base) } : {}),
      peers: peers.documents,
      removedPeers: peers.removed,
      ingressPorts: ingress.documents,
      removedIngressPorts: ingress.removed,
    };
  }

  /** Cuts a long message: networks and mesh first, so that tasks find them, then tasks in pieces. */
  #cut(message: AssignmentsMessage): readonly AssignmentsMessage[] {
    const tasks = message.tasks ?? [];
    const messages: AssignmentsMessage[] = [];
    for (let start = 0; start === 0 || start < tasks.length; start += DOCUMENT_COUNT_MAX) {
      const piece = tasks.slice(start, start + DOCUMENT_COUNT_MAX);
      this.#sequence += 1;
      messages.push(
        start === 0
          ? { ...message, tasks: piece, sequence: this.#sequence }
          : { tasks: piece, sequence: this.#sequence, full: false },
      );
    }
    return messages;
  }
}

function isOnlyStatus(sent: Task, task: Task): boolean {
  return (
    sent.desiredState === task.desiredState &&
    sent.specVersion === task.specVersion &&
    sent.networks.length === task.networks.length &&
    sent.ports.length === task.ports.length
  );
}

const NOTHING: AssignmentsMessage = {};
const NO_MESSAGES: readonly AssignmentsMessage[] = [];

function isEmpty(message: AssignmentsMessage): boolean {
  return (
    message === NOTHING || Object.values(message).every((value) => Array.isArray(value) && value.length === 0)
  );
}

function changedObjects<T extends { readonly version: number }>(
  sent: Map<string, T>,
  wanted: ReadonlySet<string>,
  get: (id: string) => T | undefined,
): { readonly documents: Document[]; readonly removed: string[] } {
  const removed = [...sent.keys()].filter((id) => !wanted.has(id));
  for (const id of removed) sent.delete(id);
  const documents: Document[] = [];
  for (const id of wanted) {
    const object = get(id);
    if (object === undefined || sent.get(id)?.version === object.version) continue;
    sent.set(id, object);
    documents.push(document(id, object));
  }
  return { documents, removed };
}

const networkBases = new WeakMap<Network, string>();

/** What a network is besides its tables, as JSON; undefined while it has no allocation. */
function networkBase(network: Network | undefined): string | undefined {
  if (network?.allocation === undefined) return undefined;
  let json = networkBases.get(network);
  if (json === undefined) {
    json = JSON.stringify(describeNetwork(network, network.allocation));
    networkBases.set(network, json);
  }
  return json;
}

function describeNetwork(
  network: Network,
  allocation: NonNullable<Network["allocation"]>,
): Omit<NetworkAssignment, "endpoints" | "services"> {
  return {
    networkId: network.id,
    name: network.spec.Name,
    vni: allocation.vni,
    subnets: allocation.subnets,
    isInternal: network.spec.Internal ?? false,
    isAttachable: network.spec.Attachable ?? false,
    options: network.spec.Options ?? {},
  };
}

/** The newest change of each network's tables: most sessions have been told the same before, and are told the same now. */
const lastChanges = new WeakMap<
  NetworkTable,
  {
    readonly fromEndpoints: number | undefined;
    readonly fromServices: number | undefined;
    readonly endpointsEnd: number;
    readonly servicesEnd: number;
    readonly change: NetworkChange | undefined;
  }
>();

function networkChange(
  networkId: string,
  table: NetworkTable,
  sent: SentNetwork | undefined,
): NetworkChange | undefined {
  const known = lastChanges.get(table);
  const isKnown =
    known !== undefined &&
    known.fromEndpoints === sent?.endpointsEnd &&
    known.fromServices === sent?.servicesEnd &&
    known.endpointsEnd === table.endpoints.end &&
    known.servicesEnd === table.services.end;
  if (isKnown) return known.change;
  const change = makeNetworkChange(networkId, table, sent);
  lastChanges.set(table, {
    fromEndpoints: sent?.endpointsEnd,
    fromServices: sent?.servicesEnd,
    endpointsEnd: table.endpoints.end,
    servicesEnd: table.services.end,
    change,
  });
  return change;
}

function makeNetworkChange(
  networkId: string,
  table: NetworkTable,
  sent: SentNetwork | undefined,
): NetworkChange | undefined {
  let endpoints = differences(table.endpoints, sent?.endpointsEnd);
  let services = differences(table.services, sent?.servicesEnd);
  const isFull = endpoints.isFull || services.isFull;
  // A full change replaces both halves, so both must be whole.
  if (isFull) {
    endpoints = differences(table.endpoints, undefined);
    services = differences(table.services, undefined);
  }
  const count =
    endpoints.documents.length +
    endpoints.removed.length +
    services.documents.length +
    services.removed.length;
  if (!isFull && count === 0) return undefined;
  return {
    networkId,
    full: isFull,
    endpoints: endpoints.documents,
    removedEndpoints: endpoints.removed,
    services: services.documents,
    removedServices: services.removed,
  };
}

/** Of each cluster object, by subnet. */
const meshBases = new WeakMap<Cluster, Map<string, string>>();

function meshBase(cluster: Cluster, subnet: string): string {
  let bases = meshBases.get(cluster);
  if (bases === undefined) {
    bases = new Map();
    meshBases.set(cluster, bases);
  }
  let json = bases.get(subnet);
  if (json === undefined) {
    const { dataPathPort, meshPool } = cluster;
    json = JSON.stringify({ pool: meshPool, subnet, vni: MESH_VNI, dataPathPort });
    bases.set(subnet, json);
  }
  return json;
}
