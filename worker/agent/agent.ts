/**
 * The node's side of the session with the leader: opens it, keeps it alive, takes assignments apart and brings statuses
 * back. It decides nothing about tasks. While no manager can be reached, everything that runs goes on as it was last told.
 */
import { Backoff } from "../../common/backoff.ts";
import type { Cancel, Clock, Component, Random, Timers } from "../../common/env.ts";
import { ClusterError } from "../../common/errors.ts";
import type { Logger } from "../../common/log.ts";
import type { AssignmentSet, GuestReport, SessionInfo } from "../../model/dispatch.ts";
import type { NodeDescription, TaskStatus } from "../../model/objects.ts";
import type { NodeAvailability, NodeRole } from "../../model/specs.ts";
import type { shoal } from "../../proto/messages.ts";
import {
  DEFAULT_HEARTBEAT_MS,
  SESSION_BACKOFF,
  SESSION_OPEN_TIMEOUT_MAX_MS,
  SESSION_OPEN_TIMEOUT_MS,
  SESSION_SILENCE_PERIODS,
  STANDSTILL_MS,
  TROUBLE_LOG_MS,
} from "../limits.ts";
import { AssignmentState } from "./assignment-state.ts";
import { imageReports } from "./image-reports.ts";
import { StatusReporter } from "./status-reporter.ts";

type ToManager = shoal.v1.AgentMessage.$Properties;
type FromManager = shoal.v1.DispatcherMessage.$Properties;

/** One open stream to a manager. `handlers` are called until `ended`, which comes exactly once. */
export interface DispatcherStream {
  send(message: ToManager): void;
  /** Ends the stream; `ended` is still called. */
  close(): void;
}

export interface DispatcherStreamHandlers {
  readonly message: (message: FromManager) => void;
  readonly ended: (reason: string) => void;
}

/** How streams to managers are made; gRPC in production. Must not throw: failures come as `ended`. */
export type DispatcherConnector = (addr: string, handlers: DispatcherStreamHandlers) => DispatcherStream;

export interface AgentDeps {
  readonly clock: Clock;
  readonly timers: Timers;
  readonly random: Random;
  readonly log: Logger;
  readonly connect: DispatcherConnector;
  /** Puts the network state into effect; errors are reported to the manager with the acknowledgement. */
  readonly applyNetwork: (set: AssignmentSet) => Promise<readonly string[]>;
  /** Takes the tasks over; returns at once. */
  readonly applyTasks: (set: AssignmentSet) => void;
  readonly statusCommitted: (taskId: string, status: TaskStatus) => void;
}

export interface AgentOptions {
  readonly description: () => NodeDescription;
  readonly rpcAddress: string;
  readonly dataPathAddress: string;
  readonly addr: string;
  readonly availability: NodeAvailability;
  /** "host:port" of managers known from the last run. */
  readonly managers: readonly string[];
  /** The managers that the cluster has now; to be kept for the next start. */
  readonly managersChanged: (managers: SessionInfo["managers"]) => void;
  /** The role that the node shall have differs, or may differ, from what it has. */
  readonly roleWanted: (role: NodeRole) => void;
  /** The certificate is to be renewed now, whatever its age. Told again with each session until it was. */
  readonly renewalWanted?: () => void;
  /** The node is no longer part of the cluster. */
  readonly removed: () => void;
}

interface OpenSession {
  readonly stream: DispatcherStream;
  readonly addr: string;
  isOpened: boolean;
  lastHeardMs: number;
  readonly state: AssignmentState;
  readonly timers: Cancel[];
  /** Why it ends, where that is known before it has. */
  endsFor?: string;
}

