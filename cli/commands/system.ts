/** `shoal system …`, `info`, `version`, `events` and `inspect`: this machine, its cluster, and any object by its name. */
import { binarySize, formatDuration, humanSize } from "../../model/units.ts";
import { ConnectError } from "../client/api-client.ts";
import type { ApiInfo } from "../client/types.ts";
import type { CommandContext, CommandDefinition } from "../command.ts";
import { bool, ExitError, FILTER_FLAG, INSPECT_FORMAT_FLAG, list, text } from "../command.ts";
import { parseFilters } from "../flag-values.ts";
import { alignColumns, formatInspect, labelText } from "../output/table.ts";
import { compileTemplate } from "../../common/go-template.ts";
import { VERSION } from "../version.ts";
import { sinceText } from "./service-logs.ts";
import { confirm } from "./verbs.ts";

export { runProgram } from "../program.ts";

interface ApiVersion {
  readonly Version?: string;
  readonly ApiVersion?: string;
  readonly MinAPIVersion?: string;
  readonly GitCommit?: string;
  readonly Os?: string;
  readonly Arch?: string;
  readonly KernelVersion?: string;
  readonly BuildTime?: string;
}

function writeFormatted(context: CommandContext, value: unknown, plain: () => string): void {
  const format = context.flags.string("format");
  if (format === undefined || format === "") context.out.write(plain());
  else if (format === "json") context.out.write(`${JSON.stringify(value)}\n`);
  else context.out.write(`${compileTemplate(format)(value)}\n`);
}

async function runVersion(context: CommandContext): Promise<void> {
  const client = {
    Version: VERSION,
    ApiVersion: "1.50",
    Os: process.platform,
    Arch: process.arch,
    NodeVersion: process.versions.node,
  };
  let server: ApiVersion | undefined;
  let problem: ConnectError | undefined;
  try {
    server = await context.client.get<ApiVersion>("/version");
  } catch (caught) {
    if (!(caught instanceof ConnectError)) throw caught;
    problem = caught;
  }
  const rows = (label: string, values: readonly (readonly [string, string | undefined])[]): string =>
    [`${label}:`, ...values.map(([name, value]) => ` ${`${name}:`.padEnd(18)}${value ?? ""}`)].join("\n");
  writeFormatted(context, { Client: client, Server: server ?? null }, () => {
    const own = rows("Client", [
      ["Version", client.Version],
      ["API version", client.ApiVersion],
      ["OS/Arch", `${client.Os}/${client.Arch}`],
    ]);
    if (server === undefined) return `${own}\n`;
    const theirs = rows("Server", [
      ["Version", server.Version],
      ["API version", `${server.ApiVersion ?? ""} (minimum version ${server.MinAPIVersion ?? ""})`],
      ["OS/Arch", `${server.Os ?? ""}/${server.Arch ?? ""}`],
      ["Kernel", server.KernelVersion],
    ]);
    return `${own}\n\n${theirs}\n`;
  });
  if (problem !== undefined) throw problem;
}

function swarmLines(info: ApiInfo): string[] {
  const swarm = info.Swarm;
  const lines = [` Swarm: ${swarm?.LocalNodeState ?? "inactive"}`];
  if (swarm?.LocalNodeState === undefined || swarm.LocalNodeState === "inactive") return lines;
  if ((swarm.Error ?? "") !== "") lines.push(`  Error: ${swarm.Error}`);
  lines.push(`  NodeID: ${swarm.NodeID ?? ""}`, `  Is Manager: ${swarm.ControlAvailable === true}`);
  const cluster = swarm.Cluster;
  if (swarm.ControlAvailable === true && cluster !== undefined && cluster !== null) {
    const spec = cluster.Spec;
    lines.push(
      `  ClusterID: ${cluster.ID}`,
      `  Managers: ${swarm.Managers ?? 0}`,
      `  Nodes: ${swarm.Nodes ?? 0}`,
      `  Default Address Pool: ${(cluster.DefaultAddrPool ?? []).join(", ")}`,
      `  SubnetSize: ${cluster.SubnetSize ?? 0}`,
      `  Data Path Port: ${cluster.DataPathPort ?? 0}`,
      `  Task History Retention Limit: ${spec.Orchestration?.TaskHistoryRetentionLimit ?? 0}`,
      `  Heartbeat Period: ${formatDuration(spec.Dispatcher?.HeartbeatPeriod ?? 0)}`,
      `  Certificate Expiry: ${formatDuration(spec.CAConfig?.NodeCertExpiry ?? 0)}`,
      `  Autolock Managers: ${spec.EncryptionConfig?.AutoLockManagers === true}`,
      `  Root Rotation In Progress: ${cluster.RootRotationInProgress === true}`,
    );
  }
  lines.push(`  Node Address: ${swarm.NodeAddr ?? ""}`);
  const managers = (swarm.RemoteManagers ?? []).map((each) => `   ${each.Addr}`).sort();
  return managers.length === 0 ? lines : [...lines, "  Manager Addresses:", ...managers];
}

