/**
 * What people do to the cluster itself, through the production code of CA and control API: managers and workers join with
 * tokens, managers are demoted and come back with empty disks, tokens and the root are rotated, autolock goes on and off,
 * backups are taken. Checks what comes back: C1 a certificate's role is its token's, C3 a rotated token opens nothing,
 * C4 who left Raft gets a worker's certificate, C6 a backup holds the state.
 */
import { X509Certificate } from "node:crypto";
import type { Env } from "../../common/env.ts";
import { ClusterError } from "../../common/errors.ts";
import { silentLogger } from "../../common/log.ts";
import type { SeededRandom } from "../../common/testing/seeded-random.ts";
import { readBackup, writeBackup } from "../../manager/backup.ts";
import { Authority } from "../../manager/ca/authority.ts";
import { createRequest } from "../../manager/ca/certificates.ts";
import { controlHandlers } from "../../manager/controlapi/control-service.ts";
import { ControlWriter } from "../../manager/controlapi/control-writer.ts";
import type { RaftNode } from "../../manager/raft/node.ts";
import type { Member } from "../../manager/raft/replicated-log.ts";
import type { MemoryStore } from "../../manager/store/memory-store.ts";
import { certificateRoleOf, mustRenewCertificate } from "../../model/node-role.ts";
import type { Cluster, Node } from "../../model/objects.ts";
import type { NodeRole } from "../../model/specs.ts";
import { Violation, type World } from "./world.ts";

const CALL_MS = 5_000;
const RETRY_MS = 400;
const MANAGER_COUNT_MIN = 3;
const MANAGER_COUNT_MAX = 6;
const WORKER_COUNT_MAX = 24;

/** The leader, as who holds the door finds it. */
export interface Leading {
  readonly store: MemoryStore;
  readonly raft: RaftNode;
  readonly env: Env;
}

export interface ManagerOperatorOptions {
  readonly world: World;
  readonly leader: () => Leading | undefined;
  /** Managers whose process runs, by node id. */
  readonly runningManagers: () => readonly string[];
  /** A member that has its place in the configuration starts with an empty disk. */
  readonly startMember: (raftId: number, nodeId: string, peers: readonly Member[]) => void;
  /** The machine of a manager burns down. */
  readonly destroy: (nodeId: string) => void;
  readonly addWorker: (nodeId: string) => void;
  readonly hasWorker: (nodeId: string) => boolean;
  readonly everyMs: number;
  readonly firstRaftId: number;
}

export class ManagerOperator {
  readonly #options: ManagerOperatorOptions;
  readonly #random: SeededRandom;
  /** Worker and manager tokens that no longer hold. */
  readonly #oldTokens: string[] = [];
  readonly #joining = new Set<string>();
  readonly #authorities = new WeakMap<MemoryStore, Authority>();
  #nextRaftId: number;
  #isOver = false;

  constructor(options: ManagerOperatorOptions) {
    this.#options = options;
    this.#random = options.world.random.fork();
    this.#nextRaftId = options.firstRaftId;
  }

  start(): void {
    this.#keepRenewing();
    const again = (): void => {
      const waitMs = -Math.log(1 - this.#random.float()) * this.#options.everyMs;
      this.#options.world.after(waitMs, () => {
        if (this.#isOver) return;
        this.#attempt(() => this.#act());
        again();
      });
    };
    again();
  }

  /** Joins that are under way go on. */
  stop(): void {
    this.#isOver = true;
  }

  get isIdle(): boolean {
    return this.#joining.size === 0;
  }

