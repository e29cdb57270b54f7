/**
 * What the routes work with: the machine's engine, the machine's place in a cluster, and the daemon's facts. Also the
 * one place that says, in Docker's words, why this node can't answer for a cluster. Holds no state of its own.
 */
import { ClusterError } from "../common/errors.ts";
import type { Env } from "../common/env.ts";
import type { Logger } from "../common/log.ts";
import type { MetricsRegistry } from "../common/metrics.ts";
import type { ClusterControl, SwarmLifecycle } from "../model/cluster-control.ts";
import type { NetworkAssignment } from "../model/dispatch.ts";
import type { Engine } from "../model/engine.ts";
import type { EventFeed } from "./event-feed.ts";

/** Of this build; shown by /version, /info and the Server header. */
export interface VersionInfo {
  readonly version: string;
  readonly gitCommit: string;
  /** RFC 3339. */
  readonly buildTime: string;
  /** Of the kernel, `uname -r`. */
  readonly kernelVersion: string;
  /** Docker's word: amd64, arm64. */
  readonly arch: string;
}

export interface ApiContext {
  readonly engine: Engine;
  readonly swarm: SwarmLifecycle;
  readonly env: Pick<Env, "clock" | "timers" | "random">;
  readonly log: Logger;
  readonly version: VersionInfo;
  readonly metrics: MetricsRegistry;
  readonly events: EventFeed;
  /** Networks of the cluster that are set up on this machine, as its managers told: all that a worker knows of. */
  readonly networksHere: () => readonly NetworkAssignment[];
}

const NOT_IN_SWARM =
  'This node is not a swarm manager. Use "docker swarm init" or "docker swarm join" to connect this node to swarm and try again.';
const IS_WORKER =
  "This node is not a swarm manager. Worker nodes can't be used to view or modify cluster state. Please run this command on a manager node or promote the current node to a manager.";
export const IS_LOCKED: string =
  'Swarm is encrypted and needs to be unlocked before it can be used. Please use "docker swarm unlock" to unlock it.';
const IS_STARTING = "This node is still joining its swarm. Try again in a moment";

export const ALREADY_IN_SWARM =
  'This node is already part of a swarm. Use "docker swarm leave" to leave this swarm and join another one.';
export const NOT_PART_OF_SWARM = "This node is not part of a swarm";

/** Why this node is no active manager. */
export function notManager(swarm: SwarmLifecycle): ClusterError {
  const state = swarm.state();
  switch (state.localNodeState) {
    case "inactive":
      return new ClusterError("unavailable", NOT_IN_SWARM);
    case "locked":
      return new ClusterError("unavailable", IS_LOCKED);
    case "pending":
      return new ClusterError("unavailable", IS_STARTING, { retryable: true });
    case "active":
      return new ClusterError("unavailable", IS_WORKER);
    case "error":
      return new ClusterError("unavailable", state.error === "" ? NOT_IN_SWARM : state.error);
  }
}

/** The control of this manager; throws Docker's 503 elsewhere. */
export function managerOf(context: ApiContext): ClusterControl {
  const control = context.swarm.control();
  if (control === undefined) throw notManager(context.swarm);
  return control;
}
