/** `shoal swarm …` and the short forms `shoal init` and `shoal join`: making a cluster, its tokens, settings and keys. */
import { readFileSync } from "node:fs";
import { open, rm } from "node:fs/promises";
import { createInterface } from "node:readline/promises";
import { pipeline } from "node:stream/promises";
import { ClusterError, hasNodeCode } from "../../common/errors.ts";
import type { ClusterSpec } from "../../model/specs.ts";
import type { ApiClient } from "../client/api-client.ts";
import { ApiError } from "../client/api-client.ts";
import type { ApiInfo, ApiNode, ApiSwarm } from "../client/types.ts";
import type { CommandContext, CommandDefinition, FlagDefinition, Flags } from "../command.ts";
import { bool, ExitError, list, text } from "../command.ts";
import type { Draft } from "../draft.ts";
import { choiceFlag, durationFlag, unsignedFlag } from "../flag-values.ts";
import { waitForRotation } from "../progress/wait-rotation.ts";

export { runProgram } from "../program.ts";

const DEFAULT_LISTEN = "0.0.0.0:2377";
const UPDATE_RETRIES = 5;

const SPEC_FLAGS: readonly FlagDefinition[] = [
  bool("autolock", "Keep the managers' keys locked with an unlock key"),
  text("cert-expiry", "duration", "How long node certificates are valid (default 2160h)"),
  text("dispatcher-heartbeat", "duration", "Heartbeat period of the nodes (default 5s)"),
  text("max-snapshots", "count", "Old snapshots to keep"),
  text("snapshot-interval", "count", "Log entries between snapshots"),
  text("task-history-limit", "count", "Old tasks to keep per slot (default 5)"),
];

const ADDRESS_FLAGS: readonly FlagDefinition[] = [
  text("advertise-addr", "address", "Address that the other nodes use (IP|INTERFACE[:PORT])"),
  text("availability", "active|pause|drain", "Whether this node takes tasks (default active)"),
  text("data-path-addr", "address", "Address for the traffic of containers"),
  text("listen-addr", "address", "Address to listen on (default 0.0.0.0:2377)"),
];

function applySpecFlags(spec: Draft<ClusterSpec>, flags: Flags): void {
  const expiry = durationFlag(flags, "cert-expiry");
  const heartbeat = durationFlag(flags, "dispatcher-heartbeat");
  const snapshots = unsignedFlag(flags, "max-snapshots");
  const interval = unsignedFlag(flags, "snapshot-interval");
  const history = unsignedFlag(flags, "task-history-limit");
  if (expiry !== undefined) spec.CAConfig = { ...spec.CAConfig, NodeCertExpiry: expiry };
  if (heartbeat !== undefined) spec.Dispatcher = { ...spec.Dispatcher, HeartbeatPeriod: heartbeat };
  if (snapshots !== undefined) spec.Raft = { ...spec.Raft, KeepOldSnapshots: snapshots };
  if (interval !== undefined) spec.Raft = { ...spec.Raft, SnapshotInterval: interval };
  if (history !== undefined)
    spec.Orchestration = { ...spec.Orchestration, TaskHistoryRetentionLimit: history };
  if (flags.has("autolock"))
    spec.EncryptionConfig = { ...spec.EncryptionConfig, AutoLockManagers: flags.bool("autolock") };
}

async function managerAddress(client: ApiClient): Promise<string> {
  const info = await client.get<ApiInfo>("/info");
  const node = await client.get<ApiNode>(`/nodes/${info.Swarm?.NodeID ?? ""}`);
  return node.ManagerStatus?.Addr ?? "";
}

function joinCommand(token: string, address: string): string {
  return `    shoal join --token ${token} ${address}\n`;
}

async function printUnlockKey(context: CommandContext): Promise<void> {
  const { UnlockKey: key } = await context.client.get<{ UnlockKey: string }>("/swarm/unlockkey");
  context.out.write(
    `To unlock a manager after it restarts, run 'shoal swarm unlock' and give this key:\n\n    ${key}\n\nKeep it in a safe place: without it a restarted manager cannot come back.\n`,
  );
}

