/** `shoal container …` and its short forms: containers of this machine. */
import { createWriteStream } from "node:fs";
import { pipeline } from "node:stream/promises";
import { humanDuration, humanSize } from "../../model/units.ts";
import { readFrames } from "../client/stdcopy.ts";
import type { CommandContext, CommandDefinition, FlagDefinition } from "../command.ts";
import {
  bool,
  ExitError,
  FILTER_FLAG,
  FORMAT_FLAG,
  list,
  NO_TRUNC_FLAG,
  QUIET_FLAG,
  text,
} from "../command.ts";
import { changeableLimits } from "../container-flags.ts";
import { integerFlag, parseFilters } from "../flag-values.ts";
import type { ListFormat } from "../output/table.ts";
import { alignColumns, ellipsis, formatList, labelText, shortId } from "../output/table.ts";
import { copyCommand } from "./container-copy.ts";
import type { ContainerInspect } from "./container-run.ts";
import { RUN_COMMANDS } from "./container-run.ts";
import { statsCommand } from "./container-stats.ts";
import { sinceText } from "./service-logs.ts";
import { confirm, forEachArgument, inspectCommand, removeCommand } from "./verbs.ts";

export { runProgram } from "../program.ts";

interface ApiContainer {
  readonly Id: string;
  readonly Names?: readonly string[];
  readonly Image: string;
  readonly Command?: string;
  readonly Created: number;
  readonly State?: string;
  readonly Status?: string;
  readonly Ports?: readonly {
    readonly IP?: string;
    readonly PrivatePort: number;
    readonly PublicPort?: number;
    readonly Type: string;
  }[];
  readonly Labels?: Readonly<Record<string, string>> | null;
  readonly Mounts?: readonly { readonly Name?: string; readonly Source?: string }[];
  readonly NetworkSettings?: { readonly Networks?: Readonly<Record<string, unknown>> | null };
  readonly SizeRw?: number;
  readonly SizeRootFs?: number;
}

const COMMAND_LENGTH = 20;

function portsText(container: ApiContainer): string {
  const texts = (container.Ports ?? []).map((port) => {
    const inner = `${port.PrivatePort}/${port.Type}`;
    if (port.PublicPort === undefined || port.PublicPort === 0) return inner;
    const ip = port.IP ?? "0.0.0.0";
    return `${ip.includes(":") ? `[${ip}]` : ip}:${port.PublicPort}->${inner}`;
  });
  return [...new Set(texts)].sort().join(", ");
}

