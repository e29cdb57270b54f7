/**
 * A manager's store and leader loops with model workers, in virtual time from one seed: what unit tests of the loops run
 * in, and the smallest cluster the simulator can start from. Workers obey desired states as agents do and report through
 * the store. The image's name says how a task behaves: "ok", "crash:MS" (fails after MS of running), "exit:MS"
 * (completes), "never" (stays in PREPARING), "reject" (is refused by the worker).
 */
import { assert } from "../../common/assert.ts";
import { newObjectId } from "../../common/ids.ts";
import { silentLogger } from "../../common/log.ts";
import type { Logger } from "../../common/log.ts";
import { FakeClock } from "../../common/testing/fake-clock.ts";
import { SeededRandom } from "../../common/testing/seeded-random.ts";
import { rfc3339 } from "../../common/time.ts";
import type { Node, Service, StoreEvent, Task } from "../../model/objects.ts";
import { NodeState } from "../../model/objects.ts";
import type { Labels, NetworkSpec, ServiceSpec } from "../../model/specs.ts";
import { TaskState, isTerminal, isLive } from "../../model/task-state.ts";
import { LeaderLoops } from "../leader-loops.ts";
import { LoopTally } from "../loop-tally.ts";
import { NodeImages } from "../node-images.ts";
import { MemoryStore } from "../store/memory-store.ts";
import { SingleMemberLog } from "../store/testing/single-member-log.ts";

export interface ModelClusterOptions {
  readonly seed?: number;
  /** Virtual time of a commit. */
  readonly commitDelayMs?: number;
  /** Longest time that a worker takes for one step of a task. */
  readonly stepMsMax?: number;
  /** Longest time that a container takes to stop. */
  readonly stopMsMax?: number;
  readonly log?: Logger;
}

export interface NodeOptions {
  readonly labels?: Labels;
  readonly nanoCpus?: number;
  readonly memoryBytes?: number;
  readonly generic?: readonly { readonly kind: string; readonly count: number }[];
}

export class ModelCluster {
  readonly clock: FakeClock;
  readonly random: SeededRandom;
  readonly store: MemoryStore;
  readonly log: SingleMemberLog;
  /** What the loops of all terms did. */
  readonly tally: LoopTally = new LoopTally();
  /** Every event in order, as text: equal for equal seeds. */
  readonly history: string[] = [];
  loops: LeaderLoops;
  /** What nodes have said of their images to the present loops. */
  images: NodeImages = new NodeImages();
  readonly #options: Required<Pick<ModelClusterOptions, "stepMsMax" | "stopMsMax" | "log">>;
  /** Nodes whose worker answers. */
  readonly #alive = new Set<string>();
  /** Containers that really run, by task id: what invariants are about. */
  readonly containers: Map<string, Task> = new Map();
  readonly #listeners: ((event: StoreEvent) => void)[] = [];
  readonly #stepping = new Set<string>();
  #nodeCount = 0;