function prettyInfo(info: ApiInfo): string {
  const lines = [
    "Client:",
    ` Version: ${VERSION}`,
    "",
    "Server:",
    ` Containers: ${info.Containers ?? 0}`,
    `  Running: ${info.ContainersRunning ?? 0}`,
    `  Paused: ${info.ContainersPaused ?? 0}`,
    `  Stopped: ${info.ContainersStopped ?? 0}`,
    ` Images: ${info.Images ?? 0}`,
    ` Server Version: ${info.ServerVersion ?? ""}`,
    ` Storage Driver: ${info.Driver ?? ""}`,
    ` Logging Driver: ${info.LoggingDriver ?? ""}`,
    ` Cgroup Driver: ${info.CgroupDriver ?? ""}`,
    ` Cgroup Version: ${info.CgroupVersion ?? ""}`,
    ...swarmLines(info),
    ` Kernel Version: ${info.KernelVersion ?? ""}`,
    ` Operating System: ${info.OperatingSystem ?? ""}`,
    ` OSType: ${info.OSType ?? ""}`,
    ` Architecture: ${info.Architecture ?? ""}`,
    ` CPUs: ${info.NCPU ?? 0}`,
    ` Total Memory: ${binarySize(info.MemTotal ?? 0)}`,
    ` Name: ${info.Name ?? ""}`,
    ` ID: ${info.ID ?? ""}`,
    ` Root Dir: ${info.DockerRootDir ?? ""}`,
    ...((info.Labels ?? []).length === 0
      ? []
      : [" Labels:", ...(info.Labels ?? []).map((label) => `  ${label}`)]),
  ];
  return `${lines.join("\n")}\n`;
}

async function runInfo(context: CommandContext): Promise<void> {
  const info = await context.client.get<ApiInfo>("/info");
  writeFormatted(context, info, () => prettyInfo(info));
  for (const warning of info.Warnings ?? []) context.err.write(`${warning}\n`);
}

interface ApiEvent {
  readonly Type: string;
  readonly Action: string;
  readonly Actor: { readonly ID: string; readonly Attributes?: Readonly<Record<string, string>> };
  readonly timeNano: number;
}

async function runEvents(context: CommandContext): Promise<void> {
  const { client, flags, out, signal } = context;
  const events = client.jsonLines<ApiEvent>("GET", "/events", {
    query: {
      since: sinceText(flags.string("since"), Date.now()),
      until: sinceText(flags.string("until"), Date.now()),
    },
    filters: parseFilters(flags.list("filter")),
    signal,
  });
  for await (const event of events) {
    writeFormatted({ ...context, out }, event, () => {
      const attributes = labelText(event.Actor.Attributes).replaceAll(",", ", ");
      const time = new Date(event.timeNano / 1e6).toISOString();
      return `${time} ${event.Type} ${event.Action} ${event.Actor.ID}${attributes === "" ? "" : ` (${attributes})`}\n`;
    });
  }
}

interface DiskUsage {
  readonly Images?: readonly { readonly Size: number; readonly Containers?: number }[] | null;
  readonly Containers?: readonly { readonly SizeRw?: number; readonly State?: string }[] | null;
  readonly Volumes?:
    | readonly { readonly UsageData?: { readonly Size: number; readonly RefCount: number } | null }[]
    | null;
  readonly BuildCache?: readonly { readonly Size: number; readonly InUse?: boolean }[] | null;
  readonly LayersSize?: number;
}

