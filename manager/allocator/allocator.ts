/**
 * The loop that gives out what must be unique in the cluster: subnets and VNIs of networks, VIPs and published ports of
 * services, addresses of tasks (which moves them from NEW to PENDING), mesh blocks of nodes. Runs on the leader only.
 * What can't be had is said in the task's status.err and tried again as soon as something is given back.
 */
import type { Cancel } from "../../common/env.ts";
import { rfc3339 } from "../../common/time.ts";
import { guestKey, guestsByKey } from "../../model/node-guests.ts";
import type {
  Endpoint,
  Network,
  NetworkAttachment,
  Node,
  NodeGuest,
  Service,
  StoreEvent,
  Task,
} from "../../model/objects.ts";
import type { StoreView } from "../../model/store-view.ts";
import { TaskState, isTerminal, isLive } from "../../model/task-state.ts";
import { deepEqual } from "../../model/up-to-date.ts";
import { type LoopDeps, ReconcileLoop } from "../reconcile-loop.ts";
import type { Transaction } from "../store/store.ts";
import { Ledger, needsAllocation } from "./ledger.ts";

type Grant =
  | { readonly kind: "node"; readonly id: string; readonly meshSubnet: string }
  | { readonly kind: "guests"; readonly id: string; readonly guests: readonly NodeGuest[] }
  | { readonly kind: "network"; readonly id: string; readonly allocation: NonNullable<Network["allocation"]> }
  | { readonly kind: "service"; readonly id: string; readonly endpoint: Endpoint }
  | {
      readonly kind: "task";
      readonly id: string;
      readonly networks: readonly NetworkAttachment[];
      readonly ports: Endpoint["ports"];
    }
  | { readonly kind: "refusal"; readonly id: string; readonly err: string };

/** Nodes lack a mesh block; hosts are those with containers outside of services that have no address yet. */
const QUEUES = ["nodes", "networks", "services", "tasks", "hosts"] as const;
/** Ids of objects that are to get something. */
type Queues = Readonly<Record<(typeof QUEUES)[number], Set<string>>>;

function makeQueues(): Queues {
  return { nodes: new Set(), networks: new Set(), services: new Set(), tasks: new Set(), hosts: new Set() };
}

export class Allocator extends ReconcileLoop {
  /** Absent until all that this manager wrote before has landed, or was lost. */
  #ledger: Ledger | undefined;
  /** Of the view that the ledger was made from. */
  #ledgerVersion = 0;
  readonly #due: Queues = makeQueues();
  /** What was refused waits here until something is given back. */
  readonly #waiting: Queues = makeQueues();
  /** Services whose endpoint can't be had now, with the reason. */
  readonly #refusedServices = new Map<string, string>();
  /** Endpoints as last granted, which the store may not hold yet. */
  readonly #endpoints = new Map<string, Endpoint>();
  /** Nodes of which it was said that there is no mesh block for them. */
  readonly #blockless = new Set<string>();
  #retry: Cancel | undefined;

  constructor(deps: LoopDeps) {
    super(deps, { name: "allocator", tables: ["cluster", "node", "network", "service", "task"] });
  }

  override stop(): Promise<void> {
    this.#retry?.();
    return super.stop();
  }

  protected override load(view: StoreView): void {
    this.#ledger = undefined;
    this.#note(view);
  }

  /** Notes all that is to get something. */
  #note(view: StoreView): void {
    this.#refusedServices.clear();
    this.#endpoints.clear();
    for (const queues of [this.#due, this.#waiting]) for (const kind of QUEUES) queues[kind].clear();
    for (const node of view.list("node")) {
      if (node.meshSubnet === undefined) this.#due.nodes.add(node.id);
      if (lacksAddress(node)) this.#due.hosts.add(node.id);
    }
    for (const network of view.list("network")) {
      if (network.allocation === undefined && needsAllocation(network)) this.#due.networks.add(network.id);
    }
    for (const service of view.list("service")) this.#due.services.add(service.id);
    for (const task of view.list("task")) if (isNew(task)) this.#due.tasks.add(task.id);
  }

  async #makeLedger(signal: AbortSignal): Promise<Ledger> {
    const view = await this.settledView(signal);
    this.#note(view);
    this.#ledgerVersion = view.version;
    this.#ledger = new Ledger(view);
    return this.#ledger;
  }

