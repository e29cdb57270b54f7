/**
 * ClusterControl on every manager: reads from the local replica after a linearizable barrier, writes made by the leader,
 * here or over gRPC. When a call returns, the local replica holds what it wrote. The API and the daemon are its callers.
 */
import type { Client, MethodDefinition } from "@grpc/grpc-js";
import { clusterOf } from "../ca/authority.ts";
import { writeBackup } from "../backup.ts";
import { rfc3339 } from "../../common/time.ts";
import { BoundedQueue } from "../../common/bounded-queue.ts";
import { ClusterError, hasCode } from "../../common/errors.ts";
import type { Env } from "../../common/env.ts";
import { newObjectId } from "../../common/ids.ts";
import type { Logger } from "../../common/log.ts";
import type {
  ClusterControl,
  CommittedChanges,
  ClusterLogLine,
  LogSelector,
  ManagerReachability,
  UpdateClusterOptions,
  UpdateServiceOptions,
  Written,
} from "../../model/cluster-control.ts";
import type { LogOptions } from "../../model/engine.ts";
import { NodeState, type StoreEvent } from "../../model/objects.ts";
import type {
  ConfigSpec,
  ImageSpec,
  NetworkSpec,
  NodeSpec,
  SecretSpec,
  ServiceSpec,
} from "../../model/specs.ts";
import type { StoreView } from "../../model/store-view.ts";
import type { shoal } from "../../proto/messages.ts";
import { callUnary } from "../../proto/rpc-client.ts";
import type { LiveIdentity } from "../../proto/rpc-identity.ts";
import { controlService } from "../../proto/services.ts";
import { type Attempt, type LeaderLink, OUTCOME_UNKNOWN } from "../leader-link.ts";
import { CONTROL_WATCH_COUNT_MAX, LOCAL_COPY_WAIT_MS } from "../limits.ts";
import type { NodeImages } from "../node-images.ts";
import type { ReplicatedLog, StateMachine } from "../raft/replicated-log.ts";
import type { Store, WatchItem } from "../store/store.ts";
import type { ControlWriter, Outcome } from "./control-writer.ts";
import { readTaskLogs } from "./task-logs.ts";
import { isSameJson } from "./validate/rules.ts";
import { withoutNulls } from "./validate/shape.ts";

export interface ControlApiDeps {
  readonly store: Store & Pick<StateMachine, "snapshot">;
  readonly raft: ReplicatedLog;
  readonly link: Pick<LeaderLink, "run">;
  readonly writer: ControlWriter;
  /** What nodes say of their images to this member; undefined while another leads. */
  readonly nodeImages: () => NodeImages | undefined;
  readonly identity: LiveIdentity;
  /** "host:port" where this machine reaches its own node. */
  readonly selfAddr: string;
  readonly env: Env;
  readonly log: Logger;
}

type Response = shoal.v1.WriteResponse.$Properties;

interface Write<Request> {
  readonly local: () => Promise<Outcome>;
  readonly method: MethodDefinition<Request, Response>;
  readonly request: Request;
  /** Asked when a repeated try is refused: true if an earlier one has taken effect. */
  readonly isDone: (view: StoreView) => boolean;
}

const encoder = new TextEncoder();

function json(spec: unknown): Uint8Array {
  return encoder.encode(JSON.stringify(spec));
}

export class ControlApi implements ClusterControl {
  readonly #deps: ControlApiDeps;
  readonly #stopping = new AbortController();

  constructor(deps: ControlApiDeps) {
    this.#deps = deps;
  }

  /** Ends watches and log streams. */
  stop(): void {
    this.#stopping.abort();
  }

  async view(signal?: AbortSignal): Promise<StoreView> {
    await this.#deps.raft.readBarrier(signal === undefined ? {} : { signal });
    return this.#deps.store.view();
  }

  async backup(): Promise<Uint8Array> {
    const { store, raft, env } = this.#deps;
    await raft.readBarrier();
    const cluster = clusterOf(store.view());
    // Without a pause between them these are of one state.
    const { entries, index, term } = {
      entries: store.snapshot().entries(),
      index: raft.appliedIndex,
      term: raft.term,
    };
    return writeBackup({ cluster, entries, index, term, takenAt: rfc3339(env.clock.wallMs()) });
  }

