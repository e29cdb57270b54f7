/** `shoal stats`: what containers use, once or redrawn each second. */
import { setTimeout as sleep } from "node:timers/promises";
import { binarySize, humanSize } from "../../model/units.ts";
import type { CommandContext, CommandDefinition } from "../command.ts";
import { bool, FORMAT_FLAG, NO_TRUNC_FLAG } from "../command.ts";
import type { ListFormat } from "../output/table.ts";
import { formatList, shortId } from "../output/table.ts";

interface CpuStats {
  readonly cpu_usage?: { readonly total_usage?: number; readonly percpu_usage?: readonly number[] | null };
  readonly system_cpu_usage?: number;
  readonly online_cpus?: number;
}

interface ApiStats {
  readonly id?: string;
  readonly name?: string;
  readonly cpu_stats?: CpuStats;
  readonly precpu_stats?: CpuStats;
  readonly memory_stats?: {
    readonly usage?: number;
    readonly limit?: number;
    readonly stats?: Readonly<Record<string, number>>;
  };
  readonly networks?: Readonly<Record<string, { readonly rx_bytes: number; readonly tx_bytes: number }>>;
  readonly blkio_stats?: {
    readonly io_service_bytes_recursive?: readonly { readonly op: string; readonly value: number }[] | null;
  };
  readonly pids_stats?: { readonly current?: number };
}

const REDRAW_MS = 1_000;

/** Share of one CPU in percent, over the time between the two samples of the answer. */
function cpuPercent(stats: ApiStats): number {
  const used =
    (stats.cpu_stats?.cpu_usage?.total_usage ?? 0) - (stats.precpu_stats?.cpu_usage?.total_usage ?? 0);
  const system = (stats.cpu_stats?.system_cpu_usage ?? 0) - (stats.precpu_stats?.system_cpu_usage ?? 0);
  const cpus = stats.cpu_stats?.online_cpus ?? stats.cpu_stats?.cpu_usage?.percpu_usage?.length ?? 1;
  return used > 0 && system > 0 ? (used / system) * cpus * 100 : 0;
}

/** Memory without the page cache that the kernel could drop. */
function memoryBytes(stats: ApiStats): number {
  const memory = stats.memory_stats;
  const cache = memory?.stats?.["total_inactive_file"] ?? memory?.stats?.["inactive_file"] ?? 0;
  return Math.max(0, (memory?.usage ?? 0) - cache);
}

function ioText(stats: ApiStats): string {
  const sum = (op: string): number =>
    (stats.blkio_stats?.io_service_bytes_recursive ?? [])
      .filter((each) => each.op.toLowerCase() === op)
      .reduce((total, each) => total + each.value, 0);
  return `${humanSize(sum("read"), 3)} / ${humanSize(sum("write"), 3)}`;
}

function netText(stats: ApiStats): string {
  const all = Object.values(stats.networks ?? {});
  const [received, sent] = [
    all.reduce((total, each) => total + each.rx_bytes, 0),
    all.reduce((total, each) => total + each.tx_bytes, 0),
  ];
  return `${humanSize(received, 3)} / ${humanSize(sent, 3)}`;
}

function statsList(isTruncated: boolean): ListFormat<ApiStats> {
  const percent = (value: number): string => `${value.toFixed(2)}%`;
  return {
    columns: {
      ID: { header: "CONTAINER ID", get: (row) => (isTruncated ? shortId(row.id ?? "") : (row.id ?? "")) },
      Container: { header: "CONTAINER", get: (row) => row.id ?? "" },
      Name: { header: "NAME", get: (row) => (row.name ?? "").replace(/^\//, "") },
      CPUPerc: { header: "CPU %", get: (row) => percent(cpuPercent(row)) },
      MemUsage: {
        header: "MEM USAGE / LIMIT",
        get: (row) => `${binarySize(memoryBytes(row))} / ${binarySize(row.memory_stats?.limit ?? 0)}`,
      },
      MemPerc: {
        header: "MEM %",
        get: (row) => percent((memoryBytes(row) / Math.max(1, row.memory_stats?.limit ?? 0)) * 100),
      },
      NetIO: { header: "NET I/O", get: netText },
      BlockIO: { header: "BLOCK I/O", get: ioText },
      PIDs: { header: "PIDS", get: (row) => row.pids_stats?.current ?? 0 },
    },
    defaults: ["ID", "Name", "CPUPerc", "MemUsage", "MemPerc", "NetIO", "BlockIO", "PIDs"],
  };
}

async function sample(context: CommandContext): Promise<ApiStats[]> {
  const { client, args, flags, signal } = context;
  const names =
    args.length > 0
      ? args
      : (
          await client.get<{ Id: string }[]>("/containers/json", {
            query: { all: flags.bool("all") },
            signal,
          })
        ).map((each) => each.Id);
  const all = await Promise.all(
    names.map(
      async (name) =>
        await client.find<ApiStats>(`/containers/${encodeURIComponent(name)}/stats`, {
          query: { stream: false },
          signal,
        }),
    ),
  );
  return all.filter((each): each is ApiStats => each !== undefined);
}

export const statsCommand: CommandDefinition = {
  name: "stats",
  usage: "[OPTIONS] [CONTAINER...]",
  summary: "Show what containers use",
  argsMin: 0,
  flags: [
    bool("all", "Stopped ones too", "a"),
    FORMAT_FLAG,
    bool("no-stream", "Print once and end"),
    NO_TRUNC_FLAG,
  ],
  run: async (context) => {
    const { flags, out } = context;
    const format = statsList(!flags.bool("no-trunc"));
    for (;;) {
      const text = formatList(await sample(context), format, { format: flags.string("format") });
      if (flags.bool("no-stream")) {
        out.write(text);
        return;
      }
      out.write(out.isTty ? `\x1b[H\x1b[2J${text}` : text);
      await sleep(REDRAW_MS, undefined, { signal: context.signal });
    }
  },
};
