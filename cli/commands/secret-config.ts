/** `shoal secret …` and `shoal config …`: the same verbs on two kinds of object. Data comes from a file or stdin. */
import { readFileSync } from "node:fs";
import { buffer } from "node:stream/consumers";
import { ClusterError } from "../../common/errors.ts";
import { humanDuration } from "../../model/units.ts";
import type { ApiConfig, ApiSecret } from "../client/types.ts";
import type { CommandContext, CommandDefinition } from "../command.ts";
import { bool, FILTER_FLAG, FORMAT_FLAG, list, QUIET_FLAG, text } from "../command.ts";
import { parseFilters, parsePairs } from "../flag-values.ts";
import type { ListFormat } from "../output/table.ts";
import { formatList, labelText } from "../output/table.ts";
import { inspectCommand, removeCommand } from "./verbs.ts";

export { runProgram } from "../program.ts";

type Stored = ApiSecret | ApiConfig;

function storedList(nowMs: number): ListFormat<Stored> {
  const ago = (stamp: string): string => `${humanDuration(Math.max(0, nowMs - Date.parse(stamp)))} ago`;
  return {
    columns: {
      ID: { header: "ID", get: (row) => row.ID },
      Name: { header: "NAME", get: (row) => row.Spec.Name },
      Driver: { header: "DRIVER", get: (row) => ("Driver" in row.Spec ? (row.Spec.Driver?.Name ?? "") : "") },
      CreatedAt: { header: "CREATED", get: (row) => ago(row.CreatedAt) },
      UpdatedAt: { header: "UPDATED", get: (row) => ago(row.UpdatedAt) },
      Labels: { header: "LABELS", get: (row) => labelText(row.Spec.Labels) },
      Label: { header: "LABEL", get: (row) => (key: unknown) => row.Spec.Labels?.[String(key)] ?? "" },
    },
    defaults: ["ID", "Name", "CreatedAt", "UpdatedAt"],
    quiet: (row) => row.ID,
  };
}

async function readData(file: string): Promise<Buffer> {
  if (file === "-") return await buffer(process.stdin);
  try {
    return readFileSync(file);
  } catch (caught) {
    throw new ClusterError("invalid_argument", `Cannot read "${file}": ${(caught as Error).message}`, {
      cause: caught,
    });
  }
}

function createRunner(kind: "secret" | "config"): (context: CommandContext) => Promise<void> {
  return async ({ client, flags, args, out }) => {
    const [name = "", file] = args;
    const driver = flags.string("driver");
    if (file === undefined && driver === undefined) {
      throw new ClusterError(
        "invalid_argument",
        `Cannot create ${kind} "${name}": a file is needed, or "-" for stdin`,
      );
    }
    const templating = flags.string("template-driver");
    const answer = await client.post<{ ID: string }>(`/${kind}s/create`, {
      body: {
        Name: name,
        Labels: parsePairs(flags.list("label")),
        ...(file === undefined ? {} : { Data: (await readData(file)).toString("base64") }),
        ...(driver === undefined ? {} : { Driver: { Name: driver } }),
        ...(templating === undefined ? {} : { Templating: { Name: templating } }),
      },
    });
    out.write(`${answer.ID}\n`);
  };
}

function group(kind: "secret" | "config", summary: string): CommandDefinition {
  const noun = kind.toUpperCase();
  const loadPath = (name: string): string => `/${kind}s/${encodeURIComponent(name)}`;
  return {
    name: kind,
    usage: "COMMAND",
    summary,
    argsMin: 0,
    flags: [],
    commands: [
      {
        name: "create",
        usage: `[OPTIONS] ${noun} [file|-]`,
        summary: `Create a ${kind} from a file or stdin`,
        argsMin: 1,
        argsMax: 2,
        flags: [
          list("label", "key=value", "Label", "l"),
          text("template-driver", "name", "Template driver (golang)"),
          ...(kind === "secret" ? [text("driver", "name", "Secret driver", "d")] : []),
        ],
        run: createRunner(kind),
      },
      {
        name: "ls",
        aliases: ["list"],
        usage: "[OPTIONS]",
        summary: `List ${kind}s`,
        argsMin: 0,
        argsMax: 0,
        flags: [FILTER_FLAG, FORMAT_FLAG, QUIET_FLAG],
        run: async ({ client, flags, out }) => {
          const rows = await client.get<Stored[]>(`/${kind}s`, {
            filters: parseFilters(flags.list("filter")),
          });
          rows.sort((left, right) => (left.Spec.Name < right.Spec.Name ? -1 : 1));
          out.write(
            formatList(rows, storedList(Date.now()), {
              format: flags.string("format"),
              isQuiet: flags.bool("quiet"),
            }),
          );
        },
      },
      inspectCommand(noun, async (client, name) => await client.get(loadPath(name)), [
        bool("pretty", "Readable output"),
      ]),
      removeCommand(noun, async (client, name) => await client.delete(loadPath(name))),
    ],
  };
}

export const definitions: readonly CommandDefinition[] = [
  group("secret", "Secrets, kept encrypted and given to tasks in memory"),
  group("config", "Configuration files for tasks"),
];
