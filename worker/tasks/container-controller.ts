/**
 * A task as a container of this machine's engine, on the cluster's networks. Finds the container of its task again after
 * a restart of the daemon by its label, so that nothing is started twice.
 */
import type { Timers } from "../../common/env.ts";
import { ClusterError, hasCode } from "../../common/errors.ts";
import type { Logger } from "../../common/log.ts";
import type {
  AttachedNetworks,
  ContainerEngine,
  ContainerSummary,
  Engine,
  NetworkNamespaceTarget,
} from "../../model/engine.ts";
import type { NodeDescription, Task } from "../../model/objects.ts";
import { expandContainerSpec, templateContext } from "../../model/templates.ts";
import { DEFAULT_STOP_GRACE_SECONDS, DRAIN_SETTLE_MS, HEALTH_POLL_MS } from "../limits.ts";
import {
  containerConfig,
  hostConfig,
  stopTimeoutSeconds,
  TASK_ID_LABEL,
  taskContainerName,
  taskFiles,
} from "./container-config.ts";
import {
  type ControllerFactory,
  HEARD,
  type TaskController,
  type TaskDependencies,
  type TaskEnd,
  type TaskFacts,
} from "./controller.ts";

/** What tasks need of the cluster's network on this node; worker/network implements it. */
export interface TaskNetwork {
  attach(task: Task, target: NetworkNamespaceTarget): Promise<AttachedNetworks & { readonly meshIp: string }>;
  /** New connections stop; established ones go on. */
  drain(taskId: string): Promise<void>;
  detach(taskId: string): Promise<void>;
  /** After a restart of the daemon, for a container that still runs. Returns `meshIp`, or what that is where it is "". */
  adopt(task: Task, target: NetworkNamespaceTarget, meshIp: string): Promise<string>;
}

export interface ContainerControllerDeps {
  readonly engine: Engine;
  /** What this machine is, for the placeholders of specs. */
  readonly description: () => NodeDescription;
  readonly network: TaskNetwork;
  readonly timers: Timers;
  readonly log: Logger;
}

/** Networks that are the machine's own rather than the cluster's, by the name or id under which specs refer to them. */
const MACHINE_NETWORKS: ReadonlySet<string> = new Set(["host", "none", "bridge"]);

export class ContainerControllerFactory implements ControllerFactory {
  readonly #deps: ContainerControllerDeps;

  constructor(deps: ContainerControllerDeps) {
    this.#deps = deps;
  }

  create(task: Task): TaskController {
    return new ContainerController(this.#deps, task);
  }
}

class ContainerController implements TaskController {
  readonly #deps: ContainerControllerDeps;
  readonly #task: Task;
  #meshIp: string | undefined;
  /** Whether this daemon made the container: one made by a former daemon has lost its network callbacks until adopted. */
  #isOurs = false;
  #isAdopted = false;

  constructor(deps: ContainerControllerDeps, task: Task) {
    this.#deps = deps;
    this.#task = task;
    this.#meshIp = task.status.meshIp;
  }