  /** Renews a node's certificate, as its agent does when it is told to. */
  renew(nodeId: string): void {
    this.#attempt(async (leading) => {
      const { csr } = await createRequest();
      const issued = await this.#authority(leading).renew(nodeId, csr);
      const node = leading.store.view().get("node", nodeId);
      const role = node === undefined ? issued.role : certificateRoleOf(node);
      checkRole("C4", issued.certificate ?? "", issued.role as NodeRole);
      if (node?.certificateSerial === serialOf(issued.certificate ?? "") && role !== issued.role) {
        throw new Violation("C4", `node ${nodeId}, a ${role} now, is given a certificate as ${issued.role}`);
      }
    });
  }

  /** Refusals, lost leaders and calls that never return are part of the day; anything else is an error. */
  #attempt(run: (leading: Leading) => Promise<void>): void {
    const leading = this.#options.leader();
    if (leading === undefined) return;
    run(leading).catch((caught: unknown) => {
      if (!(caught instanceof ClusterError)) this.#options.world.fail(caught);
    });
  }

  async #act(): Promise<void> {
    const leading = this.#options.leader();
    if (leading === undefined) return;
    const dice = this.#random.float();
    if (dice < 0.2) await this.#addManager(leading);
    else if (dice < 0.4) await this.#demote(leading);
    else if (dice < 0.5) this.#loseDisk(leading);
    else if (dice < 0.6) await this.#addWorker(leading);
    else if (dice < 0.7) await this.#rotate(leading, "tokens");
    else if (dice < 0.78) await this.#rotate(leading, "root");
    else if (dice < 0.88) await this.#rotate(leading, "lock");
    else if (dice < 0.94) await this.#tryOldToken(leading);
    else await this.#backUp(leading);
  }

  async #addManager(leading: Leading): Promise<void> {
    if (managersOf(leading).length >= MANAGER_COUNT_MAX) return;
    const nodeId = await this.#issue(leading, "manager");
    // A leader that was cut off may make the node only after the mending, when nothing waits for new joins any more.
    if (!this.#isOver) await this.#join(nodeId);
  }

  async #addWorker(leading: Leading): Promise<void> {
    const workers = leading.store.view().list("node").length - managersOf(leading).length;
    if (workers < WORKER_COUNT_MAX) this.#options.addWorker(await this.#issue(leading, "worker"));
  }

  /** C1. */
  async #issue(leading: Leading, role: NodeRole): Promise<string> {
    const { world } = this.#options;
    const { csr } = await createRequest();
    const token = clusterOf(leading).rootCa.joinTokens[role];
    const availability = role === "manager" ? "drain" : "active";
    const issued = await this.#authority(leading).issue({ csr, token, availability, addr: "192.0.2.9" });
    world.note(30, 0, () => `${issued.nodeId} joins as ${issued.role}`);
    if (issued.role !== role) throw new Violation("C1", `a ${role} token makes a ${issued.role}`);
    checkRole("C1", issued.certificate ?? "", role);
    return issued.nodeId ?? "";
  }

  /** C3: the token was replaced. */
  async #tryOldToken(leading: Leading): Promise<void> {
    const token = this.#oldTokens.at(-1);
    if (token === undefined) return;
    const { csr } = await createRequest();
    const isTaken = await this.#authority(leading)
      .issue({ csr, token, availability: "active", addr: "192.0.2.9" })
      .then(
        () => true,
        () => false,
      );
    if (isTaken) throw new Violation("C3", "a join token that was rotated away still opens the cluster");
  }

  /** Asks until it is a member, as a manager does that starts, or is none to be. */
  async #join(nodeId: string): Promise<void> {
    const { leader, world } = this.#options;
    const raftId = this.#nextRaftId;
    this.#nextRaftId += 1;
    this.#joining.add(nodeId);
    for (;;) {
      await this.#sleep(RETRY_MS);
      const leading = leader();
      if (leading === undefined) continue;
      const node = leading.store.view().get("node", nodeId);
      if (node !== undefined && node.spec.Role !== "manager") break;
      const peers = await this.#askToJoin(leading, { nodeId, raftId });
      if (peers === undefined) continue;
      world.note(31, raftId, () => `${nodeId} is taken into Raft as ${raftId}`);
      this.#options.startMember(raftId, nodeId, peers);
      break;
    }
    this.#joining.delete(nodeId);
  }

  async #askToJoin(
    leading: Leading,
    member: { readonly nodeId: string; readonly raftId: number },
  ): Promise<readonly Member[] | undefined> {
    const { raftId, nodeId } = member;
    const handler = controlHandlers({
      view: () => leading.store.view(),
      reach: () => Promise.resolve(),
      writer: this.#writer(leading),
      raft: leading.raft,
      nodeImages: () => undefined,
      link: { leaderAddress: "" },
      log: silentLogger,
    }).joinRaft;
    if (!("unary" in handler)) return undefined;
    const peer = { nodeId, clusterId: clusterOf(leading).id, role: "manager", serial: "" } as const;
    const context = { peer, remoteAddress: `${raftId}:1`, signal: new AbortController().signal };
    const asked = Promise.resolve(handler.unary({ raftId, addr: `${raftId}:1` }, context)).catch(
      () => undefined,
    );
    const answer = await Promise.race([asked, this.#sleep(CALL_MS)]);
    return answer?.members?.map((each) => ({
      raftId: each.raftId ?? 0,
      nodeId: each.nodeId ?? "",
      addr: each.addr ?? "",
      isLearner: each.isLearner ?? false,
    }));
  }

  async #demote(leading: Leading): Promise<void> {
    const managers = managersOf(leading);
    const node = managers[this.#random.below(managers.length)];
    if (node === undefined || managers.length <= MANAGER_COUNT_MIN || this.#joining.has(node.id)) return;
    this.#options.world.note(32, 0, () => `${node.id} is demoted`);
    await this.#writer(leading).updateNode(node.id, node.version, { ...node.spec, Role: "worker" });
  }

  /** All others run and vote: what the lost disk promised, a quorum of them still knows. */
  #loseDisk(leading: Leading): void {
    const managers = managersOf(leading);
    const running = new Set(this.#options.runningManagers());
    const node = managers[this.#random.below(managers.length)];
    const { config } = leading.raft.core.configAt(leading.raft.appliedIndex);
    const voters = new Set(config.flatMap(({ isLearner, nodeId }) => (isLearner ? [] : [nodeId])));
    const isWhole =
      managers.length >= MANAGER_COUNT_MIN &&
      managers.every((each) => running.has(each.id) && voters.has(each.id));
    if (node === undefined || !isWhole || this.#joining.size > 0) return;
    this.#options.world.note(33, 0, () => `${node.id} loses its disk`);
    this.#options.destroy(node.id);
    this.#join(node.id).catch((caught: unknown) => this.#options.world.fail(caught));
  }

  async #rotate(leading: Leading, what: "tokens" | "root" | "lock"): Promise<void> {
    const cluster = clusterOf(leading);
    const { CAConfig, EncryptionConfig } = cluster.spec;
    const isLocked = EncryptionConfig?.AutoLockManagers === true;
    const isRekeyed = what === "lock" && isLocked && this.#random.float() < 0.5;
    const spec = {
      ...cluster.spec,
      ...(what === "root"
        ? { CAConfig: { ...CAConfig, ForceRotate: (CAConfig?.ForceRotate ?? 0) + 1 } }
        : {}),
      ...(what === "lock" && !isRekeyed ? { EncryptionConfig: { AutoLockManagers: !isLocked } } : {}),
    };
    this.#options.world.note(34, 0, () => `rotates ${what}`);
    await this.#writer(leading).updateCluster({
      version: cluster.version,
      spec,
      rotateWorkerToken: what === "tokens",
      rotateManagerToken: what === "tokens",
      rotateManagerUnlockKey: isRekeyed,
    });
    if (what === "tokens") this.#oldTokens.push(...Object.values(cluster.rootCa.joinTokens));
  }

  /** C6. */
  async #backUp(leading: Leading): Promise<void> {
    const { raft, store } = leading;
    await raft.readBarrier();
    const entries = [...store.snapshot().entries()];
    const { appliedIndex: index, term } = raft;
    const file = writeBackup({ cluster: clusterOf(leading), entries, index, term, takenAt: "" });
    const backup = readBackup(file);
    const isSame =
      backup.index === index &&
      backup.entries.length === entries.length &&
      backup.entries.every(([key, value], at) => {
        const [wantedKey, wanted] = entries[at] ?? ["", new Uint8Array(0)];
        return key === wantedKey && Buffer.compare(value, wanted) === 0;
      });
    if (!isSame) throw new Violation("C6", `the backup at ${index} is not the state`);
  }

  /** Nodes that have no model worker: managers, those that were, and the dead, which else would hold the rotation up. */
  #keepRenewing(): void {
    this.#options.world.after(1_000, () => {
      this.#keepRenewing();
      const leading = this.#options.leader();
      const cluster = leading?.store.view().list("cluster")[0];
      if (leading === undefined || cluster?.rootCa.rotationInProgress !== true) return;
      for (const node of leading.store.view().list("node")) {
        if (!this.#options.hasWorker(node.id) && mustRenewCertificate(cluster, node)) this.renew(node.id);
      }
    });
  }

  /** One for each life of a manager, as the managers have it. */
  #authority({ env, store }: Leading): Authority {
    const known = this.#authorities.get(store);
    if (known !== undefined) return known;
    const made = new Authority({ store, clock: env.clock, random: env.random, log: silentLogger });
    this.#authorities.set(store, made);
    return made;
  }

  #writer({ env, raft, store }: Leading): ControlWriter {
    return new ControlWriter({ store, raft, clock: env.clock, random: env.random, log: silentLogger });
  }

  #sleep(ms: number): Promise<undefined> {
    return new Promise((resolve) => {
      this.#options.world.after(ms, () => resolve(undefined));
    });
  }
}

function clusterOf({ store }: Leading): Cluster {
  const cluster = store.view().list("cluster")[0];
  if (cluster === undefined) throw new ClusterError("unavailable", "The state has not arrived yet");
  return cluster;
}

export function managersOf({ store }: Pick<Leading, "store">): readonly Node[] {
  return store
    .view()
    .list("node")
    .filter((node) => node.spec.Role === "manager");
}

function serialOf(certificate: string): string {
  return new X509Certificate(certificate).serialNumber.toLowerCase();
}

function checkRole(check: string, certificate: string, role: NodeRole): void {
  const { subject } = new X509Certificate(certificate);
  if (!subject.includes(`OU=swarm-${role}`)) {
    throw new Violation(check, `the certificate of a ${role} says ${subject.replaceAll("\n", ", ")}`);
  }
}
