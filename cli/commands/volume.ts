/** `shoal volume …`: volumes of this machine. */
import { humanSize } from "../../model/units.ts";
import type { CommandDefinition } from "../command.ts";
import { bool, FILTER_FLAG, FORMAT_FLAG, list, QUIET_FLAG, text } from "../command.ts";
import { parseFilters, parsePairs } from "../flag-values.ts";
import type { ListFormat } from "../output/table.ts";
import { formatList, labelText } from "../output/table.ts";
import { confirm, inspectCommand, removeCommand } from "./verbs.ts";

export { runProgram } from "../program.ts";

interface ApiVolume {
  readonly Name: string;
  readonly Driver?: string;
  readonly Mountpoint?: string;
  readonly Scope?: string;
  readonly Labels?: Readonly<Record<string, string>> | null;
}

const volumeList: ListFormat<ApiVolume> = {
  columns: {
    Name: { header: "VOLUME NAME", get: (volume) => volume.Name },
    Driver: { header: "DRIVER", get: (volume) => volume.Driver ?? "local" },
    Scope: { header: "SCOPE", get: (volume) => volume.Scope ?? "local" },
    Mountpoint: { header: "MOUNTPOINT", get: (volume) => volume.Mountpoint ?? "" },
    Labels: { header: "LABELS", get: (volume) => labelText(volume.Labels) },
    Label: { header: "LABEL", get: (volume) => (key: unknown) => volume.Labels?.[String(key)] ?? "" },
  },
  defaults: ["Driver", "Name"],
  quiet: (volume) => volume.Name,
};

const volume: CommandDefinition = {
  name: "volume",
  usage: "COMMAND",
  summary: "Volumes of this machine",
  argsMin: 0,
  flags: [],
  commands: [
    {
      name: "create",
      usage: "[OPTIONS] [VOLUME]",
      summary: "Create a volume",
      argsMin: 0,
      argsMax: 1,
      flags: [
        text("driver", "name", "Volume driver (default local)", "d"),
        list("label", "key=value", "Label"),
        list("opt", "key=value", "Option of the driver", "o"),
      ],
      run: async ({ client, flags, args, out }) => {
        const answer = await client.post<ApiVolume>("/volumes/create", {
          body: {
            Name: args[0] ?? "",
            Driver: flags.string("driver") ?? "local",
            DriverOpts: parsePairs(flags.list("opt")),
            Labels: parsePairs(flags.list("label")),
          },
        });
        out.write(`${answer.Name}\n`);
      },
    },
    {
      name: "ls",
      aliases: ["list"],
      usage: "[OPTIONS]",
      summary: "List volumes",
      argsMin: 0,
      argsMax: 0,
      flags: [FILTER_FLAG, FORMAT_FLAG, QUIET_FLAG],
      run: async ({ client, flags, out }) => {
        const answer = await client.get<{ Volumes?: ApiVolume[] | null }>("/volumes", {
          filters: parseFilters(flags.list("filter")),
        });
        const volumes = [...(answer.Volumes ?? [])].sort((left, right) => (left.Name < right.Name ? -1 : 1));
        out.write(
          formatList(volumes, volumeList, { format: flags.string("format"), isQuiet: flags.bool("quiet") }),
        );
      },
    },
    inspectCommand(
      "VOLUME",
      async (client, name) => await client.get(`/volumes/${encodeURIComponent(name)}`),
    ),
    removeCommand(
      "VOLUME",
      async (client, name, { flags }) =>
        await client.delete(`/volumes/${encodeURIComponent(name)}`, {
          query: { force: flags.bool("force") },
        }),
      [bool("force", "Don't fail if a volume is missing", "f")],
    ),
    {
      name: "prune",
      usage: "[OPTIONS]",
      summary: "Remove volumes that no container uses",
      argsMin: 0,
      argsMax: 0,
      flags: [
        bool("force", "Don't ask", "f"),
        bool("all", "Named volumes too", "a"),
        list("filter", "key=value", "Only what matches"),
      ],
      run: async (context) => {
        const what = context.flags.bool("all") ? "all volumes" : "anonymous volumes";
        if (!(await confirm(context, `This removes ${what} that no container uses. Go on?`))) return;
        const filters = {
          ...parseFilters(context.flags.list("filter")),
          ...(context.flags.bool("all") ? { all: ["1"] } : {}),
        };
        const answer = await context.client.post<{
          VolumesDeleted?: string[] | null;
          SpaceReclaimed?: number;
        }>("/volumes/prune", { filters });
        for (const name of answer.VolumesDeleted ?? []) context.out.write(`${name}\n`);
        context.out.write(`Total reclaimed space: ${humanSize(answer.SpaceReclaimed ?? 0)}\n`);
      },
    },
  ],
};

export const definitions: readonly CommandDefinition[] = [volume];
