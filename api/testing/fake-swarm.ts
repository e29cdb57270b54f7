/**
 * A place in a cluster for tests of the API: a small store in memory behind ClusterControl, with versions, stale-write
 * refusal and watch, and no loops. Tests put nodes and tasks there themselves.
 */
import { BoundedQueue } from "../../common/bounded-queue.ts";
import { ClusterError } from "../../common/errors.ts";
import { imageByName } from "../../model/cluster-images.ts";
import type {
  ClusterControl,
  CommittedChanges,
  ClusterLogLine,
  SwarmLifecycle,
  SwarmState,
  Written,
} from "../../model/cluster-control.ts";
import {
  NodeState,
  TABLE_NAMES,
  type Cluster,
  type Node,
  type Service,
  type StoreEvent,
  type TableName,
  type TableTypes,
  type Task,
} from "../../model/objects.ts";
import type { ImageDescription } from "../../model/engine.ts";
import type { ServiceSpec } from "../../model/specs.ts";
import type { By, StoreView } from "../../model/store-view.ts";
import { TaskState } from "../../model/task-state.ts";

const STAMP = "2026-01-02T03:04:05.000000006Z";
const WATCH_COUNT_MAX = 1000;
type AnyObject = TableTypes[TableName];
/** What put() fills in. */
type Draft<K extends TableName> = Omit<TableTypes[K], "version" | "createdAt" | "updatedAt">;

function nameOf(object: AnyObject): string {
  if ("serviceName" in object) return object.name;
  return "Name" in object.spec ? (object.spec.Name ?? "") : "";
}

function usesNetwork(object: AnyObject, networkId: string): boolean {
  if ("networks" in object) return object.networks.some((each) => each.networkId === networkId);
  if (!("TaskTemplate" in object.spec)) return false;
  return (object.spec.TaskTemplate.Networks ?? []).some((each) => each.Target === networkId);
}

function matches(object: AnyObject, by: By): boolean {
  switch (by.kind) {
    case "all":
      return true;
    case "name":
      return nameOf(object) === by.name;
    case "namePrefix":
      return nameOf(object).startsWith(by.prefix);
    case "idPrefix":
      return object.id.startsWith(by.prefix);
    case "service":
      return "serviceId" in object && object.serviceId === by.serviceId;
    case "node":
      return "nodeId" in object && object.nodeId === by.nodeId;
    case "slot":
      return "serviceId" in object && object.serviceId === by.serviceId && object.slot === by.slot;
    case "network":
      return usesNetwork(object, by.networkId);
    case "secret":
    case "config":
      return false;
  }
}

class FakeStore implements StoreView {
  readonly #tables = new Map<TableName, Map<string, AnyObject>>(TABLE_NAMES.map((name) => [name, new Map()]));
  readonly #watchers = new Set<BoundedQueue<CommittedChanges>>();
  readonly #history: CommittedChanges[] = [];
  version = 10;
  /** Changes up to it are not kept for watchers. */
  forgottenVersion = 0;
  #ids = 0;

  newId(): string {
    this.#ids += 1;
    return `${this.#ids.toString(36).padStart(24, "0")}x`;
  }

  get<K extends TableName>(table: K, id: string): TableTypes[K] | undefined {
    return this.#table(table).get(id);
  }

