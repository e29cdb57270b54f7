/**
 * The worker half of a node in a cluster: agent, tasks, network. Started when the node joins or the daemon restarts,
 * stopped (leaving containers and traffic as they are) with the daemon, emptied when the node leaves.
 */
import path from "node:path";
import type { Cancel, Component, Env } from "../common/env.ts";
import { hasCode } from "../common/errors.ts";
import type { Logger } from "../common/log.ts";
import type { AssignmentSet, PeerNode, SessionInfo } from "../model/dispatch.ts";
import type { Engine } from "../model/engine.ts";
import type { NodeDescription } from "../model/objects.ts";
import type { NodeAvailability, NodeRole } from "../model/specs.ts";
import { Agent, type DispatcherConnector } from "../worker/agent/agent.ts";
import { KeptImages } from "../worker/images/kept-images.ts";
import { DRIVERS_CHECK_MS, IMAGE_INVENTORY_COUNT_MAX, IMAGE_REPORT_DELAY_MS } from "../worker/limits.ts";
import type { WorkerNetwork } from "../worker/network/worker-network.ts";
import { TASK_ID_LABEL } from "../worker/tasks/container-config.ts";
import { ContainerControllerFactory } from "../worker/tasks/container-controller.ts";
import { LevelTaskDb } from "../worker/tasks/task-db.ts";
import { TaskManager } from "../worker/tasks/task-manager.ts";

export interface WorkerNodeOptions {
  readonly env: Env;
  readonly log: Logger;
  readonly engine: Engine;
  readonly network: WorkerNetwork;
  readonly folder: string;
  readonly connect: DispatcherConnector;
  readonly description: () => NodeDescription;
  readonly rpcAddress: string;
  readonly addr: string;
  readonly dataPathAddress: string;
  readonly availability: NodeAvailability;
  readonly managers: readonly string[];
  readonly managersChanged: (managers: SessionInfo["managers"]) => void;
  readonly roleWanted: (role: NodeRole) => void;
  readonly renewalWanted: () => void;
  readonly removed: () => void;
}

export class WorkerNode implements Component {
  readonly #options: WorkerNodeOptions;
  readonly #tasks: TaskManager;
  readonly #agent: Agent;
  readonly #kept: KeptImages;
  #endImageWatch: (() => void) | undefined;
  #cancelReport: Cancel | undefined;
  #cancelDrivers: Cancel | undefined;
  #peers: readonly PeerNode[] = [];

  constructor(options: WorkerNodeOptions) {
    this.#options = options;
    const { env, log, engine, network } = options;
    const { clock, timers, random } = env;
    this.#tasks = new TaskManager({
      clock,
      timers,
      random,
      log: log.child({ part: "tasks" }),
      controllers: new ContainerControllerFactory({
        engine,
        network,
        timers,
        log,
        description: options.description,
      }),
      db: new LevelTaskDb(path.join(options.folder, "tasks"), (error) =>
        log.error("task record could not be written", { error }),
      ),
      report: (taskId, status) => this.#agent.report(taskId, status),
      forget: (taskId) => this.#agent.forget(taskId),
    });
    this.#kept = new KeptImages({
      images: engine.images,
      disk: env.disk,
      timers,
      random,
      log: log.child({ part: "images" }),
      file: path.join(options.folder, "kept-images.json"),
    });
    this.#agent = new Agent(
      {
        clock,
        timers,
        random,
        log: log.child({ part: "agent" }),
        connect: options.connect,
        applyNetwork: (set) => this.#applyNetwork(set),
        applyTasks: (set) => {
          this.#tasks.apply(set);
          this.#kept.apply(set.images);
        },
        statusCommitted: () => {},
      },
      options,
    );
  }

  get isConnected(): boolean {
    return this.#agent.isConnected;
  }

  /** Why it is not; "" if it is, or has not been tried. */
  get trouble(): string {
    return this.#agent.trouble;
  }

  /** The other nodes. */
  get peers(): readonly PeerNode[] {
    return this.#peers;
  }

  async start(): Promise<void> {
    await this.#options.env.disk.makeFolder(path.join(this.#options.folder, "tasks"));
    await this.#kept.start();
    await this.#tasks.start();
    const { network, engine } = this.#options;
    network.onGuests((report) => this.#agent.setGuests(report));
    engine.networks.setGuests?.(network.guests);
    this.#endImageWatch = engine.images.onChange(() => this.#reportImagesSoon());
    this.#reportImages();
    this.#watchDrivers(this.#drivers());
    this.#agent.start();
  }

  /** Containers and traffic go on. */
  async stop(): Promise<void> {
    this.#stopReports();
    this.#agent.stop();
    await this.#tasks.stop();
    this.#options.engine.networks.setGuests?.(undefined);
    await this.#options.network.close();
  }

  /** The certificate has changed. */
  reconnect(): void {
    this.#agent.reconnect();
  }

  /** Stops and removes everything that the cluster had here. */
  async leave(): Promise<void> {
    this.#stopReports();
    this.#agent.stop();
    await this.#tasks.stop();
    const { containers } = this.#options.engine;
    const ours = containers.summaries({}).filter((each) => each.labels[TASK_ID_LABEL] !== undefined);
    await Promise.all(
      ours.map(async (each) => {
        try {
          if (each.state.isRunning) await containers.stop(each.id, {});
          await containers.remove(each.id, { force: true, volumes: true, link: false });
        } catch (caught) {
          if (!hasCode(caught, "not_found")) throw caught;
        }
      }),
    );
    this.#options.engine.networks.setGuests?.(undefined);
    await this.#options.network.removeAll();
    await this.#kept.releaseAll();
  }

  #stopReports(): void {
    this.#cancelDrivers?.();
    this.#kept.stop();
    this.#endImageWatch?.();
    this.#cancelReport?.();
    this.#cancelReport = undefined;
  }

  #reportImagesSoon(): void {
    this.#cancelReport ??= this.#options.env.timers.after(IMAGE_REPORT_DELAY_MS, () => {
      this.#cancelReport = undefined;
      this.#reportImages();
    });
  }

  #reportImages(): void {
    this.#agent.setImages(this.#options.engine.images.inventory(IMAGE_INVENTORY_COUNT_MAX));
  }

  #drivers(): string {
    return this.#options.engine.volumes.driverNames().join();
  }

  /** A plugin may come and go without a word: it is a socket in a folder. The scheduler asks which node has which. */
  #watchDrivers(told: string): void {
    this.#cancelDrivers = this.#options.env.timers.after(DRIVERS_CHECK_MS, () => {
      const drivers = this.#drivers();
      if (drivers !== told) this.#agent.describe();
      this.#watchDrivers(drivers);
    });
  }

  async #applyNetwork(set: AssignmentSet): Promise<readonly string[]> {
    this.#peers = set.mesh?.peers ?? [];
    const { errors } = await this.#options.network.apply({ networks: set.networks, mesh: set.mesh });
    return errors;
  }
}