  protected override observe(event: StoreEvent): boolean {
    // Told late of what the ledger knows.
    if (this.#ledger !== undefined && event.version <= this.#ledgerVersion) return false;
    const nowMs = this.deps.clock.monotonicMs();
    const { id } = event.object;
    switch (event.table) {
      case "node":
        return this.#observeNode(event.object, event.action, nowMs);
      case "network":
        if (event.action === "remove") {
          this.#ledger?.releaseNetwork(id, nowMs);
          return this.#retryWaiting();
        }
        if (event.object.allocation !== undefined || !needsAllocation(event.object)) return false;
        this.#due.networks.add(id);
        return true;
      case "service":
        if (event.action === "remove") {
          this.#ledger?.releaseService(id, nowMs);
          this.#refusedServices.delete(id);
          this.#endpoints.delete(id);
          return this.#retryWaiting();
        }
        if (event.action === "update" && !concernsEndpoint(event.object, event.previous)) return false;
        this.#due.services.add(id);
        return true;
      case "task":
        return this.#observeTask(event.object, event.action, nowMs);
      case "cluster":
        // The first leader begins without one: pools and sizes are known from here on, and nothing was given yet.
        if (event.action !== "create") return false;
        this.#ledger = undefined;
        return true;
      case "image":
      case "secret":
      case "config":
        return false;
    }
  }

  #observeNode(node: Node, action: StoreEvent["action"], nowMs: number): boolean {
    if (action === "remove") {
      this.#ledger?.releaseNode(node.id, nowMs);
      this.#ledger?.releaseGuests(node.id, [], nowMs);
      this.#blockless.delete(node.id);
      return this.#retryWaiting();
    }
    const isFreed = this.#ledger?.releaseGuests(node.id, node.guests ?? [], nowMs) === true;
    const hasWork = isFreed && this.#retryWaiting();
    if (lacksAddress(node)) this.#due.hosts.add(node.id);
    if (node.meshSubnet === undefined) this.#due.nodes.add(node.id);
    return hasWork || lacksAddress(node) || node.meshSubnet === undefined;
  }

  #observeTask(task: Task, action: StoreEvent["action"], nowMs: number): boolean {
    if (action === "remove" || isTerminal(task.status.state)) {
      this.#due.tasks.delete(task.id);
      this.#waiting.tasks.delete(task.id);
      return this.#ledger?.releaseTask(task.id, nowMs) === true && this.#retryWaiting();
    }
    if (!isNew(task) || this.#waiting.tasks.has(task.id)) return false;
    this.#due.tasks.add(task.id);
    return true;
  }

