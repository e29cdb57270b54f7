/**
 * This machine's place in a cluster, through its whole life: none, made here, joined, restarted, promoted, demoted, left.
 * Puts together the mTLS port, the worker half and (on managers) the manager, and swaps them while running.
 * One change at a time: each waits for the last.
 */
import { must } from "../common/assert.ts";
import { ClusterError } from "../common/errors.ts";
import type { Env } from "../common/env.ts";
import type { Logger } from "../common/log.ts";
import type {
  ClusterControl,
  SwarmInitRequest,
  SwarmJoinRequest,
  SwarmLifecycle,
  SwarmState,
} from "../model/cluster-control.ts";
import type { ResolvedImage, SessionInfo } from "../model/dispatch.ts";
import type { Engine, ImageDescription } from "../model/engine.ts";
import type { NodeDescription } from "../model/objects.ts";
import type { NodeRole } from "../model/specs.ts";
import type { LeaderFigures, Manager, ManagerMode, RaftFigures } from "../manager/manager.ts";
import type { LiveIdentity } from "../proto/rpc-identity.ts";
import type { NodeIdentity } from "../proto/rpc.ts";
import type { RpcServer } from "../proto/rpc-server.ts";
import type { WorkerNetwork } from "../worker/network/worker-network.ts";
import {
  dialAddress,
  formatHostPort,
  joinTimeout,
  checkListen,
  listenError,
  type MemberAddresses,
  memberAddresses,
  parseHostPort,
} from "./addresses.ts";
import type { ClusterBlobPeers } from "./blob-peers.ts";
import { resolveClusterImage } from "./cluster-images.ts";
import type { CertificateRenewal } from "./certificate-renewal.ts";
import type * as MemberParts from "./member-parts.ts";
import { describedBy } from "./node-description.ts";
import type { NodeState, NodeStateStore } from "./node-state.ts";
import type { DaemonOptions } from "./options.ts";
import { remoteManagers, standingAtWorker } from "./remote-managers.ts";
import { hasRole, type RoleChange } from "./role-change.ts";
import type { WorkerNode } from "./worker-node.ts";

/** How long init and join wait for the node's first session before they say that it goes on in the background. */
const READY_TIMEOUT_MS = 20_000;
const READY_POLL_MS = 20;

/** Blobs come in 256 KiB pieces: with HTTP/2's own window of 64 KiB each would take four trips. */
const BLOB_CHANNEL = { "grpc-node.flow_control_window": 1024 * 1024 };

const ALREADY_IN =
  'This node is already part of a swarm. Use "docker swarm leave" to leave this swarm and join another one.';
const NOT_IN = "This node is not part of a swarm";
const LEAVE_LOCKED =
  "Swarm is encrypted and locked. Please unlock it first or use `--force` to ignore this message.";
const LEAVE_MANAGER =
  "You are attempting to leave the swarm on a node that is participating as a manager. " +
  "Removing the last manager erases all current state of the swarm, and removing one of several changes the quorum. " +
  "Demote it first, or use `--force` to suppress this message.";

export interface SwarmNodeOptions {
  readonly env: Env;
  readonly log: Logger;
  readonly engine: Engine;
  readonly store: NodeStateStore;
  readonly daemon: DaemonOptions;
  readonly description: () => NodeDescription;
  /** Makes the worker's network for a node; its instance tag is the daemon's. */
  readonly createNetwork: (node: {
    readonly nodeId: string;
    readonly dataPathAddress: string;
  }) => Promise<WorkerNetwork>;
  /** A part broke in a way that must end the process. */
  readonly fatal: (error: ClusterError) => void;
}

interface Membership {
  state: NodeState;
  readonly identity: LiveIdentity;
  readonly server: RpcServer;
  readonly worker: WorkerNode;
  readonly peers: ClusterBlobPeers;
  readonly renewal: CertificateRenewal;
  readonly roleChange: RoleChange;
  manager: Manager | undefined;
  /** By the last session message, with ids; the addresses are in the state too. */
  toldManagers: SessionInfo["managers"];
}