  list<K extends TableName>(table: K, by: By = { kind: "all" }): readonly TableTypes[K][] {
    return [...this.#table(table).values()]
      .filter((object) => matches(object, by))
      .sort((left, right) => (left.id < right.id ? -1 : 1));
  }

  put<K extends TableName>(table: K, draft: Draft<K>): TableTypes[K] {
    this.version += 1;
    const previous = this.#table(table).get(draft.id);
    const stamps = { version: this.version, createdAt: previous?.createdAt ?? STAMP, updatedAt: STAMP };
    const object = { ...draft, ...stamps } as unknown as TableTypes[K];
    this.#table(table).set(draft.id, object);
    this.#publish(table, previous === undefined ? "create" : "update", object, previous);
    return object;
  }

  remove(table: TableName, id: string): void {
    const object = this.get(table, id);
    if (object === undefined) throw new ClusterError("not_found", `${table} ${id} not found`);
    this.version += 1;
    this.#table(table).delete(id);
    this.#publish(table, "remove", object, object);
  }

  get watcherCount(): number {
    return this.#watchers.size;
  }

  watch(signal: AbortSignal, after?: number): AsyncIterable<CommittedChanges> {
    if (after !== undefined && after < this.forgottenVersion)
      throw new ClusterError("expired", `Changes after version ${after} are not kept any more`);
    const queue = new BoundedQueue<CommittedChanges>(WATCH_COUNT_MAX);
    if (after !== undefined)
      for (const commit of this.#history) if (commit.version > after) queue.push(commit);
    this.#watchers.add(queue);
    signal.addEventListener(
      "abort",
      () => {
        queue.close();
        this.#watchers.delete(queue);
      },
      { once: true },
    );
    return queue;
  }

  #publish(table: TableName, action: string, object: AnyObject, previous: AnyObject | undefined): void {
    const event = { table, action, object, previous, version: this.version } as unknown as StoreEvent;
    const commit = { version: this.version, events: [event] };
    this.#history.push(commit);
    for (const watcher of this.#watchers) watcher.push(commit);
  }

  #table<K extends TableName>(table: K): Map<string, TableTypes[K]> {
    return this.#tables.get(table) as unknown as Map<string, TableTypes[K]>;
  }
}

const TLS = {
  TrustRoot: "-----BEGIN CERTIFICATE-----\n",
  CertIssuerSubject: "c3ViamVjdA==",
  CertIssuerPublicKey: "a2V5",
};

export class FakeSwarm implements SwarmLifecycle {
  readonly store: FakeStore = new FakeStore();
  logLines: readonly ClusterLogLine[] = [];
  readonly calls: string[] = [];
  /** Images of nodes, by "NODE NAME". */
  readonly images: Map<string, ImageDescription> = new Map();
  current: SwarmState = {
    localNodeState: "inactive",
    nodeId: "",
    nodeAddr: "",
    isManager: false,
    error: "",
    remoteManagers: [],
  };
  readonly #control: ClusterControl = this.#makeControl();

  state(): SwarmState {
    return this.current;
  }

  control(): ClusterControl | undefined {
    return this.current.isManager ? this.#control : undefined;
  }

  async init(): Promise<string> {
    const node = this.putNode("host-a", { manager: { raftId: 1, addr: "127.0.0.1:2377" } });
    this.store.put("cluster", fakeCluster(this.store.newId()));
    this.current = {
      localNodeState: "active",
      nodeId: node.id,
      nodeAddr: "127.0.0.1",
      isManager: true,
      error: "",
      remoteManagers: [{ NodeID: node.id, Addr: "127.0.0.1:2377" }],
    };
    return node.id;
  }

  async join(): Promise<void> {
    this.current = { ...this.current, localNodeState: "active", nodeId: this.store.newId() };
  }

  async describeImage(nodeId: string, reference: string): Promise<ImageDescription> {
    const image = this.images.get(`${nodeId} ${reference}`);
    if (image === undefined) throw new ClusterError("not_found", `No such image: ${reference}`);
    return image;
  }

  async leave(force: boolean): Promise<void> {
    this.calls.push(`leave ${String(force)}`);
    this.current = { ...this.current, localNodeState: "inactive", isManager: false, nodeId: "" };
  }

  async unlock(key: string): Promise<void> {
    if (key !== "SWMKEY-1-right") throw new ClusterError("unauthenticated", "invalid key");
    this.current = { ...this.current, localNodeState: "active" };
  }

  putNode(hostname: string, extra: Partial<Node> = {}): Node {
    return this.store.put("node", {
      id: this.store.newId(),
      spec: { Role: extra.manager === undefined ? "worker" : "manager", Availability: "active" },
      description: {
        Hostname: hostname,
        Platform: { Architecture: "x86_64", OS: "linux" },
        Resources: { NanoCPUs: 2e9, MemoryBytes: 1e9 },
        Engine: { EngineVersion: "0.1.0", Plugins: [{ Type: "Network", Name: "overlay" }] },
        TLSInfo: TLS,
      },
      status: { state: NodeState.ready, message: "", addr: "127.0.0.1" },
      rpcAddress: "127.0.0.1:2377",
      dataPathAddress: "127.0.0.1",
      certificateRole: "worker",
      ...extra,
    });
  }

