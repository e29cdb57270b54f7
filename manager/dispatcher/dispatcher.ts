/**
 * The leader's side of all agents' sessions: who is there, what each is told, what each reports. Runs on the leader only;
 * everything it knows it derives from the store and the open sessions, so a new leader starts with nothing.
 */
import { must } from "../../common/assert.ts";
import type { Cancel, Clock, Component, Random, Timers } from "../../common/env.ts";
import { ClusterError } from "../../common/errors.ts";
import { newObjectId } from "../../common/ids.ts";
import type { Logger } from "../../common/log.ts";
import { certificateRoleOf, mustForgetRoot, mustRenewCertificate } from "../../model/node-role.ts";
import { type Cluster, type Node, NodeState, type Task } from "../../model/objects.ts";
import type { StoreView } from "../../model/store-view.ts";
import { TaskState } from "../../model/task-state.ts";
import { type shoal, v1 } from "../../proto/messages.ts";
import type { NodeImages } from "../node-images.ts";
import type { Store, WatchItem } from "../store/store.ts";
import { parseTaskStatus } from "./agent-reports.ts";
import { ClusterPicture } from "./cluster-picture.ts";
import { DrainBarrier } from "./drain-barrier.ts";
import {
  ACK_ERROR_COUNT_MAX,
  ASSIGNMENT_COALESCE_MS,
  DRAIN_BARRIER_MS,
  GUEST_NETWORK_COUNT_MAX,
  NODE_DOWN_MS,
  SESSION_BACKLOG_COUNT_MAX,
  SESSION_EARLY_BYTES_MAX,
  SESSION_STATUS_BYTES_MAX,
  SILENCE_CHECK_MS,
  STATUS_TEXT_CHARS_MAX,
} from "./limits.ts";
import { MissingNodes } from "./missing-nodes.ts";
import { NodeWriter } from "./node-writer.ts";
import { SessionAssignments } from "./session-assignments.ts";
import { commonInfo, type CommonInfo } from "./session-info.ts";
import { StatusWriter } from "./status-writer.ts";

export type ToAgent = shoal.v1.DispatcherMessage.$Properties;
export type FromAgent = shoal.v1.AgentMessage.$Properties;

/** One agent's stream, as the dispatcher needs it. */
export interface AgentStream {
  send(message: ToAgent): void;
  /** Messages that the transport has not taken yet. */
  readonly backlogCount: number;
  end(): void;
}

export interface DispatcherDeps {
  readonly store: Store;
  /** Where nodes' reports of their images go. */
  readonly images: NodeImages;
  readonly clock: Clock;
  readonly timers: Timers;
  readonly random: Random;
  readonly log: Logger;
  /** The store takes no writes here any more, though this member believed to lead. */
  readonly failed: (error: ClusterError) => void;
}

interface Session {
  readonly id: string;
  readonly nodeId: string;
  readonly stream: AgentStream;
  assignments: SessionAssignments;
  acknowledged: number;
  lastHeardMs: number;
  isRegistered: boolean;
  isOver: boolean;
  /** Bytes of statuses that are not committed yet, or came before the session was opened. */
  waitingBytes: number;
  /** Order of the hellos; 0 before this one's. */
  helloNumber: number;
  /** What came after the hello while that was not answered yet, oldest first. */
  readonly early: FromAgent[];
  /** Its own tasks may have to be told anew. */
  hasTaskChanges: boolean;
  /** Networks that the node asked for beyond those of its tasks. */
  guestNetworks: readonly string[];
  /** Role and managers as last told. */
  info: string;
  /** Of what that was made. */
  infoOf: { readonly node: Node | undefined; readonly cluster: Cluster | undefined; readonly text: string };
}

