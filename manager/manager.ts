/**
 * A manager: the member of the cluster's brain that runs on this machine. Builds Raft, store, CA, dispatcher and control
 * API, and runs the leader-only parts while this member leads. The daemon starts it on nodes whose role is manager and
 * stops it when the role changes. It runs no containers and serves no HTTP.
 */
import { ClusterError } from "../common/errors.ts";
import type { Component, Env } from "../common/env.ts";
import type { Logger } from "../common/log.ts";
import type { ClusterControl } from "../model/cluster-control.ts";
import type { LiveIdentity } from "../proto/rpc-identity.ts";
import type { RpcServer } from "../proto/rpc-server.ts";
import type { NewCluster } from "./ca/new-cluster.ts";

/** How the manager's state begins. */
export type ManagerMode =
  | { readonly kind: "bootstrap"; readonly newCluster: NewCluster }
  /** A new member: a manager's certificate is there, the state comes from the others. */
  | { readonly kind: "join"; readonly remoteAddrs: readonly string[] }
  /** The folder holds the state. */
  | { readonly kind: "restart" }
  /** Disaster: the state in the folder becomes a cluster with this member alone. */
  | { readonly kind: "forceNewCluster" };

export interface ManagerOptions {
  readonly env: Env;
  readonly log: Logger;
  /** Its role must be manager. The daemon sets a renewed certificate on it and on the server. */
  readonly identity: LiveIdentity;
  /** Absolute; made if missing. Everything the manager keeps is here. */
  readonly folder: string;
  /** Listening by the time start() is called. The manager adds and removes its services. */
  readonly server: RpcServer;
  /** "host:port" where other nodes reach `server`. */
  readonly advertiseAddr: string;
  readonly mode: ManagerMode;
  /** Called once when the manager can't go on (its disk failed): the process must end. */
  readonly onFatal: (error: unknown) => void;
}

export class Manager implements Component {
  readonly #options: ManagerOptions;
  readonly #removedListeners = new Set<() => void>();

  constructor(options: ManagerOptions) {
    this.#options = options;
  }

  /** For the API of this machine. Usable once start() has resolved. */
  get control(): ClusterControl {
    throw new ClusterError("unavailable", `Manager in ${this.#options.folder} has not started`);
  }

  /** "host:port" of the managers that are known, this one first. For the local agent. */
  get managerAddrs(): readonly string[] {
    return [this.#options.advertiseAddr];
  }

  /** Resolves when the state is there and this member takes part in Raft. */
  async start(): Promise<void> {
    await Promise.resolve();
  }

  async stop(): Promise<void> {
    await Promise.resolve();
  }

  /** Called when this member was removed from Raft by the others (demoted, or its node was removed). */
  onRemoved(listener: () => void): () => void {
    this.#removedListeners.add(listener);
    return () => this.#removedListeners.delete(listener);
  }
}