  /** Something was given back: whoever waits may have it. True if anyone does. */
  #retryWaiting(): boolean {
    let isAny = false;
    for (const kind of QUEUES) {
      const waiting = this.#waiting[kind];
      isAny ||= waiting.size > 0;
      for (const id of waiting) this.#due[kind].add(id);
      waiting.clear();
    }
    return isAny;
  }

  protected override async reconcile(signal: AbortSignal): Promise<void> {
    const { store, clock, log } = this.deps;
    const ledger = this.#ledger ?? (await this.#makeLedger(signal));
    const nowMs = clock.monotonicMs();
    const grants: Grant[] = [];
    const view = store.view();
    this.#planNodes(ledger, view, nowMs, grants);
    const isNetworkNew = this.#planNetworks(ledger, view, nowMs, grants);
    if (isNetworkNew) this.#retryWaiting();
    this.#planServices(ledger, view, nowMs, grants);
    this.#planTasks(ledger, view, nowMs, grants);
    this.#planGuests(ledger, view, nowMs, grants);
    const { nodes, tasks, services, hosts } = this.#waiting;
    if (nodes.size + tasks.size + services.size + hosts.size > 0) this.#retryAt(ledger.nextFreeMs(nowMs));
    if (grants.length === 0) return;
    const timestamp = rfc3339(clock.wallMs());
    await store.batch(grants, (tx, grant) => applyGrant(tx, grant, timestamp), {
      signal,
      failed: (grant, error) =>
        log.error("allocator could not write a grant", { kind: grant.kind, id: grant.id, error }),
    });
  }

  #retryAt(freeMs: number | undefined): void {
    if (freeMs === undefined) return;
    const delayMs = Math.max(1, freeMs - this.deps.clock.monotonicMs());
    this.#retry?.();
    this.#retry = this.deps.timers.after(delayMs, () => {
      this.#retry = undefined;
      if (this.#retryWaiting()) this.wake();
    });
  }

  #planNodes(ledger: Ledger, view: StoreView, nowMs: number, grants: Grant[]): void {
    for (const id of this.#due.nodes) {
      const node = view.get("node", id);
      if (node === undefined || node.meshSubnet !== undefined) continue;
      const granted = ledger.grantNode(node, nowMs);
      if ("value" in granted) {
        this.#blockless.delete(id);
        grants.push({ kind: "node", id, meshSubnet: granted.value });
        continue;
      }
      this.#waiting.nodes.add(id);
      if (this.#blockless.has(id)) continue;
      this.#blockless.add(id);
      this.deps.log.warn("node gets no mesh block", { nodeId: id, reason: granted.refusal });
    }
    this.#due.nodes.clear();
  }

  #planGuests(ledger: Ledger, view: StoreView, nowMs: number, grants: Grant[]): void {
    for (const id of this.#due.hosts) {
      const node = view.get("node", id);
      if (node === undefined || !lacksAddress(node)) continue;
      const guests = ledger.grantGuests(node, view, nowMs);
      if (guests.some((guest) => guest.address === "")) this.#waiting.hosts.add(id);
      if (!deepEqual(guests, node.guests)) grants.push({ kind: "guests", id, guests });
    }
    this.#due.hosts.clear();
  }

  #planNetworks(ledger: Ledger, view: StoreView, nowMs: number, grants: Grant[]): boolean {
    let isAnyGranted = false;
    for (const id of this.#due.networks) {
      const network = view.get("network", id);
      if (network === undefined || network.allocation !== undefined) continue;
      const granted = ledger.grantNetwork(network, nowMs);
      if ("value" in granted) {
        grants.push({ kind: "network", id, allocation: granted.value });
        isAnyGranted = true;
      } else {
        this.#waiting.networks.add(id);
        this.deps.log.warn("network gets no subnet", { networkId: id, reason: granted.refusal });
      }
    }
    this.#due.networks.clear();
    return isAnyGranted;
  }

  #planServices(ledger: Ledger, view: StoreView, nowMs: number, grants: Grant[]): void {
    let isPortFreed = false;
    for (const id of this.#due.services) {
      const service = view.get("service", id);
      if (service === undefined) continue;
      const granted = ledger.grantService(service, view, nowMs);
      if ("refusal" in granted) {
        this.#refusedServices.set(id, granted.refusal);
        this.#waiting.services.add(id);
        for (const task of view.list("task", { kind: "service", serviceId: id }))
          if (isNew(task)) this.#due.tasks.add(task.id);
        continue;
      }
      if (this.#refusedServices.delete(id)) this.#wakeTasksOf(view, id);
      this.#endpoints.set(id, granted.value);
      if (!deepEqual(granted.value, service.endpoint)) {
        grants.push({ kind: "service", id, endpoint: granted.value });
        isPortFreed ||= givesUpPort(service.endpoint, granted.value);
      }
    }
    this.#due.services.clear();
    // No removal tells of it, and a port that was asked for by number is in no quarantine.
    if (isPortFreed && this.#retryWaiting()) this.wake();
  }

  #wakeTasksOf(view: StoreView, serviceId: string): void {
    for (const task of view.list("task", { kind: "service", serviceId })) {
      if (!isNew(task)) continue;
      this.#waiting.tasks.delete(task.id);
      this.#due.tasks.add(task.id);
    }
  }

  #planTasks(ledger: Ledger, view: StoreView, nowMs: number, grants: Grant[]): void {
    /** Reasons that hold for the rest of this run, so that a thousand tasks do not search a full network each. */
    const refusals = new Map<string, string>();
    for (const id of this.#due.tasks) {
      const task = view.get("task", id);
      if (task === undefined || !isNew(task) || !isLive(task)) continue;
      const service = view.get("service", task.serviceId);
      if (service === undefined) continue;
      const known = this.#refusedServices.get(service.id) ?? refusals.get(service.id);
      const granted = known === undefined ? ledger.grantTask(task, service, view, nowMs) : { refusal: known };
      if ("refusal" in granted) {
        refusals.set(service.id, granted.refusal);
        this.#waiting.tasks.add(id);
        if (task.status.err !== granted.refusal) grants.push({ kind: "refusal", id, err: granted.refusal });
        continue;
      }
      const ports = (this.#endpoints.get(service.id) ?? service.endpoint)?.ports ?? [];
      grants.push({ kind: "task", id, networks: granted.value, ports });
    }
    this.#due.tasks.clear();
  }
}

