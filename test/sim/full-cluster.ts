/**
 * One run of the whole cluster: managers with raft, store, allocator, orchestrators, scheduler, updater and dispatcher
 * (the production code), model workers, and an operator, from one seed. While things fail, the checks of states hold; once
 * they are mended, every service has what it asks for, on the workers too, within bounded virtual time.
 */
import { silentLogger } from "../../common/log.ts";
import { SeededRandom } from "../../common/testing/seeded-random.ts";
import { createCluster, type NewCluster } from "../../manager/ca/new-cluster.ts";
import { PLAIN_CLUSTER } from "../../manager/testing/plain-cluster.ts";
import { LeaderParts } from "../../manager/leader-parts.ts";
import { MemoryStore } from "../../manager/store/memory-store.ts";
import type { WatchItem } from "../../manager/store/store.ts";
import { NodeState, type StoreEvent } from "../../model/objects.ts";
import { taskStateName } from "../../model/task-state.ts";
import { useCheapKeys, waitForCrypto } from "./cheap-keys.ts";
import { ClusterRun, type RunBounds, type RunOptions, type RunResult } from "./cluster-run.ts";
import { forceNewCluster, restoreElsewhere, stateDigest } from "./disaster.ts";
import { Locks } from "./locks.ts";
import { Machine } from "./machine.ts";
import { ManagerOperator, managersOf } from "./manager-operator.ts";
import { type Door, ModelWorker } from "./model-worker.ts";
import { Nemesis } from "./nemesis.ts";
import { Operator } from "./operator.ts";
import { fullProfile, type FullProfile, handoverProfile, steadyProfile } from "./profiles.ts";
import { StoreChecks } from "./store-checks.ts";
import { isConverged, missing } from "./convergence.ts";
import { WorkerChecks } from "./worker-checks.ts";
import { Violation } from "./world.ts";

/** A few tries to hear of a leader, and a write. */
const SEAL_MS = 5_000;
const BOUNDS: RunBounds = {
  // Once all is mended: leader, sessions, back-off of restarts and running updates all take their time.
  convergeMs: 180_000,
  deepCheckEvents: 500,
  afterlifeMs: 5_000,
};
/** How often somebody looks for services that can't come up as they are. */
const MEND_SERVICES_MS = 5_000;

interface Brain {
  readonly store: MemoryStore;
  readonly parts: LeaderParts;
}

export function runFullCluster(options: RunOptions): Promise<RunResult> {
  const random = new SeededRandom(options.seed ^ 0xf011);
  return new FullRun(options, profileOfRun(options.profile, random)).go();
}

function profileOfRun(name: RunOptions["profile"], random: SeededRandom): FullProfile {
  if (name === "steady") return steadyProfile(random);
  return name === "handover" ? handoverProfile(random) : fullProfile(random);
}

class FullRun extends ClusterRun {
  readonly #profile: FullProfile;
  readonly #storeChecks: StoreChecks;
  readonly #workerChecks: WorkerChecks;
  readonly #brains = new Map<Machine, Brain>();
  readonly #workers: ModelWorker[] = [];
  readonly #nemesis: Nemesis;
  readonly #operator: Operator;
  readonly #managerOperator: ManagerOperator;
  readonly #locks = new Locks();
  readonly #stores = new Map<Machine, MemoryStore>();
  #isHarassing = true;
  #isFurnished = false;

