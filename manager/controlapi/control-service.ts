/** The gRPC edge of the leader's writes, for the other managers: documents in, outcomes out, and Raft membership. */
import { must } from "../../common/assert.ts";
import { ClusterError } from "../../common/errors.ts";
import type { Logger } from "../../common/log.ts";
import type { shoal } from "../../proto/messages.ts";
import type { CallContext, ServiceHandlers } from "../../proto/rpc-server.ts";
import type { Audience } from "../../proto/rpc.ts";
import { controlService } from "../../proto/services.ts";
import type { LeaderLink } from "../leader-link.ts";
import { LEARNER_WAIT_MS } from "../limits.ts";
import type { NodeImages } from "../node-images.ts";
import type { StoreView } from "../../model/store-view.ts";
import type { ReplicatedLog } from "../raft/replicated-log.ts";
import type { ControlWriter, Outcome } from "./control-writer.ts";

export interface ControlServiceDeps {
  readonly view: () => StoreView;
  /** Resolves once node `nodeId` answers at `addr`; rejects saying why it does not. */
  readonly reach: (addr: string, nodeId: string) => Promise<void>;
  readonly writer: ControlWriter;
  readonly raft: ReplicatedLog;
  /** What nodes say of their images to this member; undefined while another leads. */
  readonly nodeImages: () => NodeImages | undefined;
  readonly link: Pick<LeaderLink, "leaderAddress">;
  readonly log: Logger;
}

type Response = shoal.v1.WriteResponse.$Properties;
type Create = shoal.v1.CreateRequest.$Properties;
type Update = shoal.v1.UpdateRequest.$Properties;
type Remove = shoal.v1.RemoveRequest.$Properties;

const decoder = new TextDecoder();

function parse(json: Uint8Array | null | undefined): unknown {
  return JSON.parse(decoder.decode(json ?? new Uint8Array())) as unknown;
}

function created(request: Create): { readonly id: string; readonly spec: unknown } {
  return { id: request.id ?? "", spec: parse(request.specJson) };
}

function updated(request: Update): { readonly id: string; readonly version: number; readonly spec: unknown } {
  return { id: request.id ?? "", version: request.version ?? 0, spec: parse(request.specJson) };
}

/** A handler that answers with the write's outcome. */
function writes<Request>(run: (request: Request) => Promise<Outcome>): {
  readonly unary: (request: Request) => Promise<Response>;
} {
  return {
    unary: async (request) => {
      const { id, warnings, version } = await run(request);
      return { id, warnings: [...warnings], version };
    },
  };
}

export function controlHandlers(deps: ControlServiceDeps): ServiceHandlers<typeof controlService> {
  const { writer } = deps;
  return {
    createService: writes((request: Create) =>
      writer.createService({ ...created(request), registryAuth: request.registryAuth ?? "" }),
    ),
    updateService: writes((request: shoal.v1.UpdateServiceRequest.$Properties) => {
      const { id, ...rest } = updated(request);
      return writer.updateService(id, {
        ...rest,
        rollback: request.rollback ?? false,
        registryAuth: request.registryAuth ?? "",
        ...(request.registryAuthFrom === "previous-spec" ? { registryAuthFrom: "previous-spec" } : {}),
      });
    }),
    removeService: writes((request: Remove) => writer.removeService(request.id ?? "")),
    updateNode: writes((request: Update) => {
      const { id, version, spec } = updated(request);
      return writer.updateNode(id, version, spec);
    }),
    removeNode: writes((request: Remove) => writer.removeNode(request.id ?? "", request.force ?? false)),
    createNetwork: writes((request: Create) => writer.createNetwork(created(request))),
    removeNetwork: writes((request: Remove) => writer.removeNetwork(request.id ?? "")),
    createSecret: writes((request: Create) => writer.createBlob("secret", created(request))),
    updateSecret: writes((request: Update) => writer.updateBlob("secret", updated(request))),
    removeSecret: writes((request: Remove) => writer.removeBlob("secret", request.id ?? "")),
    createConfig: writes((request: Create) => writer.createBlob("config", created(request))),
    updateConfig: writes((request: Update) => writer.updateBlob("config", updated(request))),
    removeConfig: writes((request: Remove) => writer.removeBlob("config", request.id ?? "")),
    putImage: writes((request: shoal.v1.PutImageRequest.$Properties) =>
      writer.putImage({
        id: request.id ?? "",
        spec: parse(request.specJson),
        nodeId: request.nodeId ?? "",
      }),
    ),
    removeImage: writes((request: Remove) => writer.removeImage(request.id ?? "", request.force ?? false)),
    listNodeImages: {
      unary: (request) => {
        checkLeads(deps);
        const images = deps.nodeImages()?.of(request.nodeId ?? "");
        return { images: [...(images ?? [])], reported: images !== undefined };
      },
    },
    listImageNodes: {
      unary: (request) => {
        checkLeads(deps);
        return { nodeIds: [...(deps.nodeImages()?.someWith(request.reference ?? "") ?? [])] };
      },
    },
    updateCluster: writes((request: shoal.v1.UpdateClusterRequest.$Properties) =>
      writer.updateCluster({
        version: request.version ?? 0,
        spec: parse(request.specJson),
        rotateWorkerToken: request.rotateWorkerToken ?? false,
        rotateManagerToken: request.rotateManagerToken ?? false,
        rotateManagerUnlockKey: request.rotateManagerUnlockKey ?? false,
      }),
    ),
    joinRaft: { unary: (request, context) => joinRaft(deps, request, context) },
    leaveRaft: {
      unary: async (request, context) => {
        await leaveRaft(deps, request.force ?? false, context);
        return { id: "", warnings: [], version: 0 };
      },
    },
  };
}

