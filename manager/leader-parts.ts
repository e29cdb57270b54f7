/**
 * Starts and stops what only the leader runs: dispatcher, role keeper, and the loops (orchestrators, allocator,
 * scheduler…). All derive what they know from the store, so that each term begins with new ones.
 */
import type { Component, Env } from "../common/env.ts";
import type { Logger } from "../common/log.ts";
import { RotationKeeper } from "./ca/root-rotation.ts";
import { Dispatcher } from "./dispatcher/dispatcher.ts";
import { LeaderLoops } from "./leader-loops.ts";
import { LEADER_RETRY_MS } from "./limits.ts";
import type { LoopTally } from "./loop-tally.ts";
import { NodeImages } from "./node-images.ts";
import type { ReplicatedLog } from "./raft/replicated-log.ts";
import { RoleKeeper } from "./role-keeper.ts";
import type { Store } from "./store/store.ts";

export interface LeaderPartsDeps {
  readonly env: Env;
  readonly store: Store;
  readonly raft: ReplicatedLog;
  readonly log: Logger;
  readonly tally?: LoopTally;
}

interface Term {
  readonly term: number;
  readonly dispatcher: Dispatcher;
  readonly images: NodeImages;
  readonly components: readonly Component[];
}

export class LeaderParts implements Component {
  readonly #deps: LeaderPartsDeps;
  #unsubscribe: (() => void) | undefined;
  #current: Term | undefined;

  constructor(deps: LeaderPartsDeps) {
    this.#deps = deps;
  }

  /** Undefined while another member leads. */
  get dispatcher(): Dispatcher | undefined {
    return this.#current?.dispatcher;
  }

  /** What nodes said of their images in this term; undefined while another member leads. */
  get nodeImages(): NodeImages | undefined {
    return this.#current?.images;
  }

  start(): void {
    const { raft } = this.#deps;
    this.#unsubscribe = raft.onLeadership(() => this.#align());
    this.#align();
  }

  stop(): void {
    this.#unsubscribe?.();
    this.#unsubscribe = undefined;
    this.#end();
  }

  #align(): void {
    const { raft } = this.#deps;
    if (this.#current !== undefined && (!raft.isLeader || raft.term !== this.#current.term)) this.#end();
    if (this.#current === undefined && raft.isLeader) this.#begin(raft.term);
  }

  #begin(term: number): void {
    const { env, store, raft, log, tally } = this.#deps;
    const { clock, timers, random } = env;
    const images = new NodeImages();
    const dispatcher = new Dispatcher({
      store,
      images,
      clock,
      timers,
      random,
      log,
      failed: (error) => this.#failed(term, error),
    });
    const roles = new RoleKeeper({ store, raft, clock, timers, log });
    const loops = new LeaderLoops(
      { store, clock, timers, random, log, ...(tally === undefined ? {} : { tally }) },
      images,
    );
    const rotation = new RotationKeeper({ store, log });
    const components: readonly Component[] = [dispatcher, roles, rotation, loops];
    this.#current = { term, dispatcher, images, components };
    log.info("leading", { term });
    for (const component of components) this.#run(() => component.start());
  }

  #end(): void {
    const current = this.#current;
    if (current === undefined) return;
    this.#current = undefined;
    this.#deps.log.info("no longer leading", { term: current.term });
    for (const component of current.components.toReversed()) this.#run(() => component.stop());
  }

  /** Writes fail though this member believed to lead: all start over, if it still does a moment later. */
  #failed(term: number, error: unknown): void {
    if (this.#current?.term !== term) return;
    this.#deps.log.warn("leader's writes fail, its parts start over", { term, error });
    this.#end();
    this.#deps.env.timers.after(LEADER_RETRY_MS, () => {
      if (this.#unsubscribe !== undefined) this.#align();
    });
  }

  /** Called in the same turn, so that a part is started before anything reaches it. */
  #run(action: () => Promise<void> | void): void {
    const failed = (error: unknown): void => this.#deps.log.error("part of the leader failed", { error });
    try {
      Promise.resolve(action()).catch(failed);
    } catch (error) {
      failed(error);
    }
  }
}
