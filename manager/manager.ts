/**
 * A manager: the member of the cluster's brain that runs on this machine. Builds Raft, store, CA, dispatcher and control
 * API, and runs the leader-only parts while this member leads. The daemon starts it on nodes whose role is manager and
 * stops it when the role changes. It runs no containers and serves no HTTP.
 */
import { assert, must } from "../common/assert.ts";
import { ClusterError } from "../common/errors.ts";
import type { Component, Env } from "../common/env.ts";
import type { Logger } from "../common/log.ts";
import type { ClusterControl } from "../model/cluster-control.ts";
import { standingOf } from "../model/node-role.ts";
import { dial } from "../proto/rpc-client.ts";
import type { LiveIdentity } from "../proto/rpc-identity.ts";
import type { NodeIdentity } from "../proto/rpc.ts";
import type { RpcServer } from "../proto/rpc-server.ts";
import { caService, controlService, dispatcherService } from "../proto/services.ts";
import { Autolock } from "./autolock.ts";
import { Authority } from "./ca/authority.ts";
import { renewOwnCertificate } from "./ca/ca-client.ts";
import { CA_AUDIENCE, caHandlers } from "./ca/ca-service.ts";
import type { NewCluster } from "./ca/new-cluster.ts";
import { ControlApi } from "./controlapi/control-api.ts";
import { CONTROL_AUDIENCE, controlHandlers } from "./controlapi/control-service.ts";
import { ControlWriter } from "./controlapi/control-writer.ts";
import { serveSession } from "./dispatcher/session-service.ts";
import type { RestoredCluster } from "./backup.ts";
import { adoptStore, bootstrapStore } from "./first-transaction.ts";
import { joinRaft, reachManager, withdrawFromRaft } from "./join-raft.ts";
import { LeaderLink } from "./leader-link.ts";
import { LeaderParts } from "./leader-parts.ts";
import { JOIN_WAIT_MS, LEADER_HANDOVER_MS } from "./limits.ts";
import { type LoopCounts, LoopTally } from "./loop-tally.ts";
import { MemberFile, type MemberSecrets, newMember, newRaftId } from "./member-file.ts";
import type { NodeImages } from "./node-images.ts";
import { EntryEncoder } from "./raft/entry-codec.ts";
import { GrpcTransport } from "./raft/grpc-transport.ts";
import { LevelCheckpoints } from "./raft/level-checkpoints.ts";
import { createRaftNode, type RaftNode } from "./raft/node.ts";
import { removeTornWrites, type StartMode, storedRaftId } from "./raft/open-state.ts";
import { raftHandlers } from "./raft-service.ts";
import { MemoryStore } from "./store/memory-store.ts";

/** How the manager's state begins. */
export type ManagerMode =
  | { readonly kind: "bootstrap"; readonly newCluster: NewCluster }
  /** A new member: a manager's certificate is there, the state comes from the others. */
  | { readonly kind: "join"; readonly remoteAddrs: readonly string[] }
  /** A new cluster from a backup of an old one. */
  | { readonly kind: "restore"; readonly restored: RestoredCluster }
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
  /** "host:port" where this machine reaches `server`; default `advertiseAddr`, which it may not reach behind a NAT. */
  readonly selfAddr?: string;
  readonly mode: ManagerMode;
  /** "SWMKEY-1-…"; needed to restart from a locked folder. */
  readonly unlockKey?: string;
  /** Called once when the manager can't go on (its disk failed): the process must end. */
  readonly onFatal: (error: unknown) => void;
}

/** What exists between start() and stop(). */
interface Running {
  readonly member: MemberSecrets;
  readonly raft: RaftNode;
  readonly checkpoints: LevelCheckpoints;
  readonly store: MemoryStore;
  readonly link: LeaderLink;
  readonly parts: LeaderParts;
  readonly control: ControlApi;
  readonly authority: Authority;
  readonly autolock: Autolock;
}

/** What a member of the Raft group says of itself. */
export interface RaftFigures {
  readonly term: number;
  readonly commitIndex: number;
  readonly appliedIndex: number;
  readonly memberCount: number;
  readonly walBytes: number;
  readonly isLeader: boolean;
}