export class SwarmNode implements SwarmLifecycle {
  readonly #options: SwarmNodeOptions;
  #membership: Membership | undefined;
  #phase: SwarmState["localNodeState"] = "inactive";
  #error = "";
  #unlockKey: string | undefined;
  /** Tail of the chain of changes. */
  #changes: Promise<void> = Promise.resolve();

  constructor(options: SwarmNodeOptions) {
    this.#options = options;
  }

  state(): SwarmState {
    const membership = this.#membership;
    return {
      localNodeState: this.#phase,
      nodeId: membership?.state.nodeId ?? "",
      nodeAddr: membership === undefined ? "" : parseHostPort(membership.state.advertiseAddr, "addr").host,
      isManager: membership?.manager !== undefined,
      error: this.#error || (membership?.worker.trouble ?? ""),
      remoteManagers: remoteManagers({
        members: membership?.manager?.control.managers(),
        told: membership?.toldManagers ?? [],
        saved: membership?.state.managers ?? [],
      }),
    };
  }

  control(): ClusterControl | undefined {
    return this.#membership?.manager?.control;
  }

  /** Undefined on workers, and while the manager starts. */
  raftFigures(): RaftFigures | undefined {
    return this.#membership?.manager?.raftFigures;
  }

  /** Undefined on workers. */
  leaderFigures(): LeaderFigures | undefined {
    return this.#membership?.manager?.leaderFigures;
  }

  /** Whether this node's agent has a session with the leader; undefined outside of a cluster. */
  isAgentConnected(): boolean | undefined {
    return this.#membership?.worker.isConnected;
  }