  async prepare(dependencies: TaskDependencies, signal: AbortSignal): Promise<void> {
    const { engine } = this.#deps;
    const found = this.#find();
    if (found !== undefined && found.state.status !== "created") return;
    // Its files and callbacks died with the daemon that made it.
    if (found !== undefined && !this.#isOurs) await this.remove();
    else if (found !== undefined) return;
    const context = templateContext(this.#task, {
      id: this.#task.nodeId,
      description: this.#deps.description(),
    });
    const ContainerSpec = expandContainerSpec(this.#task.spec.ContainerSpec, context);
    const task = { ...this.#task, spec: { ...this.#task.spec, ContainerSpec } };
    const files = taskFiles(task, dependencies, context);
    const mounted = (ContainerSpec.Mounts ?? []).filter((mount) => mount.Type === "image");
    for (const image of [ContainerSpec.Image, ...mounted.map((mount) => mount.Source ?? "")])
      await this.#ensureImage(image, signal);
    signal.throwIfAborted();
    const mode = this.#machineNetwork();
    await engine.containers.create({
      name: taskContainerName(task),
      config: containerConfig(task),
      hostConfig: hostConfig(task, mode ?? "default"),
      task: {
        files,
        ...(mode === undefined
          ? {
              attachNetwork: (target: NetworkNamespaceTarget) => this.#attach(target),
              detachNetwork: () => this.#detach(),
            }
          : {}),
      },
    });
    this.#isOurs = true;
  }

  /**
   * Users, and their scripts, look for Docker's words in a task's error; why a registry did not give the image is for its
   * message. Where this machine could not take it, that alone is the reason.
   */
  async #ensureImage(image: string, signal: AbortSignal): Promise<void> {
    const { registryAuth } = this.#task;
    try {
      const auth = registryAuth === undefined ? {} : { registryAuth };
      await this.#deps.engine.images.ensure(image, auth, signal);
    } catch (caught) {
      const error = ClusterError.from(caught);
      const { code, message, retryable } = error;
      const isTold = hasCode(
        error,
        "cancelled",
        "unauthenticated",
        "permission_denied",
        "resource_exhausted",
      );
      if (signal.aborted || isTold) throw error;
      this.#deps.log.warn("image could not be had", { taskId: this.#task.id, image, error });
      const details = code === "not_found" ? {} : { [HEARD]: message };
      throw new ClusterError(code, `No such image: ${image}`, { cause: error, retryable, details });
    }
  }

  async start(dependencies: TaskDependencies, signal: AbortSignal): Promise<TaskFacts> {
    // Prepared by a former daemon: made again, since what it was given died with that one.
    if (!this.#isOurs && this.#find()?.state.status === "created") await this.prepare(dependencies, signal);
    const container = this.#mustFind();
    if (container.state.isRunning) await this.#adopt(container);
    else if (container.state.status === "created") await this.#startContainer(container.id);
    await this.#untilHealthy(container.id, signal);
    return this.facts();
  }

  /** Errors in Docker's sentence, which tells them from those of a container that ran. */
  async #startContainer(id: string): Promise<void> {
    try {
      await this.#containers.start(id);
    } catch (caught) {
      const { code, message, details, retryable } = ClusterError.from(caught);
      const text = `starting container failed: ${message}`;
      throw new ClusterError(code, text, { cause: caught, details, retryable });
    }
  }

  async watch(signal: AbortSignal): Promise<TaskEnd> {
    const container = this.#mustFind();
    if (container.state.isRunning) await this.#adopt(container);
    const unhealthy = new AbortController();
    const stopWatchingHealth = this.#onUnhealthy(container.id, unhealthy);
    const ended = AbortSignal.any([signal, unhealthy.signal]);
    try {
      const exit = await this.#containers.wait(container.id, "not-running", { signal: ended });
      await this.#detachAdopted();
      return taskEnd(exit.exitCode, exit.error);
    } catch (caught) {
      if (!unhealthy.signal.aborted || signal.aborted) throw caught;
      await this.#drainAndStop(container.id);
      const { exitCode } = this.#containers.summary(container.id).state;
      // As Docker: an unhealthy container that ends with 0 on the stop signal completes, and is replaced all the same.
      return exitCode === 0 ? taskEnd(0, "") : taskEnd(exitCode, "dockerexec: unhealthy container");
    } finally {
      stopWatchingHealth();
    }
  }

  async shutdown(): Promise<void> {
    const container = this.#find();
    if (container?.state.isRunning === true || container?.state.isPaused === true)
      await this.#drainAndStop(container.id);
    else await this.#detachAdopted();
  }

  async remove(): Promise<void> {
    const container = this.#find();
    if (container === undefined) return;
    try {
      // Anonymous volumes belong to the task alone.
      await this.#containers.remove(container.id, { force: true, volumes: true, link: false });
    } catch (caught) {
      if (!hasCode(caught, "not_found")) throw caught;
    }
  }

  facts(): TaskFacts {
    const container = this.#find();
    const ports = this.#task.ports.filter((port) => port.PublishMode === "host");
    return {
      ...(container === undefined
        ? {}
        : {
            container: {
              containerId: container.id,
              pid: container.state.pid,
              exitCode: container.state.exitCode,
            },
          }),
      ...(this.#meshIp === undefined ? {} : { meshIp: this.#meshIp }),
      ...(ports.length === 0 ? {} : { ports }),
    };
  }

  get #containers(): ContainerEngine {
    return this.#deps.engine.containers;
  }

  #find(): ContainerSummary | undefined {
    return this.#containers.summaries({ [TASK_ID_LABEL]: this.#task.id })[0];
  }

