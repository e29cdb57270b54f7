/** `shoal plugin …`: managed plugins of this machine, in docker's words. */
import { existsSync } from "node:fs";
import path from "node:path";
import { ClusterError } from "../../common/errors.ts";
import { imagePath } from "../client/api-client.ts";
import { registryAuthHeader } from "../client/registry-auth.ts";
import type { CommandContext, CommandDefinition, FlagDefinition } from "../command.ts";
import { bool, ExitError, FILTER_FLAG, FORMAT_FLAG, NO_TRUNC_FLAG, QUIET_FLAG, text } from "../command.ts";
import { parseFilters, unsignedFlag } from "../flag-values.ts";
import { folderTar } from "../folder-tar.ts";
import type { ProgressLine } from "../output/json-progress.ts";
import { showProgress } from "../output/json-progress.ts";
import type { ListFormat } from "../output/table.ts";
import { formatList, shortId } from "../output/table.ts";
import { confirm, forEachArgument, inspectCommand, removeCommand } from "./verbs.ts";

export { runProgram } from "../program.ts";

interface ApiPlugin {
  readonly Id: string;
  readonly Name: string;
  readonly Enabled: boolean;
  readonly PluginReference?: string;
  readonly Config?: { readonly Description?: string };
}

interface Privilege {
  readonly Name: string;
  readonly Value?: readonly string[] | null;
}

const GRANT_FLAG: FlagDefinition = bool("grant-all-permissions", "Grant what the plugin asks for unasked");

function pluginPath(name: string, verb: string): string {
  return `/plugins/${imagePath(name)}/${verb}`;
}

function pluginList(isTruncated: boolean): ListFormat<ApiPlugin> {
  const id = (plugin: ApiPlugin): string => (isTruncated ? shortId(plugin.Id) : plugin.Id);
  return {
    columns: {
      ID: { header: "ID", get: id },
      Name: { header: "NAME", get: (plugin) => plugin.Name },
      Description: { header: "DESCRIPTION", get: (plugin) => plugin.Config?.Description ?? "" },
      Enabled: { header: "ENABLED", get: (plugin) => plugin.Enabled },
      PluginReference: { header: "PLUGIN REFERENCE", get: (plugin) => plugin.PluginReference ?? "" },
    },
    defaults: ["ID", "Name", "Description", "Enabled"],
    quiet: id,
  };
}

async function runList({ client, flags, out }: CommandContext): Promise<void> {
  const plugins = await client.get<ApiPlugin[]>("/plugins", {
    filters: parseFilters(flags.list("filter")),
  });
  plugins.sort((left, right) => (left.Name < right.Name ? -1 : 1));
  out.write(
    formatList(plugins, pluginList(!flags.bool("no-trunc")), {
      format: flags.string("format"),
      isQuiet: flags.bool("quiet"),
    }),
  );
}

/** What the plugin asks for, once the user has granted it. */
async function granted(context: CommandContext, remote: string): Promise<readonly Privilege[]> {
  const privileges = await context.client.get<Privilege[] | null>("/plugins/privileges", {
    query: { remote },
    headers: registryAuthHeader(context.env, remote, true),
  });
  if (privileges === null || privileges.length === 0 || context.flags.bool("grant-all-permissions"))
    return privileges ?? [];
  context.out.write(`Plugin "${remote}" is requesting the following privileges:\n`);
  for (const { Name, Value } of privileges) context.out.write(` - ${Name}: [${(Value ?? []).join(" ")}]\n`);
  if (await confirm(context, "Do you grant the above permissions?")) return privileges;
  throw new ExitError(1, `permission denied while installing plugin ${remote}\n`);
}

/** `path`: of the call that pulls. */
async function fetchPlugin(
  context: CommandContext,
  path: string,
  query: { readonly remote: string; readonly name?: string },
): Promise<void> {
  const privileges = await granted(context, query.remote);
  const lines = context.client.jsonLines<ProgressLine>("POST", path, {
    query,
    body: privileges,
    headers: registryAuthHeader(context.env, query.remote, true),
    signal: context.signal,
  });
  await showProgress(lines, context.out, false);
}

async function runInstall(context: CommandContext): Promise<void> {
  const { args, client, flags, out } = context;
  const [remote = "", ...settings] = args;
  const name = flags.string("alias") ?? remote;
  await fetchPlugin(context, "/plugins/pull", { remote, name: flags.string("alias") ?? "" });
  if (settings.length > 0) await client.post(pluginPath(name, "set"), { body: settings });
  if (!flags.bool("disable")) await client.post(pluginPath(name, "enable"), { query: { timeout: 0 } });
  out.write(`Installed plugin ${remote}\n`);
}

