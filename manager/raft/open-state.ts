/**
 * Start of a member: brings checkpoint and write-ahead log together into what the core starts from, makes both for a
 * new member, and rebuilds a damaged log so that the member can refetch what it lost. Called once by node.ts.
 *
 * Layout of the folder: `CURRENT` names the log's folder; `wal-<n>/` the log; `state/` the checkpoints (if the caller
 * keeps them there); `PEERS` the members as last known, to answer to for a member that lost its configuration with all
 * else. `CURRENT` also says whether acknowledged entries were lost and not yet given back, and under which number the
 * member is known.
 */
import type { Disk, Random } from "../../common/env.ts";
import { assert } from "../../common/assert.ts";
import { ClusterError } from "../../common/errors.ts";
import type { Logger } from "../../common/log.ts";
import type { CheckpointStore, LoadedCheckpoint, StateEntry } from "./checkpoint-store.ts";
import { encodeConfiguration, isMember, sortedMembers } from "./core/configs.ts";
import type { Configuration, Entry, HardState, SnapshotMeta } from "./core/messages.ts";
import { EntryKind } from "./core/messages.ts";
import type { RestoredState } from "./core/options.ts";
import type { EntryEncoder } from "./entry-codec.ts";
import { isNewerFormat, parseVersioned } from "./format-version.ts";
import type { Member } from "./replicated-log.ts";
import { rebuildWal, Wal, type WalOptions } from "./wal.ts";
import type { WalIdentity } from "./wal-format.ts";
import type { RecoveredWal } from "./wal-recovery.ts";

/** How a member begins. `restart` fails if the folder is empty; the others continue if it is not. */
export type StartMode =
  | { readonly kind: "bootstrap"; readonly members: readonly Member[] }
  | { readonly kind: "join"; readonly peers: readonly Member[] }
  | { readonly kind: "restart" }
  /** A new member's first state comes from a backup: as if a snapshot of `index` had been installed. */
  | {
      readonly kind: "restore";
      readonly members: readonly Member[];
      readonly index: number;
      readonly term: number;
      readonly state: readonly StateEntry[];
    }
  /**
   * Disaster: what this member has becomes the cluster, with it as the only member. Writes of others may be lost. It is
   * another member from then on, with the number of OpenOptions.identity: should the others come back they have a
   * majority of the old cluster, lead it, and what they send must not reach this one.
   */
  | { readonly kind: "forceNewCluster"; readonly addr: string; readonly formerRaftId: number };

export interface OpenOptions {
  readonly disk: Disk;
  readonly random: Pick<Random, "bytes">;
  readonly log: Logger;
  readonly folder: string;
  readonly identity: WalIdentity;
  readonly encryptionKey: Uint8Array | undefined;
  readonly segmentBytes: number;
  readonly checkpoints: CheckpointStore;
  readonly encoder: EntryEncoder;
  readonly mode: StartMode;
}

export interface OpenedState {
  readonly wal: Wal;
  readonly restored: RestoredState;
  readonly checkpointIndex: number;
  readonly state: readonly StateEntry[];
  /** Whom to answer to until there is a configuration again; empty where there is one. */
  readonly peers: readonly Member[];
}

interface Current {
  readonly walNumber: number;
  readonly isRecovering: boolean;
  /** Whose log it is; the first programs named none. */
  readonly raftId: number | undefined;
}

/** Of the folder's layout and of `CURRENT`; the first programs named none. */
const FORMAT_VERSION = 1;
const EMPTY_META: SnapshotMeta = { index: 0, term: 0, config: [], configIndex: 0 };

async function readCurrent(options: Pick<OpenOptions, "disk" | "folder">): Promise<Current | undefined> {
  const path = `${options.folder}/CURRENT`;
  if (!(await options.disk.exists(path))) return undefined;
  const what = `the raft state in "${options.folder}"`;
  const parsed = parseVersioned(await options.disk.readFile(path), { what, known: FORMAT_VERSION });
  if (
    typeof parsed !== "object" ||
    parsed === null ||
    !("walNumber" in parsed) ||
    typeof parsed.walNumber !== "number" ||
    !("isRecovering" in parsed) ||
    typeof parsed.isRecovering !== "boolean" ||
    ("raftId" in parsed && typeof parsed.raftId !== "number")
  ) {
    throw new ClusterError("failed_precondition", `Cannot open the raft state: "${path}" is damaged`);
  }
  const raftId = "raftId" in parsed && typeof parsed.raftId === "number" ? parsed.raftId : undefined;
  return { walNumber: parsed.walNumber, isRecovering: parsed.isRecovering, raftId };
}