async function runInit(context: CommandContext): Promise<void> {
  const { client, flags, out } = context;
  const file = flags.string("restore");
  if (file !== undefined) return runRestore(context, file);
  const spec: Draft<ClusterSpec> = { Name: "default", Labels: {} };
  applySpecFlags(spec, flags);
  const nodeId = await client.post<string>("/swarm/init", {
    body: {
      ListenAddr: flags.string("listen-addr") ?? DEFAULT_LISTEN,
      AdvertiseAddr: flags.string("advertise-addr") ?? "",
      DataPathAddr: flags.string("data-path-addr") ?? "",
      DataPathPort: unsignedFlag(flags, "data-path-port") ?? 0,
      DefaultAddrPool: flags.list("default-addr-pool"),
      SubnetSize: unsignedFlag(flags, "default-addr-pool-mask-length") ?? 0,
      ForceNewCluster: flags.bool("force-new-cluster"),
      AutoLockManagers: flags.bool("autolock"),
      Availability: choiceFlag(flags, "availability", ["active", "pause", "drain"]) ?? "active",
      Spec: spec,
    },
  });
  const swarm = await client.get<ApiSwarm>("/swarm");
  const address = await managerAddress(client);
  out.write(`Swarm initialized: current node (${nodeId}) is now a manager.\n\n`);
  out.write(`To add a worker, run on that machine:\n\n${joinCommand(swarm.JoinTokens.Worker, address)}\n`);
  out.write("To add a manager, run 'shoal swarm join-token manager' and follow what it says.\n");
  if (flags.bool("autolock")) await printUnlockKey(context);
}

function fileError(what: string, file: string, caught: unknown): ClusterError {
  const reason = hasNodeCode(caught, "EEXIST")
    ? "it exists, and no file is overwritten"
    : ClusterError.from(caught).message;
  return new ClusterError("invalid_argument", `Cannot ${what} "${file}": ${reason}`, { cause: caught });
}

function readBackup(file: string): Buffer {
  try {
    return readFileSync(file);
  } catch (caught) {
    throw fileError("read the backup", file, caught);
  }
}

/** What a backup brings along, and what is of a new cluster or of a node that joins one. */
const NOT_WITH_RESTORE = [
  ...SPEC_FLAGS.map(({ name }) => name),
  "availability",
  "data-path-port",
  "default-addr-pool",
  "default-addr-pool-mask-length",
  "force-new-cluster",
];

async function runRestore(context: CommandContext, file: string): Promise<void> {
  const { client, flags, out } = context;
  const unused = NOT_WITH_RESTORE.filter((name) => flags.has(name)).map((name) => `--${name}`);
  if (unused.length > 0) {
    throw new ClusterError(
      "invalid_argument",
      `Cannot restore with ${unused.join(", ")}: the backup brings the cluster's settings; change them afterwards`,
    );
  }
  const nodeId = await client.post<string>("/shoal/v1/swarm/restore", {
    query: {
      listenAddr: flags.string("listen-addr") ?? DEFAULT_LISTEN,
      advertiseAddr: flags.string("advertise-addr") ?? "",
      dataPathAddr: flags.string("data-path-addr") ?? "",
    },
    raw: { contentType: "application/octet-stream", content: readBackup(file) },
  });
  out.write(`Swarm restored: current node (${nodeId}) is its only manager.\n`);
  out.write(
    "Its former nodes are known as lost: remove them, and join machines with new tokens or the old ones.\n",
  );
}

async function runBackup(context: CommandContext): Promise<void> {
  const { client, args, out } = context;
  const [file = ""] = args;
  // Whoever has the file has the cluster's keys and secrets: nobody else may read it, and no other file is overwritten.
  const handle = await open(file, "wx", 0o600).catch((caught: unknown) => {
    throw fileError("write the backup to", file, caught);
  });
  try {
    const response = await client.call("GET", "/shoal/v1/swarm/backup");
    // What is said to be backed up must outlive a loss of power.
    await pipeline(response, handle.createWriteStream({ flush: true }));
  } catch (caught) {
    await handle.close();
    await rm(file, { force: true });
    throw caught;
  }
  out.write(`Cluster backed up to ${file}. It holds all keys and secrets: keep it safe.\n`);
}

async function runJoin(context: CommandContext): Promise<void> {
  const { client, flags, out } = context;
  const token = flags.string("token");
  if (token === undefined || token === "")
    throw new ClusterError(
      "invalid_argument",
      "--token is required; 'shoal swarm join-token worker' on a manager prints it",
    );
  await client.post("/swarm/join", {
    body: {
      ListenAddr: flags.string("listen-addr") ?? DEFAULT_LISTEN,
      AdvertiseAddr: flags.string("advertise-addr") ?? "",
      DataPathAddr: flags.string("data-path-addr") ?? "",
      RemoteAddrs: context.args,
      JoinToken: token,
      Availability: choiceFlag(flags, "availability", ["active", "pause", "drain"]) ?? "active",
    },
  });
  const info = await client.get<ApiInfo>("/info");
  out.write(
    `This node joined a swarm as a ${info.Swarm?.ControlAvailable === true ? "manager" : "worker"}.\n`,
  );
}