export class Agent implements Component {
  readonly #deps: AgentDeps;
  readonly #options: AgentOptions;
  readonly #reporter: StatusReporter;
  readonly #backoff: Backoff;
  #managers: readonly string[];
  #hint: string | undefined;
  /** The one that was tried, or had, last: the next in the list is the next to try, and it is the last itself. */
  #lastManager: string | undefined;
  #heartbeatMs = DEFAULT_HEARTBEAT_MS;
  #session: OpenSession | undefined;
  /** Attempts since the last open session that got no answer in time. */
  #timeoutCount = 0;
  #cancelRetry: Cancel | undefined;
  #guests: GuestReport = { references: [], guests: [] };
  /** Images that the node has; undefined before it was looked. */
  #images: ReadonlySet<string> | undefined;
  /** As the manager was told in this session. */
  #toldImages: ReadonlySet<string> | undefined;
  /** Why no session is open, by manager, and when that was last logged. Empty while one is. */
  readonly #troubles = new Map<string, { readonly reason: string; readonly loggedMs: number }>();
  #isStopped = true;
  #isApplying = false;
  #hasMore = false;

  constructor(deps: AgentDeps, options: AgentOptions) {
    this.#deps = deps;
    this.#options = options;
    this.#managers = options.managers;
    this.#backoff = new Backoff(deps.random, SESSION_BACKOFF);
    this.#reporter = new StatusReporter({ timers: deps.timers, committed: deps.statusCommitted });
  }

  /** True while a manager has accepted this node's session. */
  get isConnected(): boolean {
    return this.#session?.isOpened ?? false;
  }