  constructor(options: ModelClusterOptions = {}) {
    this.clock = new FakeClock();
    this.random = new SeededRandom(options.seed ?? 1);
    this.#options = {
      stepMsMax: options.stepMsMax ?? 20,
      stopMsMax: options.stopMsMax ?? 20,
      log: options.log ?? silentLogger,
    };
    this.store = new MemoryStore({ clock: this.clock, timers: this.clock, log: this.#options.log });
    this.log = new SingleMemberLog({
      machine: this.store,
      timers: this.clock,
      commitDelayMs: options.commitDelayMs ?? 1,
    });
    this.store.attach(this.log);
    this.loops = this.#makeLoops();
    this.store.viewAndWatch({}, (items) => {
      for (const item of items) {
        assert(item.kind !== "resync", "the model cluster reads its events in time");
        if (item.kind === "event") this.#observe(item.event);
      }
    });
  }

  start(): void {
    this.loops.start();
  }

  async stop(): Promise<void> {
    const stopped = this.loops.stop();
    await this.clock.advanceAsync(100);
    await stopped;
  }

  /** Another leader takes over: new loops that know nothing but the store. */
  async failOver(): Promise<void> {
    const stopped = this.loops.stop();
    this.log.stepDown(this.random.below(4));
    await this.clock.advanceAsync(10);
    await stopped;
    this.log.lead();
    this.loops = this.#makeLoops();
    this.loops.start();
    for (const task of this.store.view().list("task")) this.#step(task);
  }

  onEvent(listener: (event: StoreEvent) => void): void {
    this.#listeners.push(listener);
  }

  async advance(ms: number): Promise<void> {
    await this.clock.advanceAsync(ms);
  }

  /** Advances until `claim` holds; fails with its name after `deadlineMs`. Returns the virtual time it took. */
  async until(name: string, claim: () => boolean, deadlineMs = 60_000): Promise<number> {
    const startMs = this.clock.monotonicMs();
    while (!claim()) {
      const passedMs = this.clock.monotonicMs() - startMs;
      assert(passedMs < deadlineMs, `${name} within ${deadlineMs} ms`);
      await this.clock.advanceAsync(5);
    }
    return this.clock.monotonicMs() - startMs;
  }

  async addNode(options: NodeOptions = {}): Promise<string> {
    this.#nodeCount += 1;
    const id = `node${String(this.#nodeCount).padStart(4, "0")}`;
    this.#alive.add(id);
    await this.write((tx) =>
      tx.create("node", {
        id,
        spec: { Role: "worker", Availability: "active", Labels: options.labels ?? {} },
        description: {
          Hostname: id,
          Platform: { OS: "linux", Architecture: "x86_64" },
          Resources: {
            NanoCPUs: options.nanoCpus ?? 64e9,
            MemoryBytes: options.memoryBytes ?? 256 * 2 ** 30,
            GenericResources: (options.generic ?? []).map((each) => ({
              DiscreteResourceSpec: { Kind: each.kind, Value: each.count },
            })),
          },
          Engine: { EngineVersion: "test" },
        },
        status: { state: NodeState.ready, message: "", addr: `192.0.2.${this.#nodeCount}` },
        rpcAddress: "",
        dataPathAddress: "",
        certificateRole: "worker",
      }),
    );
    return id;
  }

  async changeNode(nodeId: string, change: (node: Node) => Node): Promise<void> {
    await this.write((tx) => {
      const node = tx.get("node", nodeId);
      assert(node !== undefined, "node exists");
      tx.update("node", change(node));
    });
  }

  /** The machine loses power: its containers are gone, and the dispatcher finds out. */
  async killNode(nodeId: string): Promise<void> {
    this.#alive.delete(nodeId);
    for (const [taskId, task] of this.containers) if (task.nodeId === nodeId) this.containers.delete(taskId);
    await this.changeNode(nodeId, (node) => ({ ...node, status: { ...node.status, state: NodeState.down } }));
  }

  /** It comes back without its containers and says so. */
  async reviveNode(nodeId: string): Promise<void> {
    this.#alive.add(nodeId);
    await this.changeNode(nodeId, (node) => ({
      ...node,
      status: { ...node.status, state: NodeState.ready },
    }));
    for (const task of this.store.view().list("task", { kind: "node", nodeId })) {
      if (task.status.state >= TaskState.starting && !isTerminal(task.status.state))
        this.report(task.id, TaskState.failed, "node was restarted");
      else this.#step(task);
    }
  }

  async addNetwork(spec: NetworkSpec): Promise<string> {
    const id = newObjectId(this.random);
    await this.write((tx) => tx.create("network", { id, spec }));
    return id;
  }

  async createService(spec: ServiceSpec): Promise<string> {
    const id = newObjectId(this.random);
    const job = spec.Mode?.ReplicatedJob !== undefined || spec.Mode?.GlobalJob !== undefined;
    const jobStatus = { jobIteration: 0, lastExecution: rfc3339(this.clock.wallMs()) };
    await this.write((tx) =>
      tx.create("service", { id, spec, specVersion: 1, ...(job ? { jobStatus } : {}) }),
    );
    return id;
  }

  /** As the control API does it: the old spec is kept, a stale update status goes in the same write. */
  async updateService(serviceId: string, change: (spec: ServiceSpec) => ServiceSpec): Promise<void> {
    await this.write((tx) => {
      const service = tx.get("service", serviceId);
      assert(service !== undefined, "service exists");
      const { updateStatus: _status, ...rest } = service;
      tx.update("service", {
        ...rest,
        spec: change(service.spec),
        previousSpec: service.spec,
        specVersion: Math.max(service.specVersion, service.previousSpecVersion ?? 0) + 1,
        previousSpecVersion: service.specVersion,
      });
    });
  }

  /** A new spec whose tasks are of this image, and otherwise as silence has it. */
  updateImage(serviceId: string, image: string): Promise<void> {
    return this.updateService(serviceId, (spec) => ({
      ...spec,
      TaskTemplate: { ContainerSpec: { Image: image } },
    }));
  }

  async removeService(serviceId: string): Promise<void> {
    await this.write((tx) => tx.remove("service", serviceId));
  }

  service(serviceId: string): Service {
    const service = this.store.view().get("service", serviceId);
    assert(service !== undefined, "service exists");
    return service;
  }

  tasks(serviceId: string): readonly Task[] {
    return this.store.view().list("task", { kind: "service", serviceId });
  }

  running(serviceId: string): readonly Task[] {
    return this.tasks(serviceId).filter(
      (task) => task.status.state === TaskState.running && task.desiredState === TaskState.running,
    );
  }

  async write(plan: Parameters<MemoryStore["update"]>[0]): Promise<void> {
    const done = this.store.update(plan);
    await this.clock.advanceAsync(this.random.below(3) + 1);
    for (let turn = 0; turn < 20; turn += 1) {
      const isDone = await Promise.race([done.then(() => true), Promise.resolve().then(() => false)]);
      if (isDone) return;
      await this.clock.advanceAsync(1);
    }
    await done;
  }

  /** What an agent does: reports an observed state, which only grows. */
  report(taskId: string, state: TaskState, err = ""): void {
    const timestamp = rfc3339(this.clock.wallMs());
    this.store
      .update((tx) => {
        const task = tx.get("task", taskId);
        if (task === undefined || task.status.state >= state) return;
        const ran = state === TaskState.running ? { ranAt: timestamp } : {};
        tx.update("task", {
          ...task,
          status: { ...task.status, ...ran, state, timestamp, message: "reported", err },
        });
      })
      .catch(() => {
        // Not the leader for a moment: an agent keeps its newest state and sends it again.
        this.clock.after(50, () => this.report(taskId, state, err));
      });
  }

  #makeLoops(): LeaderLoops {
    this.images = new NodeImages();
    const { store, clock, random, tally } = this;
    const deps = { store, clock, timers: clock, random, tally, log: this.#options.log };
    return new LeaderLoops(deps, this.images);
  }

  #observe(event: StoreEvent): void {
    if (event.table === "task") {
      const { object } = event;
      this.history.push(
        `${this.clock.monotonicMs()} ${event.action} ${object.serviceName}.${object.slot} ${object.id} ${object.nodeId} ${object.desiredState} ${object.status.state} ${object.status.err}`,
      );
      if (event.action !== "remove") this.#step(object);
    } else this.history.push(`${this.clock.monotonicMs()} ${event.action} ${event.table} ${event.object.id}`);
    for (const listener of this.#listeners) listener(event);
  }

  /** Schedules the worker's next step for the task, if there is one. */
  #step(task: Task): void {
    if (task.nodeId === "" || this.#stepping.has(task.id) || isTerminal(task.status.state)) return;
    if (task.status.state < TaskState.assigned || !this.#alive.has(task.nodeId)) return;
    this.#stepping.add(task.id);
    const isStop = !isLive(task) && this.containers.has(task.id);
    const mostMs = isStop ? this.#options.stopMsMax : this.#options.stepMsMax;
    this.clock.after(this.random.below(mostMs) + 1, () => {
      this.#stepping.delete(task.id);
      const now = this.store.view().get("task", task.id);
      if (now !== undefined && this.#alive.has(now.nodeId)) this.#act(now);
    });
  }

  #act(task: Task): void {
    const { state } = task.status;
    if (isTerminal(state)) return;
    if (!isLive(task)) {
      this.containers.delete(task.id);
      this.report(task.id, TaskState.shutdown);
      return;
    }
    const image = task.spec.ContainerSpec.Image;
    if (state < TaskState.accepted)
      this.report(task.id, image === "reject" ? TaskState.rejected : TaskState.accepted);
    else if (state < TaskState.preparing) this.report(task.id, TaskState.preparing);
    else if (state < TaskState.ready) {
      if (image !== "never") this.report(task.id, TaskState.ready);
    } else if (task.desiredState < TaskState.running) return;
    else if (state < TaskState.starting) this.report(task.id, TaskState.starting);
    else if (state < TaskState.running) this.#run(task, image);
  }

  #run(task: Task, image: string): void {
    this.containers.set(task.id, task);
    this.report(task.id, TaskState.running);
    const [kind, ms] = image.split(":");
    if (kind !== "crash" && kind !== "exit") return;
    this.clock.after(Number(ms), () => {
      if (!this.containers.delete(task.id)) return;
      this.report(
        task.id,
        kind === "crash" ? TaskState.failed : TaskState.complete,
        kind === "crash" ? "task: non-zero exit (1)" : "",
      );
    });
  }
}