/** What the leader's parts do; sessions and silent nodes are 0 on a manager that doesn't lead. */
export interface LeaderFigures {
  readonly loops: ReadonlyMap<string, LoopCounts>;
  /** Nodes with an open session. */
  readonly sessionCount: number;
  /** Nodes without a session that are not taken for lost yet. */
  readonly silentNodeCount: number;
}

export class Manager implements Component {
  readonly #options: ManagerOptions;
  readonly #memberFile: MemberFile;
  readonly #tally = new LoopTally();
  readonly #removedListeners = new Set<() => void>();
  #running: Running | undefined;
  /** What the member file was found sealed by. */
  #sealedBy = "";
  #isStopped = false;

  constructor(options: ManagerOptions) {
    this.#options = options;
    this.#memberFile = new MemberFile(options.env, options.folder);
  }

  /** True if `folder` holds a member's state that only the unlock key opens. */
  static isLocked(env: Env, folder: string): Promise<boolean> {
    return new MemberFile(env, folder).isLocked();
  }

  /** For the API of this machine. Usable once start() has resolved. */
  get control(): ClusterControl {
    return this.#started.control;
  }

  get #started(): Running {
    if (this.#running !== undefined) return this.#running;
    throw new ClusterError("unavailable", "The manager of this node is starting", { retryable: true });
  }

  get isLeader(): boolean {
    return !this.#isStopped && (this.#running?.raft.isLeader ?? false);
  }