async function runUpgrade(context: CommandContext): Promise<void> {
  const { args, client, flags, out } = context;
  const [name = "", given] = args;
  const plugin = await client.get<ApiPlugin>(pluginPath(name, "json"));
  if (plugin.Enabled)
    throw new ClusterError("failed_precondition", `Plugin "${name}" must be disabled before it is upgraded`);
  const former = plugin.PluginReference ?? name;
  const remote = given ?? former;
  out.write(`Upgrading plugin ${plugin.Name} from ${former} to ${remote}\n`);
  const isOther = remote.split(":")[0] !== former.split(":")[0];
  if (isOther && !flags.bool("skip-remote-check")) {
    if (!(await confirm(context, "The plugin is another one than the one that is here. Go on?"))) {
      throw new ExitError(1, `plugin ${name} was not upgraded\n`);
    }
  }
  await fetchPlugin(context, pluginPath(name, "upgrade"), { remote });
  out.write(`Upgraded plugin ${plugin.Name} to ${remote}\n`);
}

async function runCreate(context: CommandContext): Promise<void> {
  const [name = "", folder = ""] = context.args;
  for (const part of ["config.json", "rootfs"]) {
    if (!existsSync(path.join(folder, part)))
      throw new ClusterError(
        "invalid_argument",
        `Cannot make plugin "${name}": want "config.json" and "rootfs" in "${folder}", got no "${part}"`,
      );
  }
  await context.client.post("/plugins/create", {
    query: { name },
    raw: { contentType: "application/x-tar", content: await folderTar(folder) },
  });
  context.out.write(`${name}\n`);
}

async function runPush(context: CommandContext): Promise<void> {
  const [name = ""] = context.args;
  const lines = context.client.jsonLines<ProgressLine>("POST", pluginPath(name, "push"), {
    headers: { "X-Registry-Auth": "e30=", ...registryAuthHeader(context.env, name, true) },
    signal: context.signal,
  });
  await showProgress(lines, context.out, false);
}

function switchCommand(
  name: "enable" | "disable",
  flag: FlagDefinition,
  query: (context: CommandContext) => Readonly<Record<string, number | boolean>>,
): CommandDefinition {
  return {
    name,
    usage: "[OPTIONS] PLUGIN",
    summary: name === "enable" ? "Start a plugin" : "Stop a plugin",
    argsMin: 1,
    argsMax: 1,
    flags: [flag],
    run: (context) =>
      forEachArgument(context, async (plugin) => {
        await context.client.post(pluginPath(plugin, name), { query: query(context) });
        context.out.write(`${plugin}\n`);
      }),
  };
}

const plugin: CommandDefinition = {
  name: "plugin",
  usage: "COMMAND",
  summary: "Plugins of this machine",
  argsMin: 0,
  flags: [],
  commands: [
    {
      name: "create",
      usage: "PLUGIN FOLDER",
      summary: "Make a plugin from a folder with config.json and rootfs",
      argsMin: 2,
      argsMax: 2,
      flags: [],
      run: runCreate,
    },
    switchCommand("disable", bool("force", "Even if something uses it", "f"), ({ flags }) => ({
      force: flags.bool("force"),
    })),
    switchCommand("enable", text("timeout", "seconds", "Wait so long for it (default 30)"), ({ flags }) => ({
      timeout: unsignedFlag(flags, "timeout") ?? 30,
    })),
    inspectCommand("PLUGIN", async (client, name) => await client.get(pluginPath(name, "json"))),
    {
      name: "install",
      usage: "[OPTIONS] PLUGIN [KEY=VALUE...]",
      summary: "Fetch a plugin from a registry, and start it",
      argsMin: 1,
      flags: [
        text("alias", "name", "Name of the plugin here"),
        bool("disable", "Don't start it"),
        GRANT_FLAG,
      ],
      run: runInstall,
    },
    {
      name: "ls",
      aliases: ["list"],
      usage: "[OPTIONS]",
      summary: "List plugins",
      argsMin: 0,
      argsMax: 0,
      flags: [FILTER_FLAG, FORMAT_FLAG, QUIET_FLAG, NO_TRUNC_FLAG],
      run: runList,
    },
    {
      name: "push",
      usage: "PLUGIN[:TAG]",
      summary: "Upload a plugin to a registry",
      argsMin: 1,
      argsMax: 1,
      flags: [],
      run: runPush,
    },
    removeCommand(
      "PLUGIN",
      async (client, name, { flags }) =>
        await client.delete(`/plugins/${imagePath(name)}`, { query: { force: flags.bool("force") } }),
      [bool("force", "Even if it is enabled", "f")],
    ),
    {
      name: "set",
      usage: "PLUGIN KEY=VALUE [KEY=VALUE...]",
      summary: "Change settings of a plugin that is disabled",
      argsMin: 2,
      flags: [],
      run: async ({ args, client }) => {
        const [name = "", ...settings] = args;
        await client.post(pluginPath(name, "set"), { body: settings });
      },
    },
    {
      name: "upgrade",
      usage: "[OPTIONS] PLUGIN [REMOTE]",
      summary: "Fetch another version of a plugin that is disabled",
      argsMin: 1,
      argsMax: 2,
      flags: [GRANT_FLAG, bool("skip-remote-check", "Don't ask when the plugin is another one")],
      run: runUpgrade,
    },
  ],
};

export const definitions: readonly CommandDefinition[] = [plugin];