  staleView(): StoreView {
    return this.#deps.store.view();
  }

  async hasReached(version: number, signal: AbortSignal): Promise<boolean> {
    const { raft } = this.#deps;
    // Not the store's version: a replica that began with a snapshot counts from its index, whatever entry has it.
    if (version > raft.appliedIndex) await raft.readBarrier({ signal });
    return version <= raft.appliedIndex;
  }

  watch(signal: AbortSignal, after?: number): AsyncIterable<CommittedChanges> {
    const queue = new BoundedQueue<CommittedChanges>(CONTROL_WATCH_COUNT_MAX);
    const lost = (): void =>
      queue.close(new ClusterError("resource_exhausted", "Changes were lost: the reader is too slow"));
    let events: StoreEvent[] = [];
    const receive = (items: readonly WatchItem[]): void => {
      for (const item of items) {
        if (item.kind === "event") events.push(item.event);
        else if (item.kind === "resync") lost();
        else {
          if (!queue.push({ version: item.version, events }) && !queue.isClosed) lost();
          events = [];
        }
      }
    };
    const { store } = this.#deps;
    const watch =
      after === undefined ? store.viewAndWatch({}, receive).watch : store.watchAfter(after, {}, receive);
    if (watch === undefined)
      throw new ClusterError("expired", `Changes after version ${after} are not kept any more: start afresh`);
    const any = AbortSignal.any([signal, this.#stopping.signal]);
    const end = (): void => {
      watch.cancel();
      any.removeEventListener("abort", end);
      queue.close();
    };
    // From now on, not from the first item that is asked for: a reader may go without having asked.
    any.addEventListener("abort", end);
    if (any.aborted) end();
    return drain(queue, end);
  }

  managers(): readonly ManagerReachability[] {
    const { raft, store } = this.#deps;
    const view = store.view();
    return raft.members.map((member) => {
      const isLeader = member.raftId === raft.leader;
      // Only the leader hears of all; elsewhere a node with an open session passes for reachable.
      const isReady = view.get("node", member.nodeId)?.status.state === NodeState.ready;
      const isReachable =
        raft.reachable.has(member.raftId) || (!raft.isLeader && raft.leader !== 0 && (isLeader || isReady));
      return { nodeId: member.nodeId, addr: member.addr, isLeader, isReachable, isVoter: !member.isLearner };
    });
  }

  createService(spec: ServiceSpec, options: { readonly registryAuth?: string }): Promise<Written> {
    const id = this.#newId();
    const { writer } = this.#deps;
    const registryAuth = options.registryAuth ?? "";
    return this.#write({
      local: () => writer.createService({ id, spec, registryAuth }),
      method: controlService.createService,
      request: { id, specJson: json(spec), registryAuth },
      isDone: (view) => view.get("service", id) !== undefined,
    });
  }