export class Dispatcher implements Component {
  readonly #deps: DispatcherDeps;
  readonly #sessions = new Map<string, Session>();
  /** Nodes without a session that are not down yet. */
  readonly #missing = new MissingNodes();
  readonly #barrier = new DrainBarrier();
  readonly #statuses: StatusWriter;
  readonly #nodes: NodeWriter;
  #picture: ClusterPicture | undefined;
  /** Until a node, the cluster or the number of sessions changes. */
  #common: { readonly info: CommonInfo; readonly sessionCount: number } | undefined;
  readonly #cancels: Cancel[] = [];
  #cancelFlush: Cancel | undefined;
  #cancelDeadline: Cancel | undefined;
  #helloCount = 0;
  #lastCheckMs = 0;
  #isStopped = false;

  constructor(deps: DispatcherDeps) {
    this.#deps = deps;
    const failed = (error: unknown): void => deps.failed(ClusterError.from(error));
    this.#statuses = new StatusWriter({ ...deps, failed });
    this.#nodes = new NodeWriter({ ...deps, failed });
  }

  start(): void {
    const { store, clock, timers } = this.#deps;
    const { view, watch } = store.viewAndWatch({}, (items) => this.#watched(items));
    this.#picture = new ClusterPicture(view);
    this.#cancels.push(watch.cancel);
    this.#cancels.push(timers.every(SILENCE_CHECK_MS, () => this.#checkSilence()));
    const up = view.list("node").filter((node) => node.status.state !== NodeState.down);
    this.#lastCheckMs = clock.monotonicMs();
    this.#missing.await(
      up.map((node) => node.id),
      this.#lastCheckMs,
    );
  }