  #mustFind(): ContainerSummary {
    const container = this.#find();
    if (container === undefined) {
      throw new ClusterError("not_found", `No such container: ${taskContainerName(this.#task)}`);
    }
    return container;
  }

  #machineNetwork(): string | undefined {
    const targets = (this.#task.spec.Networks ?? []).map((each) => each.Target);
    return targets.find((target) => MACHINE_NETWORKS.has(target));
  }

  async #attach(target: NetworkNamespaceTarget): Promise<AttachedNetworks> {
    const attached = await this.#deps.network.attach(this.#task, target);
    this.#meshIp = attached.meshIp;
    this.#isAdopted = true;
    return attached;
  }

  async #detach(): Promise<void> {
    try {
      await this.#deps.network.detach(this.#task.id);
    } catch (caught) {
      this.#deps.log.warn("task network could not be detached", {
        taskId: this.#task.id,
        error: ClusterError.from(caught),
      });
    }
  }

  async #adopt(container: ContainerSummary): Promise<void> {
    if (this.#isAdopted || this.#machineNetwork() !== undefined) return;
    const target = { containerId: container.id, pid: container.state.pid };
    this.#meshIp = await this.#deps.network.adopt(this.#task, target, this.#meshIp ?? "");
    this.#isAdopted = true;
  }

  async #drainAndStop(containerId: string): Promise<void> {
    const hasNetwork = this.#machineNetwork() === undefined;
    if (hasNetwork) await this.#deps.network.drain(this.#task.id);
    if (hasNetwork && this.#isReachable()) await this.#pause(DRAIN_SETTLE_MS);
    await this.#containers.stop(containerId, {
      timeoutSeconds: stopTimeoutSeconds(this.#task.spec.ContainerSpec, DEFAULT_STOP_GRACE_SECONDS),
    });
    await this.#detachAdopted();
  }

  /**
   * The engine calls detachNetwork for containers that this daemon made; for adopted ones it is ours to do, however they ended,
   * or their addresses and host ports would be taken for as long as the daemon runs.
   */
  async #detachAdopted(): Promise<void> {
    if (!this.#isOurs && this.#machineNetwork() === undefined) await this.#detach();
  }

  async #untilHealthy(containerId: string, signal: AbortSignal): Promise<void> {
    while (true) {
      signal.throwIfAborted();
      const { state } = this.#containers.summary(containerId);
      if (!state.isRunning) throw startFailure(state.exitCode, state.error);
      if (state.health === "none" || state.health === "healthy") return;
      if (state.health === "unhealthy") {
        await this.#containers.stop(containerId, {});
        const { exitCode } = this.#containers.summary(containerId).state;
        throw new ClusterError(
          "internal",
          `task: non-zero exit (${exitCode}): dockerexec: unhealthy container`,
        );
      }
      await this.#pause(HEALTH_POLL_MS);
    }
  }

  /** Whether others could have sent it traffic. */
  #isReachable(): boolean {
    return this.#task.networks.length > 0 || this.#task.ports.some((port) => port.PublishMode === "ingress");
  }

  #pause(delayMs: number): Promise<void> {
    return new Promise((resolve) => {
      this.#deps.timers.after(delayMs, resolve);
    });
  }

  #onUnhealthy(containerId: string, unhealthy: AbortController): () => void {
    if (this.#containers.summary(containerId).state.health === "none") return () => {};
    return this.#deps.timers.every(HEALTH_POLL_MS * 4, () => {
      if (this.#isUnhealthy(containerId)) unhealthy.abort();
    });
  }

  /** By the id: five times a second for each task, a search among all containers would add up. */
  #isUnhealthy(containerId: string): boolean {
    try {
      const { state } = this.#containers.summary(containerId);
      return state.isRunning && state.health === "unhealthy";
    } catch (caught) {
      if (hasCode(caught, "not_found")) return false;
      throw caught;
    }
  }
}

function taskEnd(exitCode: number, error: string): TaskEnd {
  if (exitCode === 0 && error === "") return { exitCode, err: "" };
  return { exitCode, err: `task: non-zero exit (${exitCode})${error === "" ? "" : `: ${error}`}` };
}

function startFailure(exitCode: number, error: string): ClusterError {
  return new ClusterError("internal", taskEnd(exitCode, error).err || "task: ended while it started");
}