  /** For who asks this machine: why no manager has accepted this node's session; "" while one has, or none was tried. */
  get trouble(): string {
    const all = [...this.#troubles].map(([addr, { reason }]) => `${addr}: ${reason}`);
    return all.length === 0 ? "" : `no session with a manager (${all.join("; ")})`;
  }

  start(): void {
    this.#isStopped = false;
    this.#connect();
  }

  stop(): void {
    this.#isStopped = true;
    this.#cancelRetry?.();
    this.#cancelRetry = undefined;
    this.#session?.stream.close();
  }

  report(taskId: string, status: TaskStatus): void {
    this.#reporter.report(taskId, status);
  }

  forget(taskId: string): void {
    this.#reporter.forget(taskId);
  }

  /** The node's description changed: the manager is told in the running session. */
  describe(): void {
    this.#session?.stream.send({ description: { descriptionJson: this.#description() } });
  }

  /** Containers outside of any service on networks of the cluster: the manager gives them addresses and describes the networks. */
  setGuests(report: GuestReport): void {
    this.#guests = report;
    if (this.isConnected) this.#tellGuests();
  }

  #tellGuests(): void {
    const { references, guests } = this.#guests;
    this.#session?.stream.send({
      guestNetworks: {
        references: [...references],
        guests: guests.map((guest) => ({ ...guest, names: [...guest.names] })),
      },
    });
  }

  /** Images that the node has, as canonical names with tag and digests; the manager is told what is new. */
  setImages(images: ReadonlySet<string>): void {
    this.#images = images;
    if (this.isConnected) this.#tellImages();
  }

  #tellImages(): void {
    const [images, told] = [this.#images, this.#toldImages];
    if (images === undefined) return;
    this.#toldImages = images;
    for (const report of imageReports(told, images)) this.#session?.stream.send({ images: report });
  }

  /** Starts over with another identity (a renewed certificate); what runs is not touched. */
  reconnect(): void {
    this.#session?.stream.close();
  }

  #description(): Uint8Array {
    return new TextEncoder().encode(JSON.stringify(this.#options.description()));
  }

  #chooseManager(): string | undefined {
    const hint = this.#hint;
    this.#hint = undefined;
    if (hint !== undefined && hint !== "") return hint;
    const last = this.#lastManager === undefined ? -1 : this.#managers.indexOf(this.#lastManager);
    return this.#managers[(last + 1) % this.#managers.length];
  }

  #connect(): void {
    if (this.#isStopped || this.#session !== undefined) return;
    const addr = this.#chooseManager();
    if (addr === undefined) {
      this.#retryLater("no manager address is known");
      return;
    }
    this.#lastManager = addr;
    const { clock } = this.#deps;
    let session: OpenSession | undefined;
    const stream = this.#deps.connect(addr, {
      message: (message) => {
        if (session !== undefined && this.#session === session) this.#receive(session, message);
      },
      ended: (reason) => {
        if (session !== undefined && this.#session === session) this.#ended(session, reason);
      },
    });
    session = {
      stream,
      addr,
      isOpened: false,
      lastHeardMs: clock.monotonicMs(),
      state: new AssignmentState(),
      timers: [],
    };
    this.#session = session;
    this.#giveUpLater(session, this.#patienceMs());
    stream.send({
      hello: {
        descriptionJson: this.#description(),
        rpcAddress: this.#options.rpcAddress,
        dataPathAddress: this.#options.dataPathAddress,
        addr: this.#options.addr,
        availability: this.#options.availability,
      },
    });
  }

  #giveUpLater(session: OpenSession, patienceMs: number): void {
    const dueMs = this.#deps.clock.monotonicMs() + patienceMs;
    const cancel = this.#deps.timers.after(patienceMs, () => {
      if (session.isOpened) return;
      if (this.#deps.clock.monotonicMs() - dueMs > STANDSTILL_MS) {
        this.#giveUpLater(session, patienceMs);
        return;
      }
      this.#timeoutCount += 1;
      session.endsFor = `no answer within ${patienceMs / 1000} s`;
      session.stream.close();
    });
    session.timers.push(cancel);
  }

  /** How long a manager may take to open a session. */
  #patienceMs(): number {
    const rounds = Math.floor(this.#timeoutCount / Math.max(1, this.#managers.length));
    return Math.min(SESSION_OPEN_TIMEOUT_MAX_MS, SESSION_OPEN_TIMEOUT_MS * 2 ** rounds);
  }

  #receive(session: OpenSession, message: FromManager): void {
    session.lastHeardMs = this.#deps.clock.monotonicMs();
    if (message.opened) this.#opened(session, message.opened);
    else if (message.update) this.#update(message.update);
    else if (message.assignments) this.#assigned(session, message.assignments);
    else if (message.statusAck) this.#reporter.acknowledged(message.statusAck.batchId ?? 0);
    else if (message.disconnect) this.#disconnected(session, message.disconnect);
  }

  #opened(session: OpenSession, opened: shoal.v1.SessionOpened.$Properties): void {
    session.isOpened = true;
    this.#timeoutCount = 0;
    this.#troubles.clear();
    this.#backoff.reset();
    this.#deps.log.info("session opened", { manager: session.addr, session: opened.sessionId });
    if (opened.info) this.#update(opened.info);
    // Also when there are none: the managers may remember some of before.
    this.#tellGuests();
    this.#toldImages = undefined;
    this.#tellImages();
    this.#reporter.sessionOpened((batch) => session.stream.send({ statuses: batch }));
    this.#beat(session, this.#deps.clock.monotonicMs());
  }

  /** Heartbeats, re-armed each time so that a changed period takes effect; also notices a silent manager. */
  #beat(session: OpenSession, dueMs: number): void {
    if (this.#session !== session) return;
    const nowMs = this.#deps.clock.monotonicMs();
    if (nowMs - dueMs > STANDSTILL_MS) session.lastHeardMs += nowMs - dueMs;
    const silentMs = nowMs - session.lastHeardMs;
    if (silentMs > this.#heartbeatMs * SESSION_SILENCE_PERIODS) {
      this.#deps.log.warn("manager is silent", { manager: session.addr, silentMs: Math.round(silentMs) });
      session.stream.close();
      return;
    }
    session.stream.send({ heartbeat: {} });
    const nextMs = nowMs + this.#heartbeatMs;
    session.timers.push(this.#deps.timers.after(this.#heartbeatMs, () => this.#beat(session, nextMs)));
    if (session.timers.length > 8) session.timers.splice(0, session.timers.length - 2);
  }

  #update(info: shoal.v1.SessionUpdate.$Properties): void {
    if (info.heartbeatMs) this.#heartbeatMs = info.heartbeatMs;
    const managers = (info.managers ?? []).map((each) => ({
      nodeId: each.nodeId ?? "",
      addr: each.addr ?? "",
    }));
    if (managers.length > 0) {
      this.#managers = managers.map((each) => each.addr);
      this.#options.managersChanged(managers);
    }
    if (info.role === "manager" || info.role === "worker") this.#options.roleWanted(info.role);
    if (info.renewCertificate === true) this.#options.renewalWanted?.();
  }

  #disconnected(session: OpenSession, disconnect: shoal.v1.Disconnect.$Properties): void {
    const reason = disconnect.reason ?? "";
    const leaderAddr = disconnect.leaderAddr ?? "";
    this.#hint = leaderAddr;
    session.endsFor = reason;
    if (session.isOpened || leaderAddr !== "") {
      const fields = { manager: session.addr, reason, leader: leaderAddr };
      this.#deps.log.info("session ended by manager", fields);
    }
    if (disconnect.removed ?? false) {
      this.stop();
      this.#options.removed();
      return;
    }
    session.stream.close();
  }

  #ended(session: OpenSession, reason: string): void {
    this.#session = undefined;
    for (const cancel of session.timers) cancel();
    this.#reporter.sessionClosed();
    this.#hasMore = false;
    if (this.#isStopped) return;
    if (session.isOpened) this.#deps.log.info("session lost", { manager: session.addr, reason });
    const isSentOn = this.#hint !== undefined && this.#hint !== "" && this.#hint !== session.addr;
    if (!session.isOpened && !isSentOn) this.#missed(session.addr, session.endsFor ?? reason);
    // A session that was open is missed at once; only managers that can't be had are asked at growing intervals.
    if (isSentOn || (session.isOpened && this.#managers.some((addr) => addr !== session.addr))) {
      this.#connect();
      return;
    }
    this.#retryLater(reason);
  }

  /** Logged when it is news, and now and then while it stays so: retries come many a minute. */
  #missed(addr: string, reason: string): void {
    const nowMs = this.#deps.clock.monotonicMs();
    const before = this.#troubles.get(addr);
    const isNews = before?.reason !== reason || nowMs - before.loggedMs >= TROUBLE_LOG_MS;
    if (isNews) this.#deps.log.warn("no session with this manager", { manager: addr, reason });
    for (const known of this.#troubles.keys())
      if (!this.#managers.includes(known)) this.#troubles.delete(known);
    this.#troubles.set(addr, { reason, loggedMs: isNews ? nowMs : before.loggedMs });
  }

  #retryLater(reason: string): void {
    const delayMs = this.#backoff.nextMs();
    this.#deps.log.debug("session retry", { reason, delayMs: Math.round(delayMs) });
    this.#cancelRetry = this.#deps.timers.after(delayMs, () => {
      this.#cancelRetry = undefined;
      this.#connect();
    });
  }

  #assigned(session: OpenSession, message: shoal.v1.Assignments.$Properties): void {
    try {
      session.state.apply(message);
    } catch (caught) {
      this.#deps.log.warn("assignments refused", { error: ClusterError.from(caught) });
      session.stream.close();
      return;
    }
    this.#hasMore = true;
    if (!this.#isApplying) void this.#applyAll(session);
  }

  /** One at a time; what arrives meanwhile is taken together in the next round, and acknowledged by the newest number. */
  async #applyAll(first: OpenSession): Promise<void> {
    this.#isApplying = true;
    let session: OpenSession | undefined = first;
    try {
      while (session !== undefined && this.#hasMore && !this.#isStopped) {
        this.#hasMore = false;
        const { sequence } = session.state;
        const set = session.state.current();
        const errors = await this.#applyNetwork(set);
        if (this.#isStopped) return;
        this.#deps.applyTasks(set);
        if (this.#session === session) session.stream.send({ ack: { sequence, errors: [...errors] } });
        session = this.#session;
      }
    } finally {
      this.#isApplying = false;
    }
  }

  async #applyNetwork(set: AssignmentSet): Promise<readonly string[]> {
    try {
      return await this.#deps.applyNetwork(set);
    } catch (caught) {
      const error = ClusterError.from(caught);
      this.#deps.log.error("network state could not be applied", { error });
      return [error.message];
    }
  }
}