  /** For when the certificate has expired and no manager renews it. Rejects with unavailable before the state is there. */
  async renewOwn(): Promise<NodeIdentity> {
    return renewOwnCertificate(this.#options.identity.current.nodeId, this.#started.authority);
  }

  /** What opens the state again, of a stopped manager too; undefined where nothing is locked. */
  get unlockKey(): string | undefined {
    return this.#running?.autolock.sealedBy || undefined;
  }

  /** For metrics; undefined while the manager starts. */
  get raftFigures(): RaftFigures | undefined {
    const raft = this.#running?.raft;
    if (raft === undefined) return undefined;
    return {
      term: raft.term,
      appliedIndex: raft.appliedIndex,
      commitIndex: raft.core.log.commitIndex,
      memberCount: raft.members.length,
      walBytes: raft.walBytes,
      isLeader: this.isLeader,
    };
  }

  get leaderFigures(): LeaderFigures {
    const dispatcher = this.#running?.parts.dispatcher;
    return {
      loops: this.#tally.byLoop,
      sessionCount: dispatcher?.connectedNodes.length ?? 0,
      silentNodeCount: dispatcher?.silentNodeCount ?? 0,
    };
  }

  /** Resolves when the state is there and this member takes part in Raft. Rejects leaving nothing running. */
  async start(): Promise<void> {
    assert(this.#running === undefined && !this.#isStopped, "a manager starts once");
    const { env, folder, mode } = this.#options;
    await env.disk.makeFolder(folder, 0o700);
    await removeTornWrites(env.disk, folder);
    const hasState = await env.disk.exists(`${folder}/raft/CURRENT`);
    // What is there would be taken up instead, as if the backup had never been given.
    if (hasState && mode.kind === "restore") {
      throw new ClusterError(
        "failed_precondition",
        `Cannot restore: "${folder}" must be empty, it holds a manager's state`,
      );
    }
    const member = await this.#openMember(hasState);
    const running = await this.#build(member, hasState);
    this.#running = running;
    try {
      running.raft.start();
      running.parts.start();
      running.autolock.start();
      if (mode.kind === "bootstrap")
        await bootstrapStore(running.store, running.raft, {
          ...this.#options,
          newCluster: mode.newCluster,
        });
      if (mode.kind === "restore") {
        const { availability } = mode.restored;
        await adoptStore(running.store, running.raft, { identity: this.#options.identity, availability });
      }
      if (mode.kind === "join") await this.#waitForState(running);
    } catch (error) {
      if (mode.kind === "join" && !hasState) await this.withdraw(mode.remoteAddrs);
      await this.stop();
      throw error;
    }
  }

  /** Leaves Raft, as far as the others can be asked: for a join that did not work out. */
  async withdraw(remoteAddrs: readonly string[]): Promise<void> {
    const { env, identity, log } = this.#options;
    const running = this.#running;
    if (running !== undefined) await this.#handOver(running);
    const { clock, timers } = env;
    await withdrawFromRaft({ identity, remoteAddrs, clock, timers }).catch((caught: unknown) =>
      log.warn("this manager could not leave Raft again", { error: ClusterError.from(caught) }),
    );
  }

  /** Hands leadership over if there is someone, and leaves the folder ready for a restart. */
  async stop(): Promise<void> {
    if (this.#isStopped) return;
    this.#isStopped = true;
    const running = this.#running;
    if (running === undefined) return;
    const { server } = this.#options;
    await this.#handOver(running);
    running.parts.stop();
    await running.autolock.stop();
    for (const definition of [caService, controlService, dispatcherService]) server.removeService(definition);
    running.control.stop();
    running.link.stop();
    await running.raft.stop();
    server.removeService(GrpcTransport.definition);
    // What this replica knew grows old from here on.
    server.setStanding(() => undefined);
    await running.checkpoints.close();
  }

  /** Called when this member was removed from Raft by the others (demoted, or its node was removed). */
  onRemoved(listener: () => void): () => void {
    this.#removedListeners.add(listener);
    return () => this.#removedListeners.delete(listener);
  }

  async #openMember(hasState: boolean): Promise<MemberSecrets> {
    const { env, identity, unlockKey } = this.#options;
    if (hasState) {
      this.#sealedBy = (await this.#memberFile.isLocked()) ? (unlockKey ?? "") : "";
      const member = await this.#memberFile.read(unlockKey);
      const raftId = await storedRaftId({ disk: env.disk, folder: `${this.#options.folder}/raft` });
      return { ...member, raftId: raftId ?? member.raftId };
    }
    // Without state nobody has heard of an earlier id: a fresh one is always safe.
    const member = newMember(env.random, identity.current.nodeId);
    await this.#memberFile.write(member, "");
    return member;
  }

  async #build(stored: MemberSecrets, hasState: boolean): Promise<Running> {
    const { env, identity, folder, server, advertiseAddr } = this.#options;
    const log = this.#options.log.child({ part: "manager" });
    const isForced = this.#options.mode.kind === "forceNewCluster";
    const member = isForced ? { ...stored, raftId: newRaftId(env.random) } : stored;
    const { raftId, nodeId, encryptionKey } = member;
    const { clusterId } = identity.current;
    const encoder = new EntryEncoder();
    const store = new MemoryStore({ clock: env.clock, timers: env.timers, log });
    const transport = new GrpcTransport({
      raftId,
      clusterId,
      timers: env.timers,
      random: env.random,
      log,
      encoder,
      connect: (addr) => dial(addr, identity, { manager: true }),
    });
    server.addService(
      GrpcTransport.definition,
      raftHandlers(transport, () => store.view()),
      "raft",
    );
    let checkpoints: LevelCheckpoints | undefined;
    try {
      const mode = await this.#startMode(member, { hasState, formerRaftId: stored.raftId });
      checkpoints = await LevelCheckpoints.open({
        folder: `${folder}/state`,
        encryptionKey,
        random: env.random,
      });
      const raft = await createRaftNode({
        env,
        log,
        raftId,
        nodeId,
        clusterId,
        folder: `${folder}/raft`,
        checkpoints,
        transport,
        stateMachine: store,
        mode,
        encryptionKey,
        encoder,
        onFatal: this.#options.onFatal,
      });
      store.attach(raft);
      return this.#compose({ member, raft, checkpoints, store, log, advertiseAddr });
    } catch (error) {
      server.removeService(GrpcTransport.definition);
      await checkpoints?.close();
      throw error;
    }
  }

  #compose(
    made: Pick<Running, "member" | "raft" | "checkpoints" | "store"> & {
      readonly log: Logger;
      readonly advertiseAddr: string;
    },
  ): Running {
    const { env, identity, server } = this.#options;
    const { raft, store, log } = made;
    const link = new LeaderLink({ clock: env.clock, timers: env.timers, identity, raft });
    const authority = new Authority({ store, clock: env.clock, random: env.random, log });
    const writer = new ControlWriter({ store, raft, clock: env.clock, random: env.random, log });
    const parts = new LeaderParts({ env, store, raft, log, tally: this.#tally });
    const nodeImages = (): NodeImages | undefined => parts.nodeImages;
    const control = new ControlApi({
      store,
      raft,
      link,
      writer,
      nodeImages,
      identity,
      selfAddr: this.#options.selfAddr ?? this.#options.advertiseAddr,
      env,
      log,
    });
    server.addService(caService, caHandlers({ view: () => store.view(), authority, link }), CA_AUDIENCE);
    server.addService(
      controlService,
      controlHandlers({
        view: () => store.view(),
        reach: (addr, nodeId) => reachManager(identity, addr, nodeId),
        writer,
        raft,
        nodeImages,
        link,
        log,
      }),
      CONTROL_AUDIENCE,
    );
    server.addService(
      dispatcherService,
      {
        session: {
          duplex: (call, { peer, remoteAddress }) =>
            serveSession(
              { dispatcher: () => parts.dispatcher, leaderAddress: () => link.leaderAddress },
              call,
              { peer: must(peer, "members have a certificate"), remoteAddress },
            ),
        },
      },
      "members",
    );
    server.setStanding(({ nodeId }) => standingOf(store.view(), nodeId));
    raft.onRemoved(() => {
      for (const listener of this.#removedListeners) listener();
    });
    const file = this.#memberFile;
    const autolock = new Autolock({
      store,
      raft,
      file,
      member: made.member,
      sealedBy: this.#sealedBy,
      timers: env.timers,
      log,
    });
    return { ...made, link, parts, control, authority, autolock };
  }

  async #startMode(
    member: MemberSecrets,
    before: { readonly hasState: boolean; readonly formerRaftId: number },
  ): Promise<StartMode> {
    const { mode, advertiseAddr, identity, env } = this.#options;
    const { raftId, nodeId } = member;
    const { hasState, formerRaftId } = before;
    if (mode.kind === "forceNewCluster") return { kind: mode.kind, addr: advertiseAddr, formerRaftId };
    if (hasState || mode.kind === "restart") return { kind: "restart" };
    if (mode.kind === "bootstrap") {
      return { kind: "bootstrap", members: [{ raftId, nodeId, addr: advertiseAddr, isLearner: false }] };
    }
    if (mode.kind === "restore") {
      const { index, term, entries } = mode.restored.backup;
      const members = [{ raftId, nodeId, addr: advertiseAddr, isLearner: false }];
      return { kind: "restore", members, index, term, state: entries };
    }
    const peers = await joinRaft({
      identity,
      remoteAddrs: mode.remoteAddrs,
      addr: advertiseAddr,
      raftId,
      timers: env.timers,
      clock: env.clock,
    });
    return { kind: "join", peers };
  }

  /** A member that joins is of use once it has the cluster's state and is heard. */
  async #waitForState(running: Running): Promise<void> {
    const { env } = this.#options;
    const deadlineMs = env.clock.monotonicMs() + JOIN_WAIT_MS;
    while (env.clock.monotonicMs() < deadlineMs) {
      const isThere = running.store.view().list("cluster").length > 0;
      if (
        isThere &&
        (await running.raft.readBarrier().then(
          () => true,
          () => false,
        ))
      )
        return;
      await new Promise<void>((resolve) => env.timers.after(20, resolve));
    }
    throw new ClusterError(
      "deadline_exceeded",
      `Joining must get the cluster's state within ${JOIN_WAIT_MS} ms, it did not come: ` +
        `check that the other managers reach this one at its advertise-addr "${this.#options.advertiseAddr}"`,
    );
  }

  async #handOver(running: Running): Promise<void> {
    const { env } = this.#options;
    const hasOthers = running.raft.members.filter((member) => !member.isLearner).length > 1;
    if (!running.raft.isLeader || !hasOthers) return;
    await Promise.race([
      running.raft.transferLeadership().catch(() => undefined),
      new Promise<void>((resolve) => env.timers.after(LEADER_HANDOVER_MS, resolve)),
    ]);
  }
}