/**
 * The number that a member is known by, which is another one since a new cluster was forced of it; undefined if none is
 * noted.
 */
export async function storedRaftId(
  options: Pick<OpenOptions, "disk" | "folder">,
): Promise<number | undefined> {
  return (await readCurrent(options))?.raftId;
}

function writeCurrent(options: Pick<OpenOptions, "disk" | "folder">, current: Current): Promise<void> {
  const text = JSON.stringify({ version: FORMAT_VERSION, ...current });
  return options.disk.writeFileAtomic(`${options.folder}/CURRENT`, Buffer.from(text));
}

function walFolder(options: Pick<OpenOptions, "folder">, walNumber: number): string {
  return `${options.folder}/wal-${walNumber}`;
}

function walOptions(options: Omit<OpenOptions, "mode">, walNumber: number): WalOptions {
  const { disk, random, identity, encryptionKey, segmentBytes } = options;
  return { disk, random, folder: walFolder(options, walNumber), identity, encryptionKey, segmentBytes };
}

/** The lost entries were given back: votes count again. */
export async function markRecovered(options: Pick<OpenOptions, "disk" | "folder" | "log">): Promise<void> {
  const current = await readCurrent(options);
  assert(current !== undefined, "a member that runs has its state");
  await writeCurrent(options, { ...current, isRecovering: false });
  options.log.info("raft log complete again, voting from now on");
}

/** Notes the members' addresses. Worth nothing but a way to reach them: what counts is the configuration. */
export function savePeers(
  options: Pick<OpenOptions, "disk" | "folder">,
  members: readonly Member[],
): Promise<void> {
  return options.disk.writeFileAtomic(`${options.folder}/PEERS`, Buffer.from(JSON.stringify(members)));
}

async function loadPeers(options: OpenOptions): Promise<readonly Member[]> {
  const path = `${options.folder}/PEERS`;
  if (!(await options.disk.exists(path))) return [];
  try {
    const parsed: unknown = JSON.parse(Buffer.from(await options.disk.readFile(path)).toString());
    return Array.isArray(parsed) ? parsed.filter(isMember) : [];
  } catch (caught) {
    options.log.warn("noted addresses of managers can't be read", { path, error: caught });
    return [];
  }
}

/** What a process that was killed in the middle of writeFileAtomic() left in a folder of ours. */
export async function removeTornWrites(disk: Disk, folder: string): Promise<void> {
  for (const name of await disk.list(folder)) {
    if (name.endsWith(".tmp")) await disk.remove(`${folder}/${name}`);
  }
}

export async function openState(options: OpenOptions): Promise<OpenedState> {
  await options.disk.makeFolder(options.folder);
  await removeTornWrites(options.disk, options.folder);
  const current = await readCurrent(options);
  if (current === undefined) return createState(options);
  return resumeState(options, current);
}

async function createState(options: OpenOptions): Promise<OpenedState> {
  const { mode } = options;
  if (mode.kind === "restart" || mode.kind === "forceNewCluster") {
    throw new ClusterError("failed_precondition", `Cannot restart raft: "${options.folder}" holds no state`);
  }
  const config = mode.kind === "join" ? [] : sortedMembers(mode.members);
  const from = mode.kind === "restore" ? mode : { index: 0, term: 0, state: [] };
  const { index, term, state } = from;
  const meta = { ...EMPTY_META, index, term, config, configIndex: index };
  // A first configuration that is in no entry must not get lost; CURRENT comes last and makes it all count.
  await options.checkpoints.replace(meta, state);
  // A first start that was cut off before CURRENT may have left one, even of another member.
  await options.disk.removeTree(walFolder(options, 1));
  if (mode.kind === "join") await savePeers(options, mode.peers);
  const { wal } = await Wal.open(walOptions(options, 1), options.encoder);
  const hardState = { term, vote: 0, commit: index };
  await wal.append({ hardState, base: { index, term }, entries: [] });
  await options.disk.syncFolder(options.folder);
  await writeCurrent(options, { walNumber: 1, isRecovering: false, raftId: options.identity.raftId });
  const restored = { hardState, base: meta, entries: [], applied: index, isRecovering: false };
  return { wal, restored, checkpointIndex: index, state, peers: [] };
}

