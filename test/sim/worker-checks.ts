/**
 * What must hold between workers: containers of one slot at the same time, and that traffic to a container ends everywhere
 * before it is told to stop. Judges only workers that were left in peace for a while: what a manager can't reach it can't
 * stop, and after a while it is right to give a place to another.
 */
import { NodeState, type Task } from "../../model/objects.ts";
import type { ModelWorker } from "./model-worker.ts";
import type { StoreChecks } from "./store-checks.ts";
import { isWanted, slotOf } from "./store-mirror.ts";
import { Violation } from "./world.ts";

export class WorkerChecks {
  readonly #checks: StoreChecks;
  readonly #workers: () => readonly ModelWorker[];

  constructor(checks: StoreChecks, workers: () => readonly ModelWorker[]) {
    this.#checks = checks;
    this.#workers = workers;
  }

  /** U2, on the workers: no more containers of one slot than the update order allows. */
  started(worker: ModelWorker, task: Task): void {
    const service = this.#checks.mirror.services.get(task.serviceId);
    if (service === undefined || !worker.isSteady) return;
    const others = this.#workers().filter(
      (each) =>
        each.isSteady && this.#isUp(each.nodeId) && !this.#checks.wasLostWhenLet(task.id, each.nodeId),
    );
    const running = others.flatMap((each) =>
      [...each.containers.values()].filter((one) => slotOf(one) === slotOf(task) && one.id !== task.id),
    );
    const mayBeTwo = this.#checks.overlapping.has(service.id);
    // Beside one that starts first, those before it may still be on their way out.
    const counted = mayBeTwo ? running.filter((each) => this.#isWanted(each.id)) : running;
    if (counted.length < (mayBeTwo ? 2 : 1)) return;
    const ids = running.map((each) => each.id).join(", ");
    throw new Violation("U2", `container ${task.id} starts while ${ids} of its slot still runs`);
  }

  /** U16: nobody sends new traffic to a container that is told to stop. */
  stopping(worker: ModelWorker, task: Task): void {
    if (!worker.isSteady) return;
    for (const other of this.#workers()) {
      if (other === worker || !other.isSteady || !other.isTogetherWith(worker)) continue;
      const endpoint = task.networks
        .map(({ networkId }) => other.endpoints.get(networkId)?.get(task.id))
        .find((each) => each?.state === "ready");
      if (endpoint === undefined) continue;
      throw new Violation(
        "U16",
        `task ${task.id} is told to stop while ${other.nodeId} still sends it traffic at ${endpoint.ip}`,
      );
    }
  }

  #isWanted(taskId: string): boolean {
    const task = this.#checks.mirror.tasks.get(taskId);
    return task !== undefined && isWanted(task);
  }

  #isUp(nodeId: string): boolean {
    return this.#checks.mirror.nodes.get(nodeId)?.status.state !== NodeState.down;
  }
}