  putTask(service: Service, extra: Partial<Task> = {}): Task {
    const id = extra.id ?? this.store.newId();
    return this.store.put("task", {
      id,
      serviceId: service.id,
      slot: 1,
      nodeId: this.current.nodeId,
      name: "",
      serviceLabels: service.spec.Labels ?? {},
      serviceName: service.spec.Name,
      spec: service.spec.TaskTemplate,
      specVersion: service.specVersion,
      desiredState: TaskState.running,
      status: { state: TaskState.running, timestamp: STAMP, message: "started", err: "" },
      networks: [],
      ports: [],
      ...extra,
    });
  }

  async #createService(spec: ServiceSpec): Promise<Written> {
    if (this.store.list("service", { kind: "name", name: spec.Name }).length > 0) {
      const text = `rpc error: code = AlreadyExists desc = name conflicts with an existing object: service ${spec.Name} already exists`;
      throw new ClusterError("already_exists", text);
    }
    const id = this.store.newId();
    this.store.put("service", { id, spec, specVersion: this.store.version + 1 });
    return { id, warnings: [] };
  }

  #checkVersion(table: TableName, id: string, version: number): void {
    if (this.store.get(table, id)?.version !== version) {
      throw new ClusterError("out_of_sequence", "rpc error: code = Unknown desc = update out of sequence");
    }
  }

  #makeControl(): ClusterControl {
    const { store } = this;
    const nothing = async (): Promise<void> => {};
    return {
      view: async () => store,
      staleView: () => store,
      hasReached: (version) => Promise.resolve(version <= store.version),
      watch: (signal, after) => store.watch(signal, after),
      managers: () => [
        {
          nodeId: this.current.nodeId,
          addr: "127.0.0.1:2377",
          isLeader: true,
          isReachable: true,
          isVoter: true,
        },
      ],
      createService: (spec) => this.#createService(spec),
      updateService: async (id, options) => {
        this.#checkVersion("service", id, options.version);
        const old = store.get("service", id);
        if (old === undefined) throw new ClusterError("not_found", `service ${id} not found`);
        const spec = options.rollback === true ? (old.previousSpec ?? old.spec) : options.spec;
        store.put("service", { ...old, spec, previousSpec: old.spec, specVersion: store.version + 1 });
        return { id, warnings: [] };
      },
      removeService: async (id) => store.remove("service", id),
      updateNode: async (id, version, spec) => {
        this.#checkVersion("node", id, version);
        const node = store.get("node", id);
        if (node !== undefined) store.put("node", { ...node, spec });
      },
      removeNode: async (id) => store.remove("node", id),
      createNetwork: async (spec) => {
        const { id } = store.put("network", { id: store.newId(), spec });
        return { id, warnings: [] };
      },
      removeNetwork: async (id) => store.remove("network", id),
      createSecret: async (spec) => ({
        id: store.put("secret", { id: store.newId(), spec }).id,
        warnings: [],
      }),
      updateSecret: nothing,
      removeSecret: async (id) => store.remove("secret", id),
      createConfig: async (spec) => ({
        id: store.put("config", { id: store.newId(), spec }).id,
        warnings: [],
      }),
      updateConfig: nothing,
      removeConfig: async (id) => store.remove("config", id),
      putImage: async (spec, nodeId) => {
        const id = imageByName(store, spec.Name)?.id ?? store.newId();
        store.put("image", { id, spec, holders: [{ nodeId, isComplete: true }] });
        return { id, warnings: [] };
      },
      removeImage: async (id) => store.remove("image", id),
      nodeImages: async () => undefined,
      imageNodes: async () => [],
      updateCluster: async (options) => void this.calls.push(`updateCluster ${JSON.stringify(options)}`),
      logs: (selector) => this.#logs(selector.serviceIds ?? []),
    };
  }

  async *#logs(serviceIds: readonly string[]): AsyncGenerator<ClusterLogLine, void> {
    for (const line of this.logLines) if (serviceIds.includes(line.serviceId)) yield line;
  }
}

function fakeCluster(id: string): Draft<"cluster"> {
  const cluster: Omit<Cluster, "version" | "createdAt" | "updatedAt"> = {
    id,
    spec: { Name: "default" },
    rootCa: {
      certificate: "",
      key: "",
      digest: "sha256:00",
      joinTokens: { worker: "SWMTKN-1-w", manager: "SWMTKN-1-m" },
    },
    tlsInfo: TLS,
    defaultAddressPool: ["10.0.0.0/8"],
    subnetSize: 24,
    dataPathPort: 4789,
    meshPool: "10.255.0.0/16",
    unlockKey: "",
  };
  return cluster;
}