async function resumeState(options: OpenOptions, current: Current): Promise<OpenedState> {
  // A rebuilding that was cut off leaves the log that it made, or the one that it replaced.
  for (const walNumber of [current.walNumber - 1, current.walNumber + 1])
    await options.disk.removeTree(walFolder(options, walNumber));
  const { identity, mode } = options;
  const raftId = mode.kind === "forceNewCluster" ? mode.formerRaftId : identity.raftId;
  const own = { ...options, identity: { ...identity, raftId } };
  // The log first: if the key is the wrong one it says so, and what is wrong with the checkpoint then is damage.
  const { wal, recovered } = await Wal.open(walOptions(own, current.walNumber), options.encoder);
  const { checkpoint, damage } = await loadCheckpoint(options).catch(async (caught: unknown) => {
    await wal.close();
    throw caught;
  });
  if (recovered.isTailCut) options.log.warn("raft log had an unfinished write at its end, dropped");
  const fitted = fitLog(recovered, checkpoint?.meta ?? EMPTY_META);
  // From before CURRENT names a log there is a record in it.
  const loss = recovered.segments.length === 0 ? "the log is missing" : undefined;
  const problem = recovered.corruption ?? damage ?? loss ?? fitted.gap;
  const meta = checkpoint?.meta ?? EMPTY_META;
  const base = { ...meta, index: fitted.base.index, term: fitted.base.term };
  const isRecovering = current.isRecovering || problem !== undefined;
  // The newest commit index may speak of entries that were lost, while those that they replaced are good and in their place.
  const commit = isRecovering ? meta.index : recovered.hardState.commit;
  const restored: RestoredState = {
    hardState: { ...recovered.hardState, commit },
    base,
    entries: fitted.entries,
    applied: meta.index,
    isRecovering,
  };
  const peers = meta.config.length === 0 ? await loadPeers(options) : [];
  const opened = { wal, restored, checkpointIndex: meta.index, state: checkpoint?.entries ?? [], peers };
  if (mode.kind === "forceNewCluster") {
    if ((checkpoint?.entries.length ?? 0) === 0 && fitted.entries.length === 0) {
      await wal.close();
      throw nothingLeft(options.folder, problem);
    }
    return forceNewCluster(options, { current, opened, addr: mode.addr });
  }
  if (problem !== undefined) {
    options.log.error("raft log damaged, not voting until its content is fetched again", { problem });
    return rebuild(options, current, { opened, isRecovering: true });
  }
  if (fitted.isReset)
    await wal.append({ hardState: undefined, base: { index: meta.index, term: meta.term }, entries: [] });
  return opened;
}

/** A cluster forced of what this member has would be an empty one: worse than none. */
function nothingLeft(folder: string, problem: string | undefined): ClusterError {
  return new ClusterError(
    "failed_precondition",
    `Cannot force a new cluster: "${folder}" must hold the cluster's state, ` +
      `got nothing of use (${problem ?? "nothing has arrived here yet"}): try another manager, or restore a backup`,
  );
}

async function loadCheckpoint(
  options: OpenOptions,
): Promise<{ readonly checkpoint: LoadedCheckpoint | undefined; readonly damage: string | undefined }> {
  try {
    const checkpoint = await options.checkpoints.load();
    return { checkpoint, damage: checkpoint === undefined ? "the state is missing" : undefined };
  } catch (caught) {
    if (isNewerFormat(caught)) throw caught;
    return { checkpoint: undefined, damage: ClusterError.from(caught).message };
  }
}