  /** Ends all sessions; agents go and look for the new leader. */
  stop(): void {
    if (this.#isStopped) return;
    this.#isStopped = true;
    for (const cancel of this.#cancels) cancel();
    this.#cancelFlush?.();
    this.#cancelDeadline?.();
    this.#statuses.stop();
    this.#nodes.stop();
    for (const session of this.#sessions.values()) {
      session.stream.send({ disconnect: { reason: "the manager no longer leads" } });
      session.stream.end();
    }
    this.#sessions.clear();
  }

  /** Nodes with an open session. */
  get connectedNodes(): readonly string[] {
    return [...this.#sessions.keys()];
  }

  /** Nodes without a session that are not down yet. */
  get silentNodeCount(): number {
    return this.#missing.count;
  }

  /** A node's stream has opened. Its messages come through the returned object until ended() is called. */
  open(
    nodeId: string,
    stream: AgentStream,
    remoteAddr: string,
  ): { readonly receive: (message: FromAgent) => void; readonly ended: () => void } {
    const { clock, random } = this.#deps;
    const session: Session = {
      id: newObjectId(random),
      nodeId,
      stream,
      assignments: new SessionAssignments(nodeId),
      acknowledged: 0,
      lastHeardMs: clock.monotonicMs(),
      isRegistered: false,
      isOver: false,
      waitingBytes: 0,
      helloNumber: 0,
      early: [],
      hasTaskChanges: true,
      guestNetworks: [],
      info: "",
      infoOf: { node: undefined, cluster: undefined, text: "" },
    };
    return {
      receive: (message) =>
        this.#guarded(session, () => {
          if (this.#isStopped) return;
          session.lastHeardMs = clock.monotonicMs();
          if (stream.backlogCount > SESSION_BACKLOG_COUNT_MAX) throw tooMuch("read what it is told");
          if (message.hello) this.#confirm(session, message.hello, remoteAddr);
          else this.#receive(session, message);
        }),
      ended: () => this.#ended(session),
    };
  }

  /** Nonsense from one agent costs it its session and nobody else anything. */
  #guarded(session: Session, run: () => void): void {
    try {
      run();
    } catch (caught) {
      const error = ClusterError.from(caught);
      this.#deps.log.warn("message of a node was refused", { nodeId: session.nodeId, error });
      session.stream.end();
    }
  }

  /**
   * Nothing is told before a quorum has confirmed that this member leads and it has applied what was committed by then: one
   * that was replaced and does not know it yet would tell the node to end what its successor started there, or that it was removed.
   */
  #confirm(session: Session, hello: shoal.v1.AgentHello.$Properties, remoteAddr: string): void {
    if (session.helloNumber !== 0) throw tooMuch("say hello once");
    this.#helloCount += 1;
    session.helloNumber = this.#helloCount;
    const isCurrent = (): boolean => !this.#isStopped && !session.isOver;
    this.#deps.store
      .update(() => undefined)
      .then(
        () => {
          if (!isCurrent()) {
            session.stream.end();
            return;
          }
          this.#guarded(session, () => {
            this.#hello(session, hello, remoteAddr);
            if (!session.isRegistered) return;
            session.waitingBytes = 0;
            for (const message of session.early.splice(0)) this.#receive(session, message);
          });
        },
        (error: unknown) => {
          this.#deps.log.info("node session was not opened", { nodeId: session.nodeId, error });
          session.stream.end();
        },
      );
  }

  #receive(session: Session, message: FromAgent): void {
    if (!session.isRegistered) {
      if (session.helloNumber === 0) return;
      session.waitingBytes += v1.AgentMessage.encode(message).len;
      const isTooMuch = session.waitingBytes > SESSION_EARLY_BYTES_MAX;
      if (isTooMuch || session.early.length >= SESSION_BACKLOG_COUNT_MAX)
        throw tooMuch("wait for its session");
      session.early.push(message);
    } else if (this.#sessions.get(session.nodeId) !== session) {
      // What a former session says late may be older than what is known: it is said again in the one that is open.
      return;
    } else if (message.heartbeat) session.stream.send({ heartbeat: {} });
    else if (message.statuses) this.#reported(session, message.statuses);
    else if (message.ack) this.#acknowledged(session, message.ack);
    else if (message.guestNetworks) this.#guests(session, message.guestNetworks);
    else if (message.images) this.#deps.images.report(session.nodeId, message.images);
    else if (message.description?.descriptionJson) {
      this.#nodes.describe(session.nodeId, message.description.descriptionJson);
    }
  }

  #guests(session: Session, report: shoal.v1.GuestNetworks.$Properties): void {
    const references = (report.references ?? []).slice(0, GUEST_NETWORK_COUNT_MAX);
    session.guestNetworks = references;
    session.assignments.setGuestNetworks(references);
    this.#nodes.setGuests(session.nodeId, report.guests ?? []);
    this.#flushSoon();
  }

  #hello(session: Session, hello: shoal.v1.AgentHello.$Properties, remoteAddr: string): void {
    const { log } = this.#deps;
    const node = this.#deps.store.view().get("node", session.nodeId);
    if (node === undefined) {
      session.stream.send({ disconnect: { reason: "the node is not part of the cluster", removed: true } });
      session.stream.end();
      return;
    }
    const former = this.#sessions.get(session.nodeId);
    if (former !== undefined && former.helloNumber > session.helloNumber) {
      session.stream.end();
      return;
    }
    if (former !== undefined && former !== session) {
      former.stream.send({ disconnect: { reason: "the node has opened another session" } });
      former.stream.end();
      this.#barrier.sessionEnded(former.id);
    }
    this.#sessions.set(session.nodeId, session);
    this.#missing.found(session.nodeId, this.#deps.clock.monotonicMs());
    this.#nodes.register(session.nodeId, hello, remoteAddr);
    session.isRegistered = true;
    log.info("node session opened", { nodeId: session.nodeId, session: session.id });
    const common = this.#commonInfo(this.#deps.store.view());
    session.stream.send({ opened: { sessionId: session.id, info: this.#info(session, common) } });
    this.#flushSoon();
  }

  #info(session: Session, common: CommonInfo): shoal.v1.SessionUpdate.$Properties {
    const node = this.#deps.store.view().get("node", session.nodeId);
    const role = node === undefined ? "worker" : certificateRoleOf(node);
    const { cluster } = common;
    const renewCertificate =
      node !== undefined && (mustRenewCertificate(cluster, node) || mustForgetRoot(cluster, node));
    // With its serial: who has renewed it and must do so for the next root already is told again.
    session.info = `${common.text} ${role} ${renewCertificate ? node.certificateSerial : ""}`;
    session.infoOf = { node, cluster, text: common.text };
    return { heartbeatMs: common.heartbeatMs, role, managers: [...common.managers], renewCertificate };
  }

  #reported(session: Session, batch: shoal.v1.TaskStatusBatch.$Properties): void {
    const updates = (batch.updates ?? []).map(({ taskId, statusJson }) => ({
      nodeId: session.nodeId,
      taskId: taskId ?? "",
      status: parseTaskStatus(statusJson ?? new Uint8Array()),
    }));
    const bytes = (batch.updates ?? []).reduce(
      (sum, { statusJson }) => sum + (statusJson?.byteLength ?? 0),
      0,
    );
    session.waitingBytes += bytes;
    if (session.waitingBytes > SESSION_STATUS_BYTES_MAX) throw tooMuch("wait for what it reported");
    this.#statuses.add(updates, () => {
      session.waitingBytes -= bytes;
      session.stream.send({ statusAck: { batchId: batch.batchId ?? 0 } });
    });
  }

  #acknowledged(session: Session, ack: shoal.v1.AssignmentAck.$Properties): void {
    const { log } = this.#deps;
    session.acknowledged = Math.max(session.acknowledged, ack.sequence ?? 0);
    for (const error of (ack.errors ?? []).slice(0, ACK_ERROR_COUNT_MAX)) {
      const text = error.slice(0, STATUS_TEXT_CHARS_MAX);
      log.warn("node could not apply its assignments", { nodeId: session.nodeId, error: text });
    }
    if (this.#barrier.isEmpty) return;
    this.#barrier.acknowledged(session.id, session.acknowledged);
    this.#releaseDrained();
  }

  #ended(session: Session): void {
    session.isOver = true;
    this.#barrier.sessionEnded(session.id);
    if (this.#sessions.get(session.nodeId) !== session) return;
    this.#sessions.delete(session.nodeId);
    if (this.#isStopped) return;
    // Patience counts from the last sign of life, not from the break: a dead machine may say nothing for a while.
    this.#missing.lost(session.nodeId, session.lastHeardMs);
    this.#deps.log.info("node session ended", { nodeId: session.nodeId, session: session.id });
    if (!this.#barrier.isEmpty) this.#releaseDrained();
  }

  #checkSilence(): void {
    const nowMs = this.#deps.clock.monotonicMs();
    // A manager that stood still (a paused machine) heard nobody: that is not the nodes' silence.
    const stillMs = nowMs - this.#lastCheckMs - SILENCE_CHECK_MS;
    this.#lastCheckMs = nowMs;
    if (stillMs > SILENCE_CHECK_MS) {
      this.#missing.postpone(stillMs);
      for (const session of this.#sessions.values()) session.lastHeardMs += stillMs;
    }
    for (const session of this.#sessions.values()) {
      if (nowMs - session.lastHeardMs < NODE_DOWN_MS) continue;
      this.#deps.log.warn("node is silent", {
        nodeId: session.nodeId,
        silentMs: Math.round(nowMs - session.lastHeardMs),
      });
      session.stream.end();
      this.#ended(session);
    }
    for (const nodeId of this.#missing.takeOverdue(nowMs, this.#sessions.size))
      this.#nodes.markDown(nodeId, "heartbeat failure");
  }

  #watched(items: readonly WatchItem[]): void {
    if (this.#isStopped) return;
    for (const item of items) {
      switch (item.kind) {
        case "event": {
          const { event } = item;
          if (event.table === "task" && event.action === "update")
            this.#maybeHold(event.object, event.previous);
          this.#picture?.apply(event);
          if (event.table === "node" || event.table === "cluster") this.#common = undefined;
          if (event.table === "node" && event.action === "remove") this.#nodeRemoved(event.object.id);
          break;
        }
        case "resync":
          this.#resync();
          break;
        case "commit":
          break;
      }
    }
    this.#flushSoon();
  }

  #resync(): void {
    this.#common = undefined;
    this.#picture = new ClusterPicture(this.#deps.store.view());
    for (const session of this.#sessions.values()) {
      session.assignments = new SessionAssignments(session.nodeId, session.assignments.sequence);
      session.assignments.setGuestNetworks(session.guestNetworks);
      session.hasTaskChanges = true;
    }
  }

  /** A task that others send traffic to shall stop: its worker hears of it only when they have been told. */
  #maybeHold(task: Task, previous: Task | undefined): void {
    if (previous === undefined || task.desiredState < TaskState.shutdown) return;
    if (previous.desiredState >= TaskState.shutdown || this.#picture?.isReachable(previous) !== true) return;
    this.#barrier.hold(previous, this.#deps.clock.monotonicMs() + DRAIN_BARRIER_MS);
  }

  #nodeRemoved(nodeId: string): void {
    this.#missing.removed(nodeId);
    this.#deps.images.forget(nodeId);
    const session = this.#sessions.get(nodeId);
    if (session === undefined) return;
    session.stream.send({ disconnect: { reason: "the node was removed from the cluster", removed: true } });
    session.stream.end();
    this.#sessions.delete(nodeId);
    this.#barrier.sessionEnded(session.id);
  }

  #mark(nodeId: string): void {
    const session = this.#sessions.get(nodeId);
    if (session !== undefined) session.hasTaskChanges = true;
  }

  #flushSoon(): void {
    if (this.#cancelFlush !== undefined || this.#isStopped) return;
    this.#cancelFlush = this.#deps.timers.after(ASSIGNMENT_COALESCE_MS, () => {
      this.#cancelFlush = undefined;
      this.#flush();
    });
  }

  #flush(): void {
    const picture = must(this.#picture, "the dispatcher was started");
    for (const nodeId of picture.settle()) this.#mark(nodeId);
    const view = this.#deps.store.view();
    const { held } = this.#barrier;
    const unacknowledged = new Map<string, number>();
    const common = this.#commonInfo(view);
    const { cluster } = common;
    for (const session of this.#sessions.values()) {
      this.#tellInfo(session, common);
      const tasksChanged = session.hasTaskChanges;
      session.hasTaskChanges = false;
      for (const message of session.assignments.next({ picture, view, cluster, held, tasksChanged })) {
        session.stream.send({ assignments: message });
      }
      const { sequence } = session.assignments;
      if (session.acknowledged < sequence) unacknowledged.set(session.id, sequence);
      if (session.stream.backlogCount > SESSION_BACKLOG_COUNT_MAX) {
        this.#deps.log.warn("node is too slow to be told", { nodeId: session.nodeId });
        session.stream.end();
      }
    }
    if (!this.#barrier.isEmpty) {
      this.#barrier.arm(unacknowledged);
      this.#releaseDrained();
    }
  }

  #commonInfo(view: StoreView): CommonInfo {
    const sessionCount = this.#sessions.size;
    if (this.#common?.sessionCount !== sessionCount)
      this.#common = { info: commonInfo(view, sessionCount), sessionCount };
    return this.#common.info;
  }

  #tellInfo(session: Session, common: CommonInfo): void {
    const { infoOf, info: before } = session;
    const node = this.#deps.store.view().get("node", session.nodeId);
    if (infoOf.node === node && infoOf.cluster === common.cluster && infoOf.text === common.text) return;
    const info = this.#info(session, common);
    if (before !== session.info) session.stream.send({ update: info });
  }

  #releaseDrained(): void {
    const { clock, timers } = this.#deps;
    for (const nodeId of this.#barrier.release(clock.monotonicMs())) {
      this.#mark(nodeId);
      this.#flushSoon();
    }
    this.#cancelDeadline?.();
    const deadlineMs = this.#barrier.nextDeadlineMs;
    this.#cancelDeadline =
      deadlineMs === undefined
        ? undefined
        : timers.after(Math.max(0, deadlineMs - clock.monotonicMs()), () => this.#releaseDrained());
  }
}

/** Ends the session of a node that asks for more than a sound one would. */
function tooMuch(wanted: string): ClusterError {
  return new ClusterError("resource_exhausted", `Session of a node must ${wanted}, it did not`);
}