interface Rotation {
  readonly rotateWorkerToken?: boolean;
  readonly rotateManagerToken?: boolean;
  readonly rotateManagerUnlockKey?: boolean;
}

/** Reads the cluster's spec, changes it and writes it back; again on a stale version. */
async function updateSwarm(
  client: ApiClient,
  change: (spec: Draft<ClusterSpec>) => void,
  rotation: Rotation = {},
): Promise<void> {
  for (let attempt = 1; ; attempt += 1) {
    const swarm = await client.get<ApiSwarm>("/swarm");
    const spec = structuredClone(swarm.Spec) as Draft<ClusterSpec>;
    change(spec);
    try {
      await client.post("/swarm/update", {
        query: {
          version: swarm.Version.Index,
          rotateWorkerToken: String(rotation.rotateWorkerToken === true),
          rotateManagerToken: String(rotation.rotateManagerToken === true),
          rotateManagerUnlockKey: String(rotation.rotateManagerUnlockKey === true),
        },
        body: spec,
      });
      return;
    } catch (caught) {
      const isStale = caught instanceof ApiError && caught.isStale;
      if (!isStale || attempt >= UPDATE_RETRIES) throw caught;
    }
  }
}

async function runJoinToken(context: CommandContext): Promise<void> {
  const { client, flags, out } = context;
  const role = context.args[0] ?? "";
  if (role !== "worker" && role !== "manager") {
    throw new ClusterError("invalid_argument", `Unknown role "${role}": expected worker or manager`);
  }
  if (flags.bool("rotate")) {
    await updateSwarm(
      client,
      () => {},
      role === "worker" ? { rotateWorkerToken: true } : { rotateManagerToken: true },
    );
    if (!flags.bool("quiet")) out.write(`Successfully rotated ${role} join token.\n\n`);
  }
  const swarm = await client.get<ApiSwarm>("/swarm");
  const token = role === "worker" ? swarm.JoinTokens.Worker : swarm.JoinTokens.Manager;
  if (flags.bool("quiet")) {
    out.write(`${token}\n`);
    return;
  }
  out.write(
    `To add a ${role} to this swarm, run on that machine:\n\n${joinCommand(token, await managerAddress(client))}\n`,
  );
}

async function runUpdate(context: CommandContext): Promise<void> {
  const names = SPEC_FLAGS.map((flag) => flag.name);
  if (!context.flags.hasAny(...names))
    throw new ClusterError(
      "invalid_argument",
      `Nothing to change: give one of ${names.map((name) => `--${name}`).join(", ")}`,
    );
  await updateSwarm(context.client, (spec) => applySpecFlags(spec, context.flags));
  context.out.write("Swarm updated.\n");
  if (context.flags.bool("autolock")) await printUnlockKey(context);
}

async function runUnlock(context: CommandContext): Promise<void> {
  const info = await context.client.get<ApiInfo>("/info");
  const state = info.Swarm?.LocalNodeState ?? "inactive";
  if (state !== "locked") {
    throw new ExitError(
      1,
      state === "inactive" ? "This node is not part of a swarm\n" : "The swarm is not locked\n",
    );
  }
  const reader = createInterface({ input: process.stdin, output: process.stdout });
  try {
    const key = (await reader.question("Enter unlock key: ")).trim();
    await context.client.post("/swarm/unlock", { body: { UnlockKey: key } });
  } finally {
    reader.close();
  }
}

async function runUnlockKey(context: CommandContext): Promise<void> {
  const { client, flags, out } = context;
  if (flags.bool("rotate")) {
    const swarm = await client.get<ApiSwarm>("/swarm");
    if (swarm.Spec.EncryptionConfig?.AutoLockManagers !== true)
      throw new ClusterError("failed_precondition", "Cannot rotate the unlock key: autolock is off");
    await updateSwarm(client, () => {}, { rotateManagerUnlockKey: true });
    if (!flags.bool("quiet")) out.write("Successfully rotated manager unlock key.\n\n");
  }
  const { UnlockKey: key } = await client.get<{ UnlockKey: string }>("/swarm/unlockkey");
  if (key === "") throw new ClusterError("failed_precondition", "no unlock key is set");
  if (flags.bool("quiet")) out.write(`${key}\n`);
  else await printUnlockKey(context);
}