interface FittedLog {
  readonly base: { readonly index: number; readonly term: number };
  readonly entries: readonly Entry[];
  /** The log on disk has nothing to do with the checkpoint: what it holds is superseded. */
  readonly isReset: boolean;
  readonly gap: string | undefined;
}

/** The part of the log that belongs to the checkpoint: entries behind it, and the tail before it that is still there. */
function fitLog(recovered: Pick<RecoveredWal, "base" | "entries">, meta: SnapshotMeta): FittedLog {
  const { entries } = recovered;
  const first = entries[0];
  const superseded = { base: meta, entries: [], isReset: true, gap: undefined };
  if (first === undefined) {
    // A snapshot is in the checkpoint before the log says that it begins there: this checkpoint is one from before it.
    const isOlder = recovered.base !== undefined && recovered.base.index > meta.index;
    const gap = isOlder ? `the state of ${recovered.base.index} is missing` : undefined;
    return { ...superseded, isReset: recovered.base?.index !== meta.index, gap };
  }
  const last = first.index + entries.length - 1;
  if (first.index > meta.index + 1) {
    const gap = `entries ${meta.index + 1} to ${first.index - 1} are missing`;
    return { base: meta, entries: [], isReset: false, gap };
  }
  if (first.index === meta.index + 1) return { base: meta, entries, isReset: false, gap: undefined };
  // A crash between installing a snapshot and noting it in the log.
  if (last < meta.index || entries[meta.index - first.index]?.term !== meta.term) return superseded;
  const base = recovered.base;
  if (base !== undefined && base.index === first.index - 1)
    return { base, entries, isReset: false, gap: undefined };
  // The entry before the first is gone, and its term with it: the first one serves as the base.
  return {
    base: { index: first.index, term: first.term },
    entries: entries.slice(1),
    isReset: false,
    gap: undefined,
  };
}

/** Writes what is known into a new log and switches to it. */
async function rebuild(
  options: OpenOptions,
  current: Current,
  content: { readonly opened: OpenedState; readonly isRecovering: boolean },
): Promise<OpenedState> {
  const { restored } = content.opened;
  await content.opened.wal.close();
  const walNumber = current.walNumber + 1;
  // Before anything is dropped: a crash in between must not forget that something was lost.
  await writeCurrent(options, { ...current, isRecovering: current.isRecovering || content.isRecovering });
  await options.disk.removeTree(walFolder(options, walNumber));
  const commit = Math.min(restored.hardState.commit, restored.base.index + restored.entries.length);
  const hardState: HardState = { ...restored.hardState, commit };
  const wal = await rebuildWal(walOptions(options, walNumber), {
    hardState,
    base: { index: restored.base.index, term: restored.base.term },
    entries: restored.entries,
  });
  await options.disk.syncFolder(options.folder);
  const { raftId } = options.identity;
  await writeCurrent(options, { walNumber, isRecovering: content.isRecovering, raftId });
  await options.disk.removeTree(walFolder(options, current.walNumber));
  return { ...content.opened, wal, restored: { ...restored, hardState, isRecovering: content.isRecovering } };
}

function forceNewCluster(
  options: OpenOptions,
  from: { readonly current: Current; readonly opened: OpenedState; readonly addr: string },
): Promise<OpenedState> {
  const { restored } = from.opened;
  const { raftId, nodeId } = options.identity;
  const last = restored.base.index + restored.entries.length;
  // Of a damaged log the entries, or the checkpoint alone, may be of a later term than the newest vote that was found.
  const lastTerm = restored.entries.at(-1)?.term ?? restored.base.term;
  const term = Math.max(restored.hardState.term, lastTerm) + 1;
  const config: Configuration = [{ raftId, nodeId, addr: from.addr, isLearner: false }];
  const entry: Entry = {
    index: last + 1,
    term,
    kind: EntryKind.config,
    payload: encodeConfiguration(config),
  };
  options.log.warn("forcing a new cluster of this member alone", { lastIndex: last, term });
  const forced: RestoredState = {
    ...restored,
    hardState: { term, vote: raftId, commit: last + 1 },
    entries: [...restored.entries, entry],
  };
  return rebuild(options, from.current, {
    opened: { ...from.opened, restored: forced },
    isRecovering: false,
  });
}
