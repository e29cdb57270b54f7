/**
 * Everything that only the leader runs, built and started in the order of the data's way: what frees or moves tasks last,
 * so that it sees a settled state. The manager starts this when it becomes the leader and stops it when it no longer is;
 * a stopped one is not started again, a new one is built.
 */
import type { Component } from "../common/env.ts";
import { Allocator } from "./allocator/allocator.ts";
import { ImageKeeper } from "./images/image-keeper.ts";
import type { NodeImages } from "./node-images.ts";
import { ConstraintEnforcer } from "./orchestrator/constraint-enforcer.ts";
import { Orchestrator } from "./orchestrator/orchestrator.ts";
import { StartGate } from "./orchestrator/start-gate.ts";
import { TaskReaper } from "./orchestrator/task-reaper.ts";
import type { LoopDeps, ReconcileLoop } from "./reconcile-loop.ts";
import { Scheduler } from "./scheduler/scheduler.ts";
import { Updater } from "./updater/updater.ts";

export class LeaderLoops implements Component {
  readonly #loops: readonly ReconcileLoop[];

  /** `images`: what the dispatcher of the same term is told by nodes. */
  constructor(deps: LoopDeps, images: NodeImages) {
    this.#loops = [
      new Allocator(deps),
      new Scheduler(deps, images),
      new Orchestrator(deps),
      new Updater(deps),
      new StartGate(deps),
      new ConstraintEnforcer(deps),
      new TaskReaper(deps),
      new ImageKeeper(deps, images),
    ];
  }

  start(): void {
    for (const loop of this.#loops) loop.start();
  }

  /** Resolves when their last writes have settled. */
  async stop(): Promise<void> {
    await Promise.all(this.#loops.map((loop) => loop.stop()));
  }
}