function sum(values: readonly number[]): number {
  return values.reduce((total, value) => total + Math.max(0, value), 0);
}

async function runDf(context: CommandContext): Promise<void> {
  const usage = await context.client.get<DiskUsage>("/system/df");
  const { Images: images, Containers: containers, Volumes: volumes, BuildCache: cache } = usage;
  const row = (name: string, total: number, active: number, size: number, free: number): string[] => {
    const share = size > 0 ? ` (${Math.round((free / size) * 100)}%)` : "";
    return [name, String(total), String(active), humanSize(size), `${humanSize(free)}${share}`];
  };
  const unusedImages = (images ?? []).filter((each) => (each.Containers ?? 0) <= 0);
  const idle = (containers ?? []).filter((each) => each.State !== "running" && each.State !== "paused");
  const unusedVolumes = (volumes ?? []).filter((each) => (each.UsageData?.RefCount ?? 0) === 0);
  const imageBytes = usage.LayersSize ?? sum((images ?? []).map((each) => each.Size));
  const idleCache = (cache ?? []).filter((each) => each.InUse !== true);
  const lines = [
    ["TYPE", "TOTAL", "ACTIVE", "SIZE", "RECLAIMABLE"],
    row(
      "Images",
      images?.length ?? 0,
      (images?.length ?? 0) - unusedImages.length,
      imageBytes,
      Math.min(imageBytes, sum(unusedImages.map((each) => each.Size))),
    ),
    row(
      "Containers",
      containers?.length ?? 0,
      (containers?.length ?? 0) - idle.length,
      sum((containers ?? []).map((each) => each.SizeRw ?? 0)),
      sum(idle.map((each) => each.SizeRw ?? 0)),
    ),
    row(
      "Local Volumes",
      volumes?.length ?? 0,
      (volumes?.length ?? 0) - unusedVolumes.length,
      sum((volumes ?? []).map((each) => each.UsageData?.Size ?? 0)),
      sum(unusedVolumes.map((each) => each.UsageData?.Size ?? 0)),
    ),
    row(
      "Build Cache",
      cache?.length ?? 0,
      (cache?.length ?? 0) - idleCache.length,
      sum((cache ?? []).map((each) => each.Size)),
      sum(idleCache.map((each) => each.Size)),
    ),
  ];
  writeFormatted(context, usage, () => `${alignColumns(lines).join("\n")}\n`);
}

async function runPrune(context: CommandContext): Promise<void> {
  const { client, flags, out } = context;
  const withVolumes = flags.bool("volumes");
  const question = `This removes stopped containers, unused networks, ${flags.bool("all") ? "unused" : "untagged"} images${withVolumes ? ", anonymous volumes" : ""} and build cache. Go on?`;
  if (!(await confirm(context, question))) return;
  const filters = parseFilters(flags.list("filter"));
  let reclaimed = 0;
  const kinds: readonly (readonly [string, Readonly<Record<string, readonly string[]>>])[] = [
    ["containers", filters],
    ["networks", filters],
    ...(withVolumes ? ([["volumes", {}]] as const) : []),
    ["images", { ...filters, ...(flags.bool("all") ? { dangling: ["false"] } : {}) }],
  ];
  for (const [kind, kindFilters] of kinds) {
    const answer = await client.post<{ SpaceReclaimed?: number } & Record<string, unknown>>(
      `/${kind}/prune`,
      { filters: kindFilters },
    );
    const deleted = Object.values(answer).find((value) => Array.isArray(value)) as
      | readonly unknown[]
      | undefined;
    reclaimed += answer.SpaceReclaimed ?? 0;
    if ((deleted?.length ?? 0) > 0) out.write(`Deleted ${deleted?.length} ${kind}\n`);
  }
  const built = await client.post<{ SpaceReclaimed?: number }>("/build/prune", {
    query: { all: flags.bool("all") },
  });
  out.write(`Total reclaimed space: ${humanSize(reclaimed + (built.SpaceReclaimed ?? 0))}\n`);
}