  updateService(id: string, options: UpdateServiceOptions): Promise<Written> {
    const { version, spec, rollback = false, registryAuth = "", registryAuthFrom = "spec" } = options;
    const { writer } = this.#deps;
    return this.#write({
      local: () => writer.updateService(id, options),
      method: controlService.updateService,
      request: { id, version, specJson: json(spec ?? {}), rollback, registryAuth, registryAuthFrom },
      isDone: (view) => !rollback && holdsSpec(view.get("service", id)?.spec, spec),
    });
  }

  async removeService(id: string): Promise<void> {
    const { writer } = this.#deps;
    await this.#write({
      local: () => writer.removeService(id),
      method: controlService.removeService,
      request: { id },
      isDone: (view) => view.get("service", id) === undefined,
    });
  }

  async updateNode(id: string, version: number, spec: NodeSpec): Promise<void> {
    const { writer } = this.#deps;
    await this.#write({
      local: () => writer.updateNode(id, version, spec),
      method: controlService.updateNode,
      request: { id, version, specJson: json(spec) },
      isDone: (view) => holdsSpec(view.get("node", id)?.spec, spec),
    });
  }

  async removeNode(id: string, force: boolean): Promise<void> {
    const { writer } = this.#deps;
    await this.#write({
      local: () => writer.removeNode(id, force),
      method: controlService.removeNode,
      request: { id, force },
      isDone: (view) => view.get("node", id) === undefined,
    });
  }

  createNetwork(spec: NetworkSpec): Promise<Written> {
    const id = this.#newId();
    const { writer } = this.#deps;
    return this.#write({
      local: () => writer.createNetwork({ id, spec }),
      method: controlService.createNetwork,
      request: { id, specJson: json(spec) },
      isDone: (view) => view.get("network", id) !== undefined,
    });
  }

  async removeNetwork(id: string): Promise<void> {
    const { writer } = this.#deps;
    await this.#write({
      local: () => writer.removeNetwork(id),
      method: controlService.removeNetwork,
      request: { id },
      isDone: (view) => view.get("network", id) === undefined,
    });
  }

  createSecret(spec: SecretSpec): Promise<Written> {
    return this.#createBlob("secret", spec);
  }

  updateSecret(id: string, version: number, spec: SecretSpec): Promise<void> {
    return this.#updateBlob("secret", { id, version, spec });
  }

  removeSecret(id: string): Promise<void> {
    return this.#removeBlob("secret", id);
  }

  createConfig(spec: ConfigSpec): Promise<Written> {
    return this.#createBlob("config", spec);
  }

  updateConfig(id: string, version: number, spec: ConfigSpec): Promise<void> {
    return this.#updateBlob("config", { id, version, spec });
  }

  removeConfig(id: string): Promise<void> {
    return this.#removeBlob("config", id);
  }

  async updateCluster(options: UpdateClusterOptions): Promise<void> {
    const { version, spec, rotateWorkerToken, rotateManagerToken, rotateManagerUnlockKey } = options;
    const { writer } = this.#deps;
    await this.#write({
      local: () => writer.updateCluster(options),
      method: controlService.updateCluster,
      request: {
        version,
        specJson: json(spec ?? {}),
        rotateWorkerToken,
        rotateManagerToken,
        rotateManagerUnlockKey,
      },
      isDone: () => false,
    });
  }

  putImage(spec: ImageSpec, nodeId: string): Promise<Written> {
    const id = this.#newId();
    const { writer } = this.#deps;
    return this.#write({
      local: () => writer.putImage({ id, spec, nodeId }),
      method: controlService.putImage,
      request: { id, specJson: json(spec), nodeId },
      // Putting the same image twice leaves what once leaves.
      isDone: () => false,
    });
  }

  async removeImage(id: string, force: boolean): Promise<void> {
    const { writer } = this.#deps;
    await this.#write({
      local: () => writer.removeImage(id, force),
      method: controlService.removeImage,
      request: { id, force },
      isDone: (view) => view.get("image", id) === undefined,
    });
  }

  async nodeImages(nodeId: string): Promise<readonly string[] | undefined> {
    const { link, nodeImages } = this.#deps;
    return link.run({
      local: () => Promise.resolve(nodeImages()?.of(nodeId)),
      remote: async (client, { signal }) => {
        const answer = await callUnary(client, controlService.listNodeImages, { nodeId }, { signal });
        return answer.reported === true ? (answer.images ?? []) : undefined;
      },
    });
  }

  async imageNodes(reference: string): Promise<readonly string[]> {
    const { link, nodeImages } = this.#deps;
    return link.run({
      local: () => Promise.resolve(nodeImages()?.someWith(reference) ?? []),
      remote: async (client, { signal }) => {
        const answer = await callUnary(client, controlService.listImageNodes, { reference }, { signal });
        return answer.nodeIds ?? [];
      },
    });
  }

  logs(selector: LogSelector, options: LogOptions, signal: AbortSignal): AsyncIterable<ClusterLogLine> {
    const { store, identity, selfAddr, log, env } = this.#deps;
    return readTaskLogs(
      { store, identity, selfAddr, log, timers: env.timers },
      { selector, options, signal: AbortSignal.any([signal, this.#stopping.signal]) },
    );
  }

  #createBlob(table: "secret" | "config", spec: SecretSpec | ConfigSpec): Promise<Written> {
    const id = this.#newId();
    const { writer } = this.#deps;
    return this.#write({
      local: () => writer.createBlob(table, { id, spec }),
      method: table === "secret" ? controlService.createSecret : controlService.createConfig,
      request: { id, specJson: json(spec) },
      isDone: (view) => view.get(table, id) !== undefined,
    });
  }

  async #updateBlob(
    table: "secret" | "config",
    change: { readonly id: string; readonly version: number; readonly spec: SecretSpec | ConfigSpec },
  ): Promise<void> {
    const { writer } = this.#deps;
    const { id, version, spec } = change;
    await this.#write({
      local: () => writer.updateBlob(table, change),
      method: table === "secret" ? controlService.updateSecret : controlService.updateConfig,
      request: { id, version, specJson: json(spec) },
      isDone: (view) => isSameJson(view.get(table, id)?.spec.Labels ?? {}, spec.Labels ?? {}),
    });
  }

  async #removeBlob(table: "secret" | "config", id: string): Promise<void> {
    const { writer } = this.#deps;
    await this.#write({
      local: () => writer.removeBlob(table, id),
      method: table === "secret" ? controlService.removeSecret : controlService.removeConfig,
      request: { id },
      isDone: (view) => view.get(table, id) === undefined,
    });
  }

  #newId(): string {
    return newObjectId(this.#deps.env.random);
  }

  async #write<Request>(write: Write<Request>): Promise<Written> {
    const { id, warnings, version } = await this.#deps.link.run({
      local: (attempt) => this.#recognise(write, attempt, write.local),
      remote: (client, attempt) =>
        this.#recognise(write, attempt, () => this.#forward(client, write, attempt.signal)),
    });
    if (this.#deps.store.view().version >= version || (await this.#catchUp())) return { id, warnings };
    const text = "The change is made; this manager could not take it in yet, and may show what was before";
    return { id, warnings: [...warnings, text] };
  }

  /**
   * False if this replica is behind and stays so: its disk is full, or it was cut off. What the leader has committed is done
   * all the same, and must not be answered with a failure.
   */
  async #catchUp(): Promise<boolean> {
    const { env, raft, log } = this.#deps;
    const late = new AbortController();
    const cancel = env.timers.after(LOCAL_COPY_WAIT_MS, () => late.abort());
    try {
      await raft.readBarrier({ signal: late.signal });
      return true;
    } catch (caught) {
      log.warn("a change that was made is not here yet", { error: ClusterError.from(caught) });
      return false;
    } finally {
      cancel();
    }
  }

  /**
   * A repeated try that is refused because the first one took effect is a success. If the object is neither as it was nor
   * as it was to become, somebody else came: before the first try, or after it.
   */
  async #recognise<Request>(
    write: Write<Request>,
    attempt: Attempt,
    run: () => Promise<Outcome>,
  ): Promise<Outcome> {
    try {
      return await run();
    } catch (caught) {
      if (!attempt.maybeApplied || !hasCode(caught, "out_of_sequence", "not_found")) throw caught;
      const view = await this.view();
      if (!write.isDone(view)) throw unknownOutcome(caught);
      return { id: "", warnings: [], version: view.version };
    }
  }

  async #forward<Request>(client: Client, write: Write<Request>, signal: AbortSignal): Promise<Outcome> {
    const answer = await callUnary(client, write.method, write.request, { signal });
    return { id: answer.id ?? "", warnings: answer.warnings ?? [], version: answer.version ?? 0 };
  }
}

async function* drain<T>(queue: BoundedQueue<T>, ended: () => void): AsyncGenerator<T, void> {
  try {
    yield* queue;
  } finally {
    ended();
  }
}

function unknownOutcome(cause: unknown): ClusterError {
  const text =
    "Cannot say whether the change was made: the leader was lost meanwhile, and another change came since";
  return new ClusterError("unavailable", text, { cause, details: { [OUTCOME_UNKNOWN]: true } });
}

/** True if the stored spec is the given one; references by name were resolved, so networks are left out. */
function holdsSpec(stored: unknown, given: unknown): boolean {
  return isSameJson(comparable(stored), comparable(given));
}

function comparable(spec: unknown): unknown {
  return JSON.parse(
    JSON.stringify(withoutNulls(spec) ?? {}, (key, value: unknown) =>
      key === "Networks" ? undefined : value,
    ),
  ) as unknown;
}