async function runCa(context: CommandContext): Promise<void> {
  const { client, err, flags, out, signal } = context;
  const isQuiet = flags.bool("quiet");
  if (flags.bool("rotate")) {
    const certificate = flags.string("ca-cert");
    const key = flags.string("ca-key");
    const expiry = durationFlag(flags, "cert-expiry");
    await updateSwarm(client, (spec) => {
      spec.CAConfig = {
        ...spec.CAConfig,
        ForceRotate: (spec.CAConfig?.ForceRotate ?? 0) + 1,
        ...(certificate === undefined ? {} : { SigningCACert: readFileSync(certificate, "utf8") }),
        ...(key === undefined ? {} : { SigningCAKey: readFileSync(key, "utf8") }),
        ...(expiry === undefined ? {} : { NodeCertExpiry: expiry }),
      };
    });
    if (flags.bool("detach")) return;
    await waitForRotation({ client, out: isQuiet ? undefined : err, signal });
  }
  const swarm = await client.get<ApiSwarm>("/swarm");
  if (!isQuiet) out.write(`${(swarm.TLSInfo?.TrustRoot ?? "").trimEnd()}\n`);
}

const INIT: CommandDefinition = {
  name: "init",
  usage: "[OPTIONS]",
  summary: "Make this machine the first manager of a new cluster",
  argsMin: 0,
  argsMax: 0,
  flags: [
    ...SPEC_FLAGS,
    ...ADDRESS_FLAGS,
    text("data-path-port", "port", "UDP port of the overlay networks (default 4789)"),
    list("default-addr-pool", "subnet", "Address pool of new networks (default 10.0.0.0/8)"),
    text("default-addr-pool-mask-length", "bits", "Mask length of each network (default 24)"),
    bool("force-new-cluster", "Make a new cluster from this manager's state"),
    text("restore", "file", "Start from a backup made by 'shoal swarm backup'"),
  ],
  run: runInit,
};

const JOIN: CommandDefinition = {
  name: "join",
  usage: "[OPTIONS] HOST:PORT",
  summary: "Join this machine to a cluster",
  argsMin: 1,
  argsMax: 1,
  flags: [...ADDRESS_FLAGS, text("token", "token", "Join token")],
  run: runJoin,
};

const swarm: CommandDefinition = {
  name: "swarm",
  usage: "COMMAND",
  summary: "Tokens, settings, unlocking and certificates of the cluster",
  argsMin: 0,
  flags: [],
  commands: [
    INIT,
    JOIN,
    {
      name: "backup",
      usage: "FILE",
      summary: "Save the cluster's state, keys and secrets to a file",
      argsMin: 1,
      argsMax: 1,
      flags: [],
      run: runBackup,
    },
    {
      name: "leave",
      usage: "[OPTIONS]",
      summary: "Leave the cluster",
      argsMin: 0,
      argsMax: 0,
      flags: [bool("force", "Leave even as a manager, whatever that does to the quorum", "f")],
      run: async (context) => {
        await context.client.post("/swarm/leave", { query: { force: context.flags.bool("force") } });
        context.out.write("Node left the swarm.\n");
      },
    },
    {
      name: "join-token",
      usage: "[OPTIONS] (worker|manager)",
      summary: "Show or rotate the tokens for joining",
      argsMin: 1,
      argsMax: 1,
      flags: [bool("quiet", "Print only the token", "q"), bool("rotate", "Make a new token")],
      run: runJoinToken,
    },
    {
      name: "update",
      usage: "[OPTIONS]",
      summary: "Change the cluster's settings",
      argsMin: 0,
      argsMax: 0,
      flags: SPEC_FLAGS,
      run: runUpdate,
    },
    {
      name: "unlock",
      usage: "",
      summary: "Unlock a locked manager",
      argsMin: 0,
      argsMax: 0,
      flags: [],
      run: runUnlock,
    },
    {
      name: "unlock-key",
      usage: "[OPTIONS]",
      summary: "Show or rotate the unlock key",
      argsMin: 0,
      argsMax: 0,
      flags: [bool("quiet", "Print only the key", "q"), bool("rotate", "Make a new key")],
      run: runUnlockKey,
    },
    {
      name: "ca",
      usage: "[OPTIONS]",
      summary: "Show or rotate the root certificate",
      argsMin: 0,
      argsMax: 0,
      flags: [
        bool("rotate", "Make a new root and new certificates"),
        text("ca-cert", "file", "Certificate of the new root"),
        text("ca-key", "file", "Key of the new root"),
        text("cert-expiry", "duration", "How long node certificates are valid"),
        bool("detach", "Return at once", "d"),
        bool("quiet", "Print nothing", "q"),
      ],
      run: runCa,
    },
  ],
};

export const definitions: readonly CommandDefinition[] = [swarm, INIT, JOIN];