/** Whether who asks to join is a manager the leader checks itself: others may not have heard of its promotion. */
export const CONTROL_AUDIENCE: { readonly [K in keyof typeof controlService]: Audience } = {
  ...(Object.fromEntries(Object.keys(controlService).map((name) => [name, "managers"])) as Record<
    keyof typeof controlService,
    Audience
  >),
  joinRaft: "raft",
};

function checkLeads(deps: ControlServiceDeps): void {
  if (deps.raft.isLeader) return;
  throw new ClusterError("unavailable", "This manager does not lead", {
    retryable: true,
    notLeader: { leaderAddress: deps.link.leaderAddress },
  });
}

/** Answers once the configuration with the learner is on its way; that it becomes a voter is waited for elsewhere. */
async function joinRaft(
  deps: ControlServiceDeps,
  request: shoal.v1.JoinRaftRequest.$Properties,
  context: CallContext,
): Promise<shoal.v1.JoinRaftResponse.$Properties> {
  checkLeads(deps);
  const { raft, log } = deps;
  const { nodeId } = must(context.peer, "managers have a certificate");
  const raftId = request.raftId ?? 0;
  const addr = request.addr ?? "";
  if (!Number.isSafeInteger(raftId) || raftId <= 0 || !/^.+:\d+$/.test(addr)) {
    throw new ClusterError(
      "invalid_argument",
      `Join needs a Raft id and "host:port", got ${raftId} and "${addr}"`,
    );
  }
  await checkJoiner(deps, { nodeId, raftId, addr });
  // A machine that lost its state comes back with a new id: what it promised under the old one is gone.
  const former = raft.members.find((member) => member.nodeId === nodeId && member.raftId !== raftId);
  if (former !== undefined) await raft.removeMember(former.raftId, { force: false });
  const listed = Promise.withResolvers<void>();
  const signal = AbortSignal.timeout(LEARNER_WAIT_MS);
  const added = raft.addMember({ raftId, nodeId, addr }, signal, listed.resolve);
  const outcome = added.then(
    () => log.info("manager is a voter", { nodeId, raftId }),
    (caught: unknown) => {
      log.warn("manager could not be made a voter", { nodeId, raftId, error: ClusterError.from(caught) });
      throw caught;
    },
  );
  // It catches up only after it has this answer, so wait for the learner and not for the voter.
  context.signal.addEventListener("abort", () => listed.resolve(), { once: true });
  await Promise.race([outcome, listed.promise]);
  outcome.catch(() => undefined);
  return { members: raft.members.map((member) => ({ ...member })) };
}

/**
 * A member that nobody reaches would never catch up and stay listed; one that was demoted while its certificate still is a
 * manager's would come back. Docker's managers dial a joiner too.
 */
async function checkJoiner(
  deps: ControlServiceDeps,
  joiner: { readonly nodeId: string; readonly raftId: number; readonly addr: string },
): Promise<void> {
  const { nodeId, raftId, addr } = joiner;
  const role = deps.view().get("node", nodeId)?.spec.Role;
  if (role !== "manager") {
    throw new ClusterError(
      "permission_denied",
      `Cannot add manager: the role of node "${nodeId}" must be manager, got "${role ?? "no such node"}"`,
    );
  }
  const known = deps.raft.members.find((member) => member.raftId === raftId);
  if (known?.nodeId === nodeId && known.addr === addr) return;
  await deps.reach(addr, nodeId).catch((caught: unknown) => {
    throw new ClusterError(
      "failed_precondition",
      `Cannot add manager: node "${nodeId}" must be reached at its advertise-addr "${addr}" from the leader, ` +
        `got: ${ClusterError.from(caught).message}`,
      { cause: caught, details: { addr, nodeId } },
    );
  });
  checkLeads(deps);
}

async function leaveRaft(deps: ControlServiceDeps, force: boolean, context: CallContext): Promise<void> {
  checkLeads(deps);
  const { nodeId } = must(context.peer, "managers have a certificate");
  const member = deps.raft.members.find((each) => each.nodeId === nodeId);
  if (member === undefined) return;
  if (member.raftId === deps.raft.raftId) {
    throw new ClusterError("failed_precondition", "A leader hands over before it leaves Raft");
  }
  await deps.raft.removeMember(member.raftId, { force });
}