function lacksAddress(node: Node): boolean {
  return node.guests?.some((guest) => guest.address === "") === true;
}

function isNew(task: Task): boolean {
  return task.status.state === TaskState.new && isLive(task);
}

/** True unless ports, mode and networks are surely the same. */
function concernsEndpoint(service: Service, previous: Service | undefined): boolean {
  return service.spec !== previous?.spec && !deepEqual(service.spec, previous?.spec);
}

function givesUpPort(before: Endpoint | undefined, now: Endpoint): boolean {
  const isKept = (port: Endpoint["ports"][number]): boolean =>
    now.ports.some((each) => each.PublishedPort === port.PublishedPort && each.Protocol === port.Protocol);
  return before?.ports.some((port) => !isKept(port)) === true;
}

function applyGrant(tx: Transaction, grant: Grant, timestamp: string): void {
  switch (grant.kind) {
    case "node": {
      const node = tx.get("node", grant.id);
      if (node !== undefined) tx.update("node", { ...node, meshSubnet: grant.meshSubnet });
      return;
    }
    case "network": {
      const network = tx.get("network", grant.id);
      if (network !== undefined) tx.update("network", { ...network, allocation: grant.allocation });
      return;
    }
    case "guests": {
      const node = tx.get("node", grant.id);
      // What the node has reported meanwhile causes another grant.
      if (node?.guests !== undefined)
        tx.update("node", { ...node, guests: withAddresses(node.guests, grant.guests) });
      return;
    }
    case "service": {
      // A spec that came meanwhile causes another grant.
      const service = tx.get("service", grant.id);
      if (service !== undefined) tx.update("service", { ...service, endpoint: grant.endpoint });
      return;
    }
    case "refusal": {
      const task = tx.get("task", grant.id);
      if (task === undefined || !isNew(task)) return;
      tx.update("task", { ...task, status: { ...task.status, timestamp, err: grant.err } });
      return;
    }
    case "task": {
      const task = tx.get("task", grant.id);
      if (task === undefined || !isNew(task)) return;
      const status = { state: TaskState.pending, timestamp, message: "pending task scheduling", err: "" };
      tx.update("task", { ...task, networks: grant.networks, ports: grant.ports, status });
    }
  }
}

function withAddresses(guests: readonly NodeGuest[], granted: readonly NodeGuest[]): readonly NodeGuest[] {
  const grants = guestsByKey(granted);
  return guests.map((guest) => {
    const grant = grants.get(guestKey(guest));
    const isOpen = guest.address === "" && grant?.wanted === guest.wanted;
    return isOpen ? { ...guest, address: grant.address } : guest;
  });
}