function containerList(isTruncated: boolean, withSize: boolean, nowMs: number): ListFormat<ApiContainer> {
  const id = (row: ApiContainer): string => (isTruncated ? shortId(row.Id) : row.Id);
  return {
    columns: {
      ID: { header: "CONTAINER ID", get: id },
      Image: { header: "IMAGE", get: (row) => row.Image },
      Command: {
        header: "COMMAND",
        get: (row) => `"${isTruncated ? ellipsis(row.Command ?? "", COMMAND_LENGTH) : (row.Command ?? "")}"`,
      },
      CreatedAt: { header: "CREATED AT", get: (row) => new Date(row.Created * 1000).toISOString() },
      RunningFor: {
        header: "CREATED",
        get: (row) => `${humanDuration(Math.max(0, nowMs - row.Created * 1000))} ago`,
      },
      Status: { header: "STATUS", get: (row) => row.Status ?? "" },
      State: { header: "STATE", get: (row) => row.State ?? "" },
      Ports: { header: "PORTS", get: portsText },
      Names: {
        header: "NAMES",
        get: (row) => (row.Names ?? []).map((name) => name.replace(/^\//, "")).join(","),
      },
      Labels: { header: "LABELS", get: (row) => labelText(row.Labels) },
      Label: { header: "LABEL", get: (row) => (key: unknown) => row.Labels?.[String(key)] ?? "" },
      Mounts: {
        header: "MOUNTS",
        get: (row) => (row.Mounts ?? []).map((mount) => mount.Name ?? mount.Source ?? "").join(","),
      },
      LocalVolumes: {
        header: "LOCAL VOLUMES",
        get: (row) => (row.Mounts ?? []).filter((mount) => mount.Name !== undefined).length,
      },
      Networks: {
        header: "NETWORKS",
        get: (row) =>
          Object.keys(row.NetworkSettings?.Networks ?? {})
            .sort()
            .join(","),
      },
      Size: {
        header: "SIZE",
        get: (row) => `${humanSize(row.SizeRw ?? 0, 3)} (virtual ${humanSize(row.SizeRootFs ?? 0, 3)})`,
      },
    },
    defaults: [
      "ID",
      "Image",
      "Command",
      "RunningFor",
      "Status",
      "Ports",
      "Names",
      ...(withSize ? ["Size"] : []),
    ],
    quiet: id,
  };
}

async function runList({ client, flags, out }: CommandContext): Promise<void> {
  const isLatest = flags.bool("latest");
  const limit = isLatest ? 1 : integerFlag(flags, "last");
  const format = flags.string("format");
  const withSize = flags.bool("size") || (format?.includes(".Size") ?? false);
  const rows = await client.get<ApiContainer[]>("/containers/json", {
    query: { all: flags.bool("all") || limit !== undefined, limit, size: withSize },
    filters: parseFilters(flags.list("filter")),
  });
  out.write(
    formatList(rows, containerList(!flags.bool("no-trunc"), withSize, Date.now()), {
      format,
      isQuiet: flags.bool("quiet"),
    }),
  );
}

async function runLogs(context: CommandContext): Promise<void> {
  const { client, flags, args, out, err, signal } = context;
  const name = encodeURIComponent(args[0] ?? "");
  const found = await client.get<ContainerInspect>(`/containers/${name}/json`);
  const response = await client.call("GET", `/containers/${name}/logs`, {
    query: {
      stdout: true,
      stderr: true,
      follow: flags.bool("follow"),
      timestamps: flags.bool("timestamps"),
      details: flags.bool("details"),
      tail: flags.string("tail") ?? "all",
      since: sinceText(flags.string("since"), Date.now()),
      until: sinceText(flags.string("until"), Date.now()),
    },
    signal,
  });
  if (found.Config.Tty === true) {
    for await (const chunk of response) out.write(String(chunk));
    return;
  }
  for await (const frame of readFrames(response)) {
    (frame.stream === 2 ? err : out).write(frame.payload.toString("utf8"));
  }
}

/** A verb that is one POST for each container and prints its name. */
function postVerb(
  name: string,
  summary: string,
  options: {
    readonly flags?: readonly FlagDefinition[];
    readonly query?: (context: CommandContext) => Readonly<Record<string, string | number | undefined>>;
  } = {},
): CommandDefinition {
  return {
    name,
    usage: "[OPTIONS] CONTAINER [CONTAINER...]",
    summary,
    argsMin: 1,
    flags: options.flags ?? [],
    run: async (context) => {
      await forEachArgument(context, async (container) => {
        await context.client.post(`/containers/${encodeURIComponent(container)}/${name}`, {
          query: options.query?.(context) ?? {},
        });
        context.out.write(`${container}\n`);
      });
    },
  };
}

const STOP_FLAGS: readonly FlagDefinition[] = [
  text("signal", "signal", "Signal to send", "s"),
  text("timeout", "seconds", "Seconds until the kill (-1: never)", "t"),
  { ...text("time", "seconds", "Seconds until the kill"), isHidden: true },
];

function stopQuery({ flags }: CommandContext): Readonly<Record<string, string | number | undefined>> {
  return { signal: flags.string("signal"), t: integerFlag(flags, "timeout") ?? integerFlag(flags, "time") };
}

async function runWait(context: CommandContext): Promise<void> {
  await forEachArgument(context, async (container) => {
    const answer = await context.client.post<{ StatusCode: number }>(
      `/containers/${encodeURIComponent(container)}/wait`,
      {
        query: { condition: "not-running" },
      },
    );
    context.out.write(`${answer.StatusCode}\n`);
  });
}

async function runTop({ client, args, out }: CommandContext): Promise<void> {
  const [container = "", ...psArgs] = args;
  const answer = await client.get<{ Titles: string[]; Processes: string[][] | null }>(
    `/containers/${encodeURIComponent(container)}/top`,
    {
      query: psArgs.length === 0 ? {} : { ps_args: psArgs.join(" ") },
    },
  );
  out.write(`${alignColumns([answer.Titles, ...(answer.Processes ?? [])]).join("\n")}\n`);
}

async function runPort({ client, args, out }: CommandContext): Promise<void> {
  const [container = "", wanted] = args;
  const found = await client.get<{
    NetworkSettings?: {
      Ports?: Readonly<Record<string, readonly { HostIp: string; HostPort: string }[] | null>>;
    };
  }>(`/containers/${encodeURIComponent(container)}/json`);
  const key = wanted === undefined ? undefined : wanted.includes("/") ? wanted : `${wanted}/tcp`;
  const lines = Object.entries(found.NetworkSettings?.Ports ?? {})
    .filter(([port]) => key === undefined || port === key)
    .flatMap(([port, bindings]) =>
      (bindings ?? []).map((each) => {
        const address = `${each.HostIp.includes(":") ? `[${each.HostIp}]` : each.HostIp}:${each.HostPort}`;
        return key === undefined ? `${port} -> ${address}` : address;
      }),
    );
  if (key !== undefined && lines.length === 0)
    throw new ExitError(1, `no public port '${key}' published for ${container}\n`);
  out.write(lines.map((line) => `${line}\n`).join(""));
}

async function runDiff({ client, args, out }: CommandContext): Promise<void> {
  const changes = await client.get<{ Path: string; Kind: 0 | 1 | 2 }[] | null>(
    `/containers/${encodeURIComponent(args[0] ?? "")}/changes`,
  );
  out.write((changes ?? []).map((change) => `${"CAD"[change.Kind] ?? "?"} ${change.Path}\n`).join(""));
}

async function runExport({ client, flags, args }: CommandContext): Promise<void> {
  const file = flags.string("output");
  if (file === undefined && process.stdout.isTTY === true)
    throw new ExitError(1, "Cannot write a tar to a terminal: use --output or redirect\n");
  const response = await client.call("GET", `/containers/${encodeURIComponent(args[0] ?? "")}/export`);
  if (file === undefined) await pipeline(response, process.stdout, { end: false });
  else await pipeline(response, createWriteStream(file));
}

async function runCommit({ client, flags, args, out }: CommandContext): Promise<void> {
  const [container = "", reference = ""] = args;
  const cut =
    reference.lastIndexOf(":") > reference.lastIndexOf("/") ? reference.lastIndexOf(":") : reference.length;
  const answer = await client.post<{ Id: string }>("/commit", {
    query: {
      container,
      repo: reference.slice(0, cut),
      tag: reference.slice(cut + 1),
      comment: flags.string("message"),
      author: flags.string("author"),
      pause: !flags.has("pause") || flags.bool("pause"),
      changes: flags.list("change"),
    },
    body: {},
  });
  out.write(`${answer.Id}\n`);
}

async function runUpdate(context: CommandContext): Promise<void> {
  const limits = changeableLimits(context.flags);
  await forEachArgument(context, async (container) => {
    const answer = await context.client.post<{ Warnings?: string[] | null }>(
      `/containers/${encodeURIComponent(container)}/update`,
      { body: limits },
    );
    for (const warning of answer.Warnings ?? []) context.err.write(`${warning}\n`);
    context.out.write(`${container}\n`);
  });
}

async function runPrune(context: CommandContext): Promise<void> {
  if (!(await confirm(context, "This removes all stopped containers. Go on?"))) return;
  const answer = await context.client.post<{ ContainersDeleted?: string[] | null; SpaceReclaimed?: number }>(
    "/containers/prune",
    {
      filters: parseFilters(context.flags.list("filter")),
    },
  );
  for (const id of answer.ContainersDeleted ?? []) context.out.write(`${id}\n`);
  context.out.write(`Total reclaimed space: ${humanSize(answer.SpaceReclaimed ?? 0)}\n`);
}

const LIST: CommandDefinition = {
  name: "ps",
  aliases: ["ls", "list"],
  usage: "[OPTIONS]",
  summary: "List containers of this machine",
  argsMin: 0,
  argsMax: 0,
  flags: [
    bool("all", "Stopped ones too", "a"),
    FILTER_FLAG,
    FORMAT_FLAG,
    text("last", "count", "The newest so many", "n"),
    bool("latest", "The newest", "l"),
    NO_TRUNC_FLAG,
    QUIET_FLAG,
    bool("size", "With sizes", "s"),
  ],
  run: runList,
};

const LOGS: CommandDefinition = {
  name: "logs",
  usage: "[OPTIONS] CONTAINER",
  summary: "Show the logs of a container",
  argsMin: 1,
  argsMax: 1,
  flags: [
    bool("details", "Show extra details"),
    bool("follow", "Follow what comes", "f"),
    text("since", "time", "From this time or this long ago"),
    text("tail", "count", "Only so many lines of the end", "n"),
    bool("timestamps", "Show times", "t"),
    text("until", "time", "Until this time or this long ago"),
  ],
  run: runLogs,
};

const UPDATE_FLAGS: readonly FlagDefinition[] = [
  ...[
    "blkio-weight",
    "cpu-period",
    "cpu-quota",
    "cpu-shares",
    "cpus",
    "cpuset-cpus",
    "cpuset-mems",
    "pids-limit",
  ].map((name) => text(name, "value", "New limit")),
  text("memory", "bytes", "Memory limit", "m"),
  text("memory-reservation", "bytes", "Memory soft limit"),
  text("memory-swap", "bytes", "Memory and swap limit"),
  text("restart", "policy", "Restart policy"),
];

/** Short forms at the top level and verbs of `container` alike. */
const VERBS: readonly CommandDefinition[] = [
  ...RUN_COMMANDS,
  LIST,
  LOGS,
  postVerb("stop", "Stop containers", { flags: STOP_FLAGS, query: stopQuery }),
  postVerb("restart", "Restart containers", { flags: STOP_FLAGS, query: stopQuery }),
  postVerb("kill", "Send a signal to containers", {
    flags: [text("signal", "signal", "Signal to send (default KILL)", "s")],
    query: ({ flags }) => ({ signal: flags.string("signal") ?? "KILL" }),
  }),
  postVerb("pause", "Freeze containers"),
  postVerb("unpause", "Thaw containers"),
  {
    name: "wait",
    usage: "CONTAINER [CONTAINER...]",
    summary: "Wait until containers stop and print their exit codes",
    argsMin: 1,
    flags: [],
    run: runWait,
  },
  removeCommand(
    "CONTAINER",
    async (client, name, { flags }) =>
      await client.delete(`/containers/${encodeURIComponent(name)}`, {
        query: { force: flags.bool("force"), v: flags.bool("volumes"), link: flags.bool("link") },
      }),
    [
      bool("force", "Kill a running container", "f"),
      bool("volumes", "Its anonymous volumes too", "v"),
      bool("link", "Remove the link", "l"),
    ],
  ),
  {
    name: "rename",
    usage: "CONTAINER NAME",
    summary: "Rename a container",
    argsMin: 2,
    argsMax: 2,
    flags: [],
    run: async ({ client, args }) => {
      await client.post(`/containers/${encodeURIComponent(args[0] ?? "")}/rename`, {
        query: { name: args[1] },
      });
    },
  },
  {
    name: "top",
    usage: "CONTAINER [ps OPTIONS]",
    summary: "Show the processes of a container",
    argsMin: 1,
    stopsAtArgument: true,
    flags: [],
    run: runTop,
  },
  statsCommand,
  {
    name: "port",
    usage: "CONTAINER [PORT[/PROTOCOL]]",
    summary: "Show the published ports of a container",
    argsMin: 1,
    argsMax: 2,
    flags: [],
    run: runPort,
  },
  {
    name: "diff",
    usage: "CONTAINER",
    summary: "Show what changed in a container's files",
    argsMin: 1,
    argsMax: 1,
    flags: [],
    run: runDiff,
  },
  copyCommand,
  {
    name: "export",
    usage: "[OPTIONS] CONTAINER",
    summary: "Write a container's files as a tar",
    argsMin: 1,
    argsMax: 1,
    flags: [text("output", "file", "File to write (default: stdout)", "o")],
    run: runExport,
  },
  {
    name: "commit",
    usage: "[OPTIONS] CONTAINER [REPOSITORY[:TAG]]",
    summary: "Make an image from a container",
    argsMin: 1,
    argsMax: 2,
    flags: [
      text("author", "name", "Author", "a"),
      list("change", "instruction", "Dockerfile instruction to apply", "c"),
      text("message", "text", "Comment", "m"),
      bool("pause", "Pause the container meanwhile (default true)", "p"),
    ],
    run: runCommit,
  },
  {
    name: "update",
    usage: "[OPTIONS] CONTAINER [CONTAINER...]",
    summary: "Change limits of containers",
    argsMin: 1,
    flags: UPDATE_FLAGS,
    run: runUpdate,
  },
];

const container: CommandDefinition = {
  name: "container",
  usage: "COMMAND",
  summary: "All verbs of containers",
  argsMin: 0,
  flags: [],
  commands: [
    ...VERBS.map((verb) => (verb === LIST ? { ...LIST, name: "ls", aliases: ["ps", "list"] } : verb)),
    inspectCommand(
      "CONTAINER",
      async (client, name, { flags }) =>
        await client.get(`/containers/${encodeURIComponent(name)}/json`, {
          query: { size: flags.bool("size") },
        }),
      [bool("size", "With sizes", "s")],
    ),
    {
      name: "prune",
      usage: "[OPTIONS]",
      summary: "Remove stopped containers",
      argsMin: 0,
      argsMax: 0,
      flags: [bool("force", "Don't ask", "f"), list("filter", "key=value", "Only what matches")],
      run: runPrune,
    },
  ],
};

export const definitions: readonly CommandDefinition[] = [container, ...VERBS];
