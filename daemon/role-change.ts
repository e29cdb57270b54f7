/**
 * Takes up the role that the cluster wants this node to have, again with back-off until that worked: a session tells
 * the role only when something about the node changes, and what was in the way (no leader, a manager that is none any
 * more) may be gone before.
 */
import { Backoff } from "../common/backoff.ts";
import type { Cancel, Env } from "../common/env.ts";
import { ClusterError } from "../common/errors.ts";
import type { Logger } from "../common/log.ts";
import type { NodeRole } from "../model/specs.ts";

const RETRY = { firstMs: 500, maxMs: 15_000 } as const;

/**
 * Whether nothing is to be done for `wanted`. A certificate may say it before (it was renewed just then): a manager that
 * could not join Raft is none yet, and one whose manager half runs is no worker yet.
 */
export function hasRole(
  node: { readonly state: { readonly role: NodeRole }; readonly manager: object | undefined },
  wanted: NodeRole,
): boolean {
  return node.state.role === wanted && (node.manager !== undefined) === (wanted === "manager");
}

export interface RoleChangeDeps {
  readonly env: Pick<Env, "timers" | "random">;
  readonly log: Logger;
  /** Whether the node has the role then, or had it already; rejects if it could not be taken up. */
  readonly change: (role: NodeRole) => Promise<boolean>;
}

export class RoleChange {
  readonly #deps: RoleChangeDeps;
  readonly #backoff: Backoff;
  #wanted: NodeRole | undefined;
  #isUnderWay = false;
  #cancel: Cancel | undefined;

  constructor(deps: RoleChangeDeps) {
    this.#deps = deps;
    this.#backoff = new Backoff(deps.env.random, RETRY);
  }

  /** As often as it is said; the last word counts. */
  want(role: NodeRole): void {
    this.#wanted = role;
    this.#cancel?.();
    if (!this.#isUnderWay) void this.#attempt(role);
  }

  /** What is under way goes on to its end. */
  stop(): void {
    this.#wanted = undefined;
    this.#cancel?.();
  }

  async #attempt(role: NodeRole): Promise<void> {
    this.#isUnderWay = true;
    const isDone = await this.#deps.change(role).catch((caught: unknown) => {
      this.#deps.log.warn("role could not be changed, trying again", {
        role,
        error: ClusterError.from(caught),
      });
      return false;
    });
    this.#isUnderWay = false;
    if (isDone) this.#backoff.reset();
    const wanted = this.#wanted;
    if (wanted === undefined || (isDone && wanted === role)) return;
    this.#cancel = this.#deps.env.timers.after(isDone ? 0 : this.#backoff.nextMs(), () => this.want(wanted));
  }
}
