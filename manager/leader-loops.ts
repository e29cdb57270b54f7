/**
 * Everything that only the leader runs, built and started in the order of the data's way: what frees or moves tasks last,
 * so that it sees a settled state. The manager starts this when it becomes the leader and stops it when it no longer is;
 * a stopped one is not started again, a new one is built.
 */
import type { Component } from "../common/env.ts";
import { Allocator } from "./allocator/allocator.ts";
import { ConstraintEnforcer } from "./orchestrator/constraint-enforcer.ts";
import { Orchestrator } from "./orchestrator/orchestrator.ts";
import { StartGate } from "./orchestrator/start-gate.ts";
import { TaskReaper } from "./orchestrator/task-reaper.ts";
import type { LoopDeps } from "./reconcile-loop.ts";
import { Scheduler } from "./scheduler/scheduler.ts";
import { Updater } from "./updater/updater.ts";

export class LeaderLoops implements Component {
  readonly #loops: readonly Component[];

  constructor(deps: LoopDeps) {
    this.#loops = [
      new Allocator(deps),
      new Scheduler(deps),
      new Orchestrator(deps),
      new Updater(deps),
      new StartGate(deps),
      new ConstraintEnforcer(deps),
      new TaskReaper(deps),
    ];
  }

  async start(): Promise<void> {
    for (const loop of this.#loops) await loop.start();
  }

  async stop(): Promise<void> {
    await Promise.all(this.#loops.map(async (loop) => loop.stop()));
  }
}

/** Builds and starts all of them. `stop()` of what is returned ends them; it resolves when their last writes have settled. */
export async function startLeaderLoops(deps: LoopDeps): Promise<Component> {
  const loops = new LeaderLoops(deps);
  await loops.start();
  return loops;
}