  constructor(options: RunOptions, profile: FullProfile) {
    super(options, BOUNDS);
    this.#profile = profile;
    useCheapKeys(this.world.random.fork());
    this.world.waitsOutside = waitForCrypto;
    this.#storeChecks = new StoreChecks(() => this.world.nowMs);
    this.#workerChecks = new WorkerChecks(this.#storeChecks, () => this.#workers);
    this.#nemesis = new Nemesis({
      world: this.world,
      network: this.network,
      profile: profile.managers,
      checks: this.checks,
      machines: () => this.live(),
      changeMembership: () => undefined,
    });
    this.#managerOperator = this.#makeManagerOperator();
    this.#operator = new Operator({
      world: this.world,
      store: () => this.#leader()?.store,
      everyMs: profile.operatorEveryMs,
    });
  }

  async go(): Promise<RunResult> {
    try {
      this.found(this.#profile.managers.memberCount);
      await this.until("a first leader", () => this.#leader() !== undefined);
      await this.#furnish();
      this.#operator.start();
      if (this.#profile.managersEveryMs > 0) this.#managerOperator.start();
      this.#nemesis.start();
      this.#harassWorkers();
      await this.advance(this.options.faultyMs);
      this.#mend();
      await this.until("after mending: a leader", () => this.#leader() !== undefined);
      await this.until("after mending: every service has what it asks for", () => this.#isConverged());
      await this.until("after mending: managers are as asked for", () => this.#areManagersRight());
      await this.until("after mending: managers are equal", () => this.#areEqual());
      await this.#checkLocks();
      await this.#sufferDisaster();
    } catch (caught) {
      this.world.fail(caught);
    }
    return this.#end();
  }

  #makeManagerOperator(): ManagerOperator {
    return new ManagerOperator({
      world: this.world,
      leader: () => {
        const leader = this.#leader();
        const { env, node } = leader?.machine ?? {};
        if (leader === undefined || env === undefined || node === undefined) return undefined;
        return { store: leader.store, raft: node, env };
      },
      runningManagers: () =>
        this.live().flatMap(({ node, nodeId }) => (node?.core.status.isRecovering === false ? [nodeId] : [])),
      startMember: (raftId, nodeId, peers) => {
        const machine = this.addMachine(raftId, { kind: "join", peers }, nodeId);
        if (this.#isHarassing) this.#nemesis.prepare(machine);
        machine.start();
      },
      destroy: (nodeId) => {
        for (const machine of this.live()) {
          if (machine.nodeId !== nodeId) continue;
          machine.isRetired = true;
          machine.kill();
        }
      },
      addWorker: (nodeId) => this.#addWorker(nodeId),
      hasWorker: (nodeId) => this.#workers.some((worker) => worker.nodeId === nodeId),
      everyMs: this.#profile.managersEveryMs,
      firstRaftId: 100,
    });
  }

  protected override addMachine(raftId: number, mode: Machine["mode"], nodeId?: string): Machine {
    const machine: Machine = new Machine(
      {
        world: this.world,
        network: this.network,
        raftId,
        nodeId,
        limits: this.#profile.managers.limits,
        encryptionKey: undefined,
        makeState: (env) => {
          const store = new MemoryStore({ clock: env.clock, timers: env.timers, log: silentLogger });
          this.#stores.set(machine, store);
          return store;
        },
        onStarted: () => this.#onStarted(machine),
        onDied: () => {
          this.#brains.delete(machine);
          this.running = [...this.#brains.keys()];
        },
      },
      mode,
    );
    this.machines.push(machine);
    return machine;
  }

  #onStarted(machine: Machine): void {
    const { env, node, raftId } = machine;
    const store = this.#stores.get(machine);
    if (node === undefined || env === undefined || store === undefined) return;
    this.checks.restarted({ raftId, core: node.core });
    store.attach(node);
    const parts = new LeaderParts({ env, store, raft: node, log: silentLogger });
    if (this.#isFurnished) parts.start();
    this.#brains.set(machine, { store, parts });
    this.running = [...this.#brains.keys()];
    this.follow(machine);
    this.#locks
      .start(env, { store, raft: node, nodeId: machine.nodeId })
      .catch((caught: unknown) => this.world.fail(caught));
    const { view } = store.viewAndWatch({}, (items) => {
      if (this.options.keepsTimeline) this.#tellEvents(raftId, items);
      follow(items);
      for (const cluster of this.#storeChecks.mirror.clusters.values()) {
        this.#locks.noteKey(cluster.unlockKey);
      }
    });
    const follow = this.#storeChecks.follow(raftId, () => store.view(), view.version);
  }

  #tellEvents(raftId: number, items: readonly WatchItem[]): void {
    for (const item of items) {
      if (item.kind !== "event") continue;
      const { event } = item;
      this.world.note(3, event.version, () => `${raftId} ${event.action} ${describeObject(event)}`);
    }
  }

  #leader(): (Brain & { readonly machine: Machine }) | undefined {
    for (const [machine, brain] of this.#brains) {
      if (machine.node?.isLeader === true && !machine.isPaused) return { ...brain, machine };
    }
    return undefined;
  }

  /** Nodes and an overlay network; then the workers come up. */
  async #furnish(): Promise<void> {
    const { workerCount } = this.#profile;
    const managers = this.machines.map((machine) => ({
      id: `node-${machine.raftId}`,
      role: "manager" as const,
    }));
    const workers = Array.from({ length: workerCount }, (_, at) => ({
      id: `worker-${at}`,
      role: "worker" as const,
    }));
    let isDone = false;
    const cluster = await this.#newCluster();
    const write = this.#leader()?.store.update((tx) => {
      tx.create("cluster", cluster);
      for (const { id, role } of [...managers, ...workers]) {
        const isA = role === "worker" && Number(id.split("-")[1]) % 2 === 0;
        tx.create("node", {
          id,
          spec: {
            Role: role,
            Availability: role === "manager" ? "drain" : "active",
            Labels: isA ? { zone: "a" } : {},
          },
          description: {
            Hostname: id,
            Platform: { OS: "linux", Architecture: "x86_64" },
            Resources: { NanoCPUs: 8e9, MemoryBytes: 2 ** 34 },
            Engine: { EngineVersion: "model" },
          },
          status: { state: NodeState.unknown, message: "", addr: "" },
          rpcAddress: "",
          dataPathAddress: "",
          certificateRole: role,
          certificateIssuer: cluster.rootCa.digest,
        });
      }
      const spec = { Name: "overlay", Labels: {}, Driver: "overlay", Scope: "swarm" };
      tx.create("network", { id: "network-1", spec });
    });
    write?.then(
      () => {
        isDone = true;
      },
      (caught: unknown) => this.world.fail(caught),
    );
    await this.until("the first objects", () => isDone);
    // Before there were node objects, the leader would have taken its peers for strangers and removed them.
    this.#isFurnished = true;
    for (const { parts } of this.#brains.values()) parts.start();
    for (const { id } of workers) this.#addWorker(id);
  }

  async #newCluster(): Promise<NewCluster["cluster"]> {
    const { env } = this.#leader()?.machine ?? {};
    if (env === undefined) throw new Violation("O10", "nobody leads");
    const made = await createCluster({ ...PLAIN_CLUSTER, env });
    return made.newCluster.cluster;
  }

  #addWorker(nodeId: string): void {
    this.#workers.push(
      new ModelWorker({
        world: this.world,
        nodeId,
        findDoor: () => this.#door(),
        delayMs: () => this.network.delayMs(),
        onStarted: (worker, task) => this.#workerChecks.started(worker, task),
        onStopping: (worker, task) => this.#workerChecks.stopping(worker, task),
        onRenew: (worker) => this.#managerOperator.renew(worker.nodeId),
      }),
    );
  }

  #door(): Door | undefined {
    const leader = this.#leader();
    const dispatcher = leader?.parts.dispatcher;
    if (leader === undefined || dispatcher === undefined) return undefined;
    const { machine, parts } = leader;
    const isOpen = (): boolean =>
      this.#brains.get(machine)?.parts === parts && parts.dispatcher === dispatcher;
    return { dispatcher, isOpen };
  }

  #harassWorkers(): void {
    const { workerFaultEveryMs } = this.#profile;
    const waitMs = -Math.log(1 - this.random.float()) * workerFaultEveryMs;
    this.world.after(waitMs, () => {
      if (!this.#isHarassing) return;
      const worker = this.#workers[this.random.below(this.#workers.length)];
      if (worker !== undefined) this.#harass(worker);
      this.#harassWorkers();
    });
  }

  #harass(worker: ModelWorker): void {
    const dice = this.random.float();
    const lasts = this.random.float() < 0.5 ? this.random.float() * 2_000 : this.random.float() * 15_000;
    if (dice < 0.35) {
      this.world.note(20, 0, () => `power off ${worker.nodeId}`);
      worker.crash();
      this.world.after(lasts, () => worker.restart());
    } else if (dice < 0.7) {
      this.world.note(21, 0, () => `cut off ${worker.nodeId} for ${Math.round(lasts)} ms`);
      worker.setCut(true);
      this.world.after(lasts, () => worker.setCut(false));
    } else if (dice < 0.95) {
      worker.killContainer();
    } else {
      const tasks = [...this.#storeChecks.mirror.tasks.values()];
      const task = tasks[this.random.below(tasks.length)];
      // One that is placed nowhere yet may become the liar's own before the lie arrives.
      if (task !== undefined && task.nodeId !== "" && task.nodeId !== worker.nodeId) worker.lie(task);
    }
  }

  #mend(): void {
    this.world.note(22, 0, () => "all is mended");
    this.#isHarassing = false;
    this.#operator.stop();
    this.#managerOperator.stop();
    this.#nemesis.stop();
    this.#buryWorkers();
    for (const worker of this.#workers) {
      worker.setCut(false);
      worker.restart();
    }
    for (const machine of this.live()) machine.start();
    this.#mendServices();
  }

  /** Some never come back: what ran there has to run elsewhere. */
  #buryWorkers(): void {
    const deadCount = this.random.float() < 0.4 ? this.random.below(Math.ceil(this.#workers.length / 3)) : 0;
    for (const worker of this.#workers.splice(0, deadCount)) {
      this.world.note(23, 0, () => `${worker.nodeId} stays dead`);
      worker.bury();
    }
  }

  #mendServices(): void {
    this.world.after(MEND_SERVICES_MS, () => {
      this.#operator.mend();
      this.#mendServices();
    });
  }

  #isConverged(): boolean {
    const view = this.#leader()?.store.view();
    return view !== undefined && isConverged(view, this.#workers);
  }

  /** Voters are just the nodes that are to be managers; no rotation of the root is left open. */
  #areManagersRight(): boolean {
    const leader = this.#leader();
    const { node } = leader?.machine ?? {};
    if (leader === undefined || node === undefined || !this.#managerOperator.isIdle) return false;
    // Whose joining broke off after its node was made never came.
    const machines = new Set(this.live().map(({ nodeId }) => nodeId));
    const wanted = managersOf(leader).flatMap(({ id }) => (machines.has(id) ? [id] : []));
    const voters = node.members.filter((member) => !member.isLearner).map(({ nodeId }) => nodeId);
    if (node.members.length !== voters.length) return false;
    if (voters.toSorted().join() !== wanted.toSorted().join()) return false;
    return leader.store.view().list("cluster")[0]?.rootCa.rotationInProgress !== true;
  }

  #members(): readonly Machine[] {
    const raftIds = new Set(this.#leader()?.machine.node?.members.map(({ raftId }) => raftId));
    return this.live().filter(({ raftId }) => raftIds.has(raftId));
  }

  /** O4: members that have applied the same have the same. */
  #areEqual(): boolean {
    const members = this.#members();
    const applied = members.map((machine) => machine.node?.appliedIndex ?? -1);
    if (members.length === 0 || new Set(applied).size !== 1) return false;
    const digests = members.map((machine) =>
      stateDigest(this.#stores.get(machine)?.snapshot().entries() ?? []),
    );
    if (new Set(digests).size !== 1) {
      throw new Violation("O4", `managers differ at ${applied[0]}: ${digests.join(" ")}`);
    }
    return true;
  }

  /** C5. A manager that has just started seals once it has heard what the cluster knows. */
  async #checkLocks(): Promise<void> {
    // Looked at each time: a rotation that was under way at the mending may end only now.
    const unlockKey = (): string => this.#leader()?.store.view().list("cluster")[0]?.unlockKey ?? "";
    const deadlineMs = this.world.nowMs + SEAL_MS;
    for (const machine of this.#members()) {
      while (!(await this.#isSealedBy(machine, unlockKey()))) {
        if (this.world.nowMs >= deadlineMs)
          throw new Violation("C5", `the member file of ${machine.nodeId} is not sealed by the present key`);
        await this.advance(100);
      }
    }
  }

  async #isSealedBy({ env, nodeId }: Machine, unlockKey: string): Promise<boolean> {
    if (env === undefined) return true;
    let isCurrent: boolean | undefined;
    this.#locks.isCurrent(env, unlockKey).then(
      (verdict) => {
        isCurrent = verdict;
      },
      (caught: unknown) => this.world.fail(caught),
    );
    await this.until(`the member file of ${nodeId} is read`, () => isCurrent !== undefined);
    return isCurrent === true;
  }

  async #sufferDisaster(): Promise<void> {
    const leader = this.#leader();
    const { env, node } = leader?.machine ?? {};
    const dice = this.random.float();
    if (leader === undefined || env === undefined || node === undefined || dice > 0.4) return;
    const options = {
      world: this.world,
      limits: this.#profile.managers.limits,
      until: (what: string, holds: () => boolean) => this.until(what, holds),
    };
    if (dice < 0.2) {
      await restoreElsewhere({ store: leader.store, raft: node, env }, options);
      return;
    }
    // What is decided now is known to the one that goes on alone.
    for (const { parts } of this.#brains.values()) parts.stop();
    this.#isFurnished = false;
    // What is in the log only counts as decided for the one that is alone.
    const isApplied = (): boolean => node.core.status.lastIndex === node.appliedIndex;
    await this.until("managers are equal before the disaster", () => isApplied() && this.#areEqual());
    for (const machine of this.live()) if (machine !== leader.machine) machine.kill();
    await forceNewCluster(leader.machine, options);
  }

  protected override missing(): string {
    const applied = this.live().map((machine) => `${machine.raftId}:${machine.node?.appliedIndex ?? "down"}`);
    const view = this.#leader()?.store.view();
    const what = view === undefined ? "nobody leads" : missing(view, this.#workers);
    const { members = [] } = this.#leader()?.machine.node ?? {};
    const named = members.map(
      ({ isLearner, nodeId, raftId }) => `${raftId}${isLearner ? "l" : ""}=${nodeId}`,
    );
    return ` (applied ${applied.join(" ")}; members ${named.join(" ")}; ${what})`;
  }

  protected override deepCheck(): void {
    this.checks.logsMatch(
      this.machines.flatMap(({ node, raftId }) => (node === undefined ? [] : [{ raftId, core: node.core }])),
    );
  }

  #end(): RunResult {
    return this.result({
      profile: this.#profile.managers.name,
      operations: 0,
      undecided: 0,
      appliedIndex: Math.max(0, ...this.machines.map((machine) => machine.node?.appliedIndex ?? 0)),
    });
  }
}

/** An object and what matters of it, for the timeline. */
function describeObject(event: StoreEvent): string {
  const { object, table } = event;
  const text = `${table} ${object.id}`;
  if (event.table === "task") {
    const { desiredState, nodeId, serviceName, slot, spec, status } = event.object;
    const place = `${serviceName}.${slot}${nodeId === "" ? "" : ` on ${nodeId}`}`;
    return `${text} ${place} ${spec.ContainerSpec.Image}: ${taskStateName(status.state)}, shall ${taskStateName(desiredState)}`;
  }
  if (event.table === "service") {
    const { spec, specVersion, updateStatus } = event.object;
    const mode = spec.Mode?.Replicated?.Replicas ?? "global";
    return `${text} ${spec.Name} v${specVersion}: ${mode} of ${spec.TaskTemplate.ContainerSpec.Image} ${updateStatus?.state ?? ""}`;
  }
  if (event.table === "node") {
    const { spec, status } = event.object;
    return `${text} ${spec.Role} ${spec.Availability}, state ${status.state} ${JSON.stringify(spec.Labels)}`;
  }
  return text;
}