  /** Takes up the membership of the last run, if there is one. */
  start(): Promise<void> {
    return this.#change(async () => {
      const { env, store, log } = this.#options;
      const saved = await store.load();
      if (saved === undefined) return;
      // First of all: of one that locks itself nobody was told the key.
      if (saved.state.isFounding === true) {
        log.warn("making this cluster was cut off before it was whole: nothing of it is kept", {
          nodeId: saved.state.nodeId,
        });
        await store.clear();
        return;
      }
      if (
        saved.state.role === "manager" &&
        (await (await loadManager()).isLocked(env, store.managerFolder))
      ) {
        log.warn("this manager is locked: give it the key with `shoal swarm unlock`");
        this.#phase = "locked";
        return;
      }
      // Stopped in the middle of its demotion: no worker's disk is to hold the cluster's secrets.
      if (saved.state.role === "worker") await store.clearManager();
      // Stopped between its promotion and its join, or taken out of Raft: once told its role it asks to be taken in.
      const isJoining = saved.state.role === "manager" && !(await store.hasManagerState());
      if (isJoining) log.warn("this manager has no state of the cluster yet, it asks the others for it");
      await this.#enter(saved.state, saved.identity, isJoining ? undefined : { kind: "restart" });
    });
  }

  /** Stops all parts; containers and their traffic go on. */
  stop(): Promise<void> {
    return this.#change(() => this.#haltAny());
  }

  init(request: SwarmInitRequest): Promise<string> {
    return this.#change(async () => {
      const isIn = this.#membership !== undefined || this.#phase === "locked";
      if (isIn && !request.forceNewCluster) {
        throw new ClusterError("unavailable", ALREADY_IN);
      }
      if (request.forceNewCluster) return this.#forceNewCluster();
      const { env, daemon } = this.#options;
      const addresses = await memberAddresses(request, daemon);
      if (request.restore !== undefined)
        return this.#restore(request.restore, addresses, request.availability);
      const { createCluster } = await import("../manager/ca/new-cluster.ts");
      const { checkNewClusterSpec } = await import("../manager/controlapi/validate/other-specs.ts");
      const { identity, newCluster } = await createCluster({
        env,
        dataPathPort: request.dataPathPort || daemon.dataPathPort,
        defaultAddressPool: request.defaultAddrPool,
        subnetSize: request.subnetSize,
        autoLockManagers: request.autoLockManagers,
        spec: checkNewClusterSpec(request.spec),
        availability: request.availability,
      });
      const state = this.#newState(identity, addresses, { availability: request.availability, managers: [] });
      await this.#enterNew(state, identity, { kind: "bootstrap", newCluster });
      return identity.nodeId;
    });
  }

  async #restore(
    file: Uint8Array,
    addresses: MemberAddresses,
    availability: SwarmInitRequest["availability"],
  ): Promise<string> {
    const { restoreCluster } = await import("../manager/backup.ts");
    const { identity, restored } = await restoreCluster({ env: this.#options.env, file, availability });
    const state = this.#newState(identity, addresses, { availability, managers: [] });
    await this.#enterNew(state, identity, { kind: "restore", restored });
    return identity.nodeId;
  }

  join(request: SwarmJoinRequest): Promise<void> {
    return this.#change(async () => {
      if (this.#membership !== undefined || this.#phase === "locked") {
        throw new ClusterError("unavailable", ALREADY_IN);
      }
      const addresses = await memberAddresses(request, this.#options.daemon);
      const remoteAddrs = request.remoteAddrs.map((each) =>
        formatHostPort(parseHostPort(each, "RemoteAddrs")),
      );
      await checkListen(addresses.listenAddr);
      const { joinCluster } = await import("../manager/ca/ca-client.ts");
      const identity = await joinCluster({
        remoteAddrs,
        token: request.joinToken,
        availability: request.availability,
        addr: parseHostPort(addresses.advertiseAddr, "advertise-addr").host,
      });
      const state = this.#newState(identity, addresses, {
        availability: request.availability,
        managers: remoteAddrs,
      });
      await this.#enterNew(state, identity, { kind: "join", remoteAddrs });
    });
  }

  async describeImage(nodeId: string, reference: string, signal: AbortSignal): Promise<ImageDescription> {
    const membership = this.#membership;
    if (membership === undefined) throw new ClusterError("unavailable", NOT_IN);
    if (nodeId !== membership.state.nodeId) return membership.peers.describeAt(nodeId, reference, signal);
    const image = this.#options.engine.images.describe(reference);
    if (image !== undefined) return image;
    throw new ClusterError("not_found", `No such image: ${reference}`);
  }

  leave(force: boolean): Promise<void> {
    return this.#change(async () => {
      const membership = this.#membership;
      if (this.#phase === "locked") {
        if (!force) throw new ClusterError("unavailable", LEAVE_LOCKED);
        await this.#dropLocked();
        return;
      }
      if (membership === undefined) throw new ClusterError("unavailable", NOT_IN);
      if (membership.manager !== undefined && !force) {
        throw new ClusterError("unavailable", LEAVE_MANAGER);
      }
      await this.#drop(membership);
    });
  }

  /** Rejects with unauthenticated for a wrong key; then it is locked as before. */
  unlock(key: string): Promise<void> {
    return this.#change(async () => {
      if (this.#phase !== "locked") throw new ClusterError("conflict", "swarm is not locked");
      const saved = must(await this.#options.store.load(), "a locked node has a state");
      this.#unlockKey = key;
      try {
        await this.#enter(saved.state, saved.identity, { kind: "restart" });
      } catch (caught) {
        this.#unlockKey = undefined;
        await this.#haltAny();
        this.#phase = "locked";
        throw caught;
      }
    });
  }

  #change<T>(work: () => Promise<T>): Promise<T> {
    const result = this.#changes.then(work);
    this.#changes = result.then(
      () => {},
      () => {},
    );
    return result;
  }

  #newState(
    identity: NodeIdentity,
    addresses: MemberAddresses,
    rest: Pick<NodeState, "availability" | "managers">,
  ): NodeState {
    const { nodeId, clusterId, role } = identity;
    const managers = rest.managers.length > 0 ? rest.managers : [addresses.advertiseAddr];
    return { nodeId, clusterId, role, ...addresses, ...rest, managers };
  }

  /** First entry: the state is kept only if it works out. */
  async #enterNew(state: NodeState, identity: NodeIdentity, mode: ManagerMode): Promise<void> {
    const { store } = this.#options;
    this.#phase = "pending";
    try {
      await store.clearLeftovers();
      await store.saveIdentity(identity);
      const isFounding = mode.kind === "bootstrap" || mode.kind === "restore";
      await store.save(isFounding ? { ...state, isFounding } : state);
      await this.#enter(state, identity, mode);
      if (isFounding) await store.save(must(this.#membership, "it was entered").state);
      await this.#untilReady();
    } catch (caught) {
      const membership = this.#membership;
      this.#membership = undefined;
      this.#phase = "inactive";
      // What is forgotten here must not be counted on by the others.
      if (mode.kind === "join") await membership?.manager?.withdraw(mode.remoteAddrs);
      if (membership !== undefined) await this.#halt(membership);
      await store.clear();
      throw caught;
    }
  }

  /** `mode` undefined: without the manager half. */
  async #enter(state: NodeState, identity: NodeIdentity, mode: ManagerMode | undefined): Promise<void> {
    const { log, engine, daemon } = this.#options;
    const membership = await this.#assemble(state, identity);
    this.#membership = membership;
    const { host, port } = parseHostPort(state.listenAddr, "listen-addr");
    await membership.server.listen(host || "0.0.0.0", port).catch((caught: unknown) => {
      throw listenError(state.listenAddr, caught);
    });
    judgeAsWorker(membership);
    if (identity.role === "manager" && mode !== undefined) await this.#startManager(membership, mode);
    engine.images.setPeers(membership.peers);
    await membership.worker.start();
    membership.renewal.start();
    this.#phase = "active";
    this.#error = "";
    log.info("node is in the cluster", {
      nodeId: state.nodeId,
      role: identity.role,
      addr: state.advertiseAddr,
      dataRoot: daemon.dataRoot,
    });
  }

  /** All that a node of the cluster consists of, not started yet. */
  async #assemble(state: NodeState, identity: NodeIdentity): Promise<Membership> {
    const { env, log, engine } = this.#options;
    const parts = await import("./member-parts.ts");
    const live = new parts.LiveIdentity(identity);
    const server = new parts.RpcServer({ identity, log: log.child({ part: "rpc" }) });
    server.addService(
      parts.nodeService,
      parts.nodeServiceHandlers(engine, (reference) => this.#resolveImage(reference)),
      parts.NODE_AUDIENCE,
    );
    const worker = await this.#assembleWorker(state, live, parts);
    const peers = new parts.ClusterBlobPeers({
      peers: () => worker.peers,
      managers: () =>
        (this.#membership?.state.managers ?? state.managers).filter((addr) => addr !== state.advertiseAddr),
      resolveHere: (reference) => this.#resolveImage(reference).catch(() => undefined),
      dial: (addr, options) => parts.dial(addr, live, { ...options, channel: BLOB_CHANNEL }),
    });
    const renewal = new parts.CertificateRenewal({
      env,
      log,
      identity: () => live.current,
      managers: () =>
        (this.#membership?.state.managers ?? state.managers).map((addr) => dialAddress(addr, state)),
      renew: parts.renewCertificate,
      renewOwn: () => this.#membership?.manager?.renewOwn(),
      renewed: (next) => this.#renewed(next),
    });
    const change = (role: NodeRole): Promise<boolean> => this.#change(() => this.#changeRole(role));
    const roleChange = new parts.RoleChange({ env, log, change });
    const own = { state, identity: live, server, worker, peers, renewal, roleChange };
    return { ...own, manager: undefined, toldManagers: [] };
  }

  async #assembleWorker(
    state: NodeState,
    live: LiveIdentity,
    parts: typeof MemberParts,
  ): Promise<WorkerNode> {
    const { env, log, engine, store } = this.#options;
    const network = await this.#options.createNetwork({
      nodeId: state.nodeId,
      dataPathAddress: state.dataPathAddr,
    });
    return new parts.WorkerNode({
      env,
      log,
      engine,
      network,
      folder: store.workerFolder,
      connect: parts.grpcConnector((addr) => parts.dial(dialAddress(addr, state), live, { manager: true })),
      description: describedBy(this.#options.description, { live, tlsInfoOf: parts.tlsInfoOf }),
      rpcAddress: state.advertiseAddr,
      addr: parseHostPort(state.advertiseAddr, "advertise-addr").host,
      dataPathAddress: state.dataPathAddr,
      availability: state.availability,
      managers: state.managers,
      managersChanged: (managers) => this.#managersChanged(managers),
      roleWanted: (role) => this.#membership?.roleChange.want(role),
      renewalWanted: () => this.#membership?.renewal.renewNow(),
      removed: () => this.#removed(),
    });
  }

  async #startManager(membership: Membership, mode: ManagerMode): Promise<void> {
    const { env, log, store, fatal } = this.#options;
    // Of a join that did not work out, which has left Raft again: a member that was removed is never taken back.
    if (mode.kind === "join") await store.clearManager();
    await env.disk.makeFolder(store.managerFolder);
    const Loaded = await loadManager();
    const manager = new Loaded({
      env,
      log: log.child({ part: "manager" }),
      identity: membership.identity,
      folder: store.managerFolder,
      server: membership.server,
      advertiseAddr: membership.state.advertiseAddr,
      selfAddr: dialAddress(membership.state.advertiseAddr, membership.state),
      mode,
      ...(this.#unlockKey === undefined ? {} : { unlockKey: this.#unlockKey }),
      onFatal: (error) => fatal(ClusterError.from(error)),
    });
    manager.onRemoved(() => this.#managerRemoved(membership));
    await manager.start();
    membership.manager = manager;
  }

  async #untilReady(): Promise<void> {
    const { clock, timers } = this.#options.env;
    const deadlineMs = clock.monotonicMs() + READY_TIMEOUT_MS;
    while (this.#membership?.worker.isConnected !== true) {
      if (clock.monotonicMs() > deadlineMs) {
        throw joinTimeout(must(this.#membership, "only a node with a membership waits").state);
      }
      await new Promise<void>((resolve) => {
        timers.after(READY_POLL_MS, resolve);
      });
    }
  }

  async #resolveImage(reference: string): Promise<ResolvedImage | undefined> {
    const control = this.#membership?.manager?.control;
    if (control === undefined) throw new ClusterError("failed_precondition", "This node is not a manager");
    return resolveClusterImage(control, this.#options.engine.images, {
      reference,
      nodeId: must(this.#membership, "a node with a manager has a membership").state.nodeId,
    });
  }

  #managersChanged(told: SessionInfo["managers"]): void {
    const membership = this.#membership;
    if (membership === undefined) return;
    membership.toldManagers = told;
    const managers = told.map((each) => each.addr);
    if (managers.join() === membership.state.managers.join()) return;
    membership.state = { ...membership.state, managers };
    this.#save(membership);
  }

  #save(membership: Membership): void {
    this.#options.store.save(membership.state).catch((caught: unknown) => {
      this.#options.log.error("node state could not be written", { error: caught });
    });
  }

  #renewed(identity: NodeIdentity): void {
    void this.#change(async () => {
      const membership = this.#membership;
      if (membership === undefined) return;
      await this.#takeUp(membership, identity);
      membership.worker.reconnect();
    }).catch((caught: unknown) => {
      this.#options.log.error("renewed certificate could not be taken up", { error: caught });
    });
  }

  async #takeUp(membership: Membership, identity: NodeIdentity): Promise<void> {
    await this.#options.store.saveIdentity(identity);
    membership.identity.set(identity);
    membership.server.setIdentity(identity);
    if (identity.role === membership.state.role) return;
    membership.state = { ...membership.state, role: identity.role };
    await this.#options.store.save(membership.state);
  }

  /** Promotion and demotion: a certificate with the new role first, then the manager half comes or goes. */
  async #changeRole(role: NodeRole): Promise<boolean> {
    const membership = this.#membership;
    if (membership === undefined || hasRole(membership, role)) return true;
    const { managers, advertiseAddr } = membership.state;
    const { renewCertificate } = await import("../manager/ca/ca-client.ts");
    const identity = await renewCertificate({
      identity: membership.identity.current,
      managers: managers.map((addr) => dialAddress(addr, membership.state)),
    });
    if (identity.role !== role) return false;
    await this.#takeUp(membership, identity);
    // One that lost its state is still among those that the others name.
    const remoteAddrs = managers.filter((addr) => addr !== advertiseAddr);
    if (role === "manager") await this.#startManager(membership, { kind: "join", remoteAddrs });
    else await this.#endManager(membership);
    this.#options.log.info("role changed", { role });
    membership.worker.reconnect();
    return true;
  }

  async #endManager(membership: Membership): Promise<void> {
    const { manager } = membership;
    membership.manager = undefined;
    await manager?.stop();
    judgeAsWorker(membership);
    await this.#options.store.clearManager();
  }

  /** The other managers took this member out: demotion reaches it this way when no session is open. */
  #managerRemoved(membership: Membership): void {
    void this.#change(async () => {
      if (this.#membership !== membership || membership.manager === undefined) return;
      this.#options.log.info("this manager was removed from the quorum");
      await this.#endManager(membership);
    }).catch((caught: unknown) => {
      this.#options.log.error("removed manager could not be stopped", { error: caught });
    });
  }

  async #forceNewCluster(): Promise<string> {
    const membership = this.#membership;
    if (membership?.manager === undefined) throw new ClusterError("unavailable", NOT_IN);
    await this.#halt(membership);
    this.#membership = undefined;
    // Known to the cluster, not to a node that has not been locked since.
    this.#unlockKey = membership.manager.unlockKey;
    const identity = membership.identity.current;
    await this.#enter(membership.state, identity, { kind: "forceNewCluster" }).catch(
      async (caught: unknown) => {
        // As it was: what is here may still be of use to the others.
        await this.#haltAny();
        await this.#enter(membership.state, identity, { kind: "restart" });
        throw caught;
      },
    );
    await this.#untilReady();
    return membership.state.nodeId;
  }

  #removed(): void {
    void this.#change(async () => {
      const membership = this.#membership;
      if (membership === undefined) return;
      this.#options.log.warn("node was removed from the cluster");
      await this.#drop(membership);
    }).catch((caught: unknown) => {
      this.#options.log.error("removed node could not be cleaned up", { error: caught });
    });
  }

  async #drop(membership: Membership): Promise<void> {
    this.#membership = undefined;
    this.#phase = "inactive";
    membership.renewal.stop();
    membership.roleChange.stop();
    await membership.manager?.stop();
    await membership.worker.leave();
    await this.#close(membership);
    await this.#options.store.clear();
  }

  /** Its tasks have run on since before the daemon's start: they are taken up once more, so that nothing stays of them. */
  async #dropLocked(): Promise<void> {
    const saved = must(await this.#options.store.load(), "a locked node has a state");
    const membership = await this.#assemble(saved.state, saved.identity);
    await membership.worker.start();
    await this.#drop(membership);
  }

  /** Whole or half entered. */
  async #haltAny(): Promise<void> {
    const membership = this.#membership;
    this.#membership = undefined;
    if (membership !== undefined) await this.#halt(membership);
  }

  async #halt(membership: Membership): Promise<void> {
    this.#phase = "inactive";
    membership.renewal.stop();
    membership.roleChange.stop();
    // Hands leadership on first, so that the others need no election.
    await membership.manager?.stop();
    await membership.worker.stop();
    await this.#close(membership);
  }

  async #close(membership: Membership): Promise<void> {
    this.#options.engine.images.setPeers(undefined);
    membership.peers.close();
    await membership.server.stop();
  }
}

/** Until a manager half runs here, which knows better. */
function judgeAsWorker(membership: Membership): void {
  membership.server.setStanding((peer) => standingAtWorker(peer, membership.toldManagers));
}

/** Managers and certificates are half of what the daemon could have in memory: a machine without a cluster loads neither. */
async function loadManager(): Promise<typeof Manager> {
  return (await import("../manager/manager.ts")).Manager;
}