/** Kinds in docker's order, and the path of an object of each. */
const KINDS: readonly (readonly [string, (name: string) => string])[] = [
  ["container", (name) => `/containers/${name}/json`],
  ["image", (name) => `/images/${name}/json`],
  ["network", (name) => `/networks/${name}`],
  ["volume", (name) => `/volumes/${name}`],
  ["service", (name) => `/services/${name}`],
  ["task", (name) => `/tasks/${name}`],
  ["node", (name) => `/nodes/${name}`],
  ["secret", (name) => `/secrets/${name}`],
  ["config", (name) => `/configs/${name}`],
  ["plugin", (name) => `/plugins/${name}/json`],
];

async function findAny(context: CommandContext, name: string, type: string | undefined): Promise<unknown> {
  for (const [kind, pathOf] of KINDS) {
    if (type !== undefined && type !== kind) continue;
    const query = kind === "container" && context.flags.bool("size") ? { query: { size: true } } : {};
    try {
      const found = await context.client.find(pathOf(encodeURIComponent(name)), query);
      if (found !== undefined) return found;
    } catch (caught) {
      // Worker nodes answer 503 for objects of the cluster; another kind may still match.
      if (type !== undefined || caught instanceof ConnectError) throw caught;
    }
  }
  return undefined;
}

async function runInspect(context: CommandContext): Promise<void> {
  const found: unknown[] = [];
  const problems: string[] = [];
  for (const name of context.args) {
    const object = await findAny(context, name, context.flags.string("type"));
    if (object === undefined)
      problems.push(`Error: No such ${context.flags.string("type") ?? "object"}: ${name}`);
    else found.push(object);
  }
  context.out.write(formatInspect(found, context.flags.string("format")));
  if (problems.length > 0) throw new ExitError(1, `${problems.join("\n")}\n`);
}

const FORMAT = text("format", "string", "Print with a Go template or 'json'", "f");

const EVENTS: CommandDefinition = {
  name: "events",
  usage: "[OPTIONS]",
  summary: "Follow what happens",
  argsMin: 0,
  argsMax: 0,
  flags: [
    FILTER_FLAG,
    text("format", "string", "Print with a Go template or 'json'"),
    text("since", "time", "From this time or this long ago"),
    text("until", "time", "Until this time"),
  ],
  run: runEvents,
};
const INFO: CommandDefinition = {
  name: "info",
  usage: "[OPTIONS]",
  summary: "Show the state of this machine and its cluster",
  argsMin: 0,
  argsMax: 0,
  flags: [FORMAT],
  run: runInfo,
};

export const definitions: readonly CommandDefinition[] = [
  {
    name: "system",
    usage: "COMMAND",
    summary: "Disk use, clean-up, information",
    argsMin: 0,
    flags: [],
    commands: [
      {
        name: "df",
        usage: "[OPTIONS]",
        summary: "Show disk use",
        argsMin: 0,
        argsMax: 0,
        flags: [
          text("format", "string", "Print with a Go template or 'json'"),
          bool("verbose", "More detail", "v"),
        ],
        run: runDf,
      },
      EVENTS,
      INFO,
      {
        name: "prune",
        usage: "[OPTIONS]",
        summary: "Remove what nothing uses",
        argsMin: 0,
        argsMax: 0,
        flags: [
          bool("all", "All unused images", "a"),
          bool("force", "Don't ask", "f"),
          bool("volumes", "Anonymous volumes too"),
          list("filter", "key=value", "Only what matches"),
        ],
        run: runPrune,
      },
    ],
  },
  EVENTS,
  INFO,
  {
    name: "version",
    usage: "[OPTIONS]",
    summary: "Show the versions of client and daemon",
    argsMin: 0,
    argsMax: 0,
    flags: [FORMAT],
    run: runVersion,
  },
  {
    name: "inspect",
    usage: "[OPTIONS] NAME|ID [NAME|ID...]",
    summary: "Show any object as JSON",
    argsMin: 1,
    flags: [
      INSPECT_FORMAT_FLAG,
      bool("size", "With sizes of containers", "s"),
      text("type", "kind", "Only this kind of object"),
    ],
    run: runInspect,
  },
];
