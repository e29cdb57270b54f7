/** `shoal stack …`: stacks of services from Compose files. deploy waits for all services unless --detach. */
import { text as readText } from "node:stream/consumers";
import { setTimeout as sleep } from "node:timers/promises";
import { ClusterError } from "../../common/errors.ts";
import type { ApiConfig, ApiNetwork, ApiNode, ApiSecret, ApiService, ApiTask } from "../client/types.ts";
import type { CommandContext, CommandDefinition, FlagDefinition } from "../command.ts";
import { bool, csv, ExitError, FILTER_FLAG, FORMAT_FLAG, QUIET_FLAG, text } from "../command.ts";
import { printStack } from "../compose/canonical.ts";
import { NAMESPACE_LABEL } from "../compose/convert.ts";
import type { DeployOptions, PlannedChange } from "../compose/deploy.ts";
import { deployStack, planStack, stackServices } from "../compose/deploy.ts";
import type { LoadedStack } from "../compose/load.ts";
import { loadStack } from "../compose/load.ts";
import { choiceFlag, durationFlag, mergeFilters, parseFilters } from "../flag-values.ts";
import { serviceList } from "../output/service-table.ts";
import type { ListFormat } from "../output/table.ts";
import { formatList } from "../output/table.ts";
import { remainingTasks } from "../progress/remaining-tasks.ts";
import { WAIT_TIMEOUT_DEFAULT_MS, waitForService } from "../progress/wait-service.ts";
import { findTasks, TASK_LIST_FLAGS, writeTasks } from "./task-list.ts";

export { runProgram } from "../program.ts";

const REMOVE_POLL_MS = 200;
const REMOVE_TIMEOUT_MS = 120_000;
const PLAN_CHANGED_STATUS = 1;

function stackName(context: CommandContext): string {
  const name = context.args[0] ?? "";
  if (name.trim() === "" || /['"\s]/.test(name)) {
    throw new ClusterError(
      "invalid_argument",
      `Invalid stack name "${name}": it must not be empty or hold blanks or quotes`,
    );
  }
  return name;
}

async function load(context: CommandContext, files: readonly string[]): Promise<LoadedStack> {
  const loaded = loadStack({
    files,
    ...(files.includes("-") ? { stdin: await readText(process.stdin) } : {}),
    env: context.env,
    cwd: process.cwd(),
    skipsInterpolation: context.flags.bool("skip-interpolation"),
  });
  for (const warning of loaded.warnings) context.err.write(`warning: ${warning}\n`);
  return loaded;
}

function deployOptions(context: CommandContext): DeployOptions {
  const { client, env, err, flags } = context;
  return {
    client,
    env,
    out: flags.bool("quiet") ? { ...context.out, write: () => {} } : context.out,
    err,
    prune: flags.bool("prune"),
    resolveImage: choiceFlag(flags, "resolve-image", ["always", "changed", "never"]) ?? "always",
    withRegistryAuth: flags.bool("with-registry-auth"),
  };
}

async function runDeploy(context: CommandContext): Promise<void> {
  const { flags, client, out, signal } = context;
  const name = stackName(context);
  const { stack } = await load(context, flags.list("compose-file"));
  const deployed = await deployStack(name, stack, deployOptions(context));
  if (flags.bool("detach")) return;
  const timeout = durationFlag(flags, "wait-timeout");
  const failures: string[] = [];
  for (const service of deployed) {
    try {
      await waitForService(service.id, {
        client,
        out,
        signal,
        isQuiet: flags.bool("quiet"),
        timeoutMs: timeout === undefined ? WAIT_TIMEOUT_DEFAULT_MS : timeout / 1e6,
        prefix: `${service.name}: `,
        ...(service.statusBefore === undefined ? {} : { statusBefore: service.statusBefore }),
      });
    } catch (caught) {
      if (!(caught instanceof ExitError)) throw caught;
      failures.push(`${service.name}: ${caught.message}`);
    }
  }
  if (failures.length > 0) throw new ExitError(1, failures.join(""));
}

function planText(changes: readonly PlannedChange[]): string {
  const marks = { create: "+", update: "~", remove: "-", keep: " " } as const;
  const lines = changes.flatMap((change) => {
    const head = `${marks[change.action]} ${change.kind} ${change.name}${change.action === "keep" ? " (unchanged)" : ""}`;
    if (change.action !== "update") return [head];
    return [
      head,
      ...change.fields.map(
        (field) => `    ${field.path}: ${field.before || "(unset)"} → ${field.after || "(unset)"}`,
      ),
    ];
  });
  const count = (action: PlannedChange["action"]): number =>
    changes.filter((change) => change.action === action).length;
  return `${lines.join("\n")}\n\n${count("create")} to create, ${count("update")} to update, ${count("remove")} to remove, ${count("keep")} unchanged\n`;
}

async function runPlan(context: CommandContext): Promise<number> {
  const name = stackName(context);
  const { stack } = await load(context, context.flags.list("compose-file"));
  const changes = await planStack(name, stack, deployOptions(context));
  context.out.write(
    context.flags.string("format") === "json" ? `${JSON.stringify(changes)}\n` : planText(changes),
  );
  const isChanged = changes.some((change) => change.action !== "keep");
  return isChanged && context.flags.bool("detailed-exitcode") ? PLAN_CHANGED_STATUS + 1 : 0;
}

async function runConfig(context: CommandContext): Promise<void> {
  const { stack } = await load(context, context.flags.list("compose-file"));
  context.out.write(printStack(stack));
}

interface StackRow {
  readonly name: string;
  readonly services: number;
}

const stackList: ListFormat<StackRow> = {
  columns: {
    Name: { header: "NAME", get: (row) => row.name },
    Services: { header: "SERVICES", get: (row) => row.services },
    Orchestrator: { header: "ORCHESTRATOR", get: () => "Swarm" },
  },
  defaults: ["Name", "Services"],
  quiet: (row) => row.name,
};

async function runList({ client, flags, out }: CommandContext): Promise<void> {
  const services = await client.get<ApiService[]>("/services", { filters: { label: [NAMESPACE_LABEL] } });
  const counts = new Map<string, number>();
  for (const service of services) {
    const name = service.Spec.Labels?.[NAMESPACE_LABEL];
    if (name !== undefined) counts.set(name, (counts.get(name) ?? 0) + 1);
  }
  const rows = [...counts]
    .map(([name, count]) => ({ name, services: count }))
    .sort((left, right) => (left.name < right.name ? -1 : 1));
  out.write(formatList(rows, stackList, { format: flags.string("format") }));
}

function nameFilter(name: string): { readonly label: readonly string[] } {
  return { label: [`${NAMESPACE_LABEL}=${name}`] };
}

async function runServices(context: CommandContext): Promise<void> {
  const { client, flags, out, err } = context;
  const name = stackName(context);
  const filters = mergeFilters(parseFilters(flags.list("filter")), nameFilter(name));
  const services = await client.get<ApiService[]>("/services", { query: { status: true }, filters });
  services.sort((left, right) => (left.Spec.Name < right.Spec.Name ? -1 : 1));
  if (services.length === 0) {
    err.write(`Nothing found in stack: ${name}\n`);
    return;
  }
  out.write(
    formatList(services, serviceList, { format: flags.string("format"), isQuiet: flags.bool("quiet") }),
  );
}

async function runPs(context: CommandContext): Promise<void> {
  const name = stackName(context);
  const tasks = await findTasks(context, nameFilter(name));
  if (tasks.length === 0) throw new ExitError(1, `nothing found in stack: ${name}\n`);
  await writeTasks(context, tasks);
}

/** The tasks of removed services end after the services themselves are gone; those of nodes that are down when these come back. */
async function waitForRemoval({ client, err, signal }: CommandContext, name: string): Promise<void> {
  const deadline = performance.now() + REMOVE_TIMEOUT_MS;
  for (;;) {
    const tasks = await client.get<ApiTask[]>("/tasks", { filters: nameFilter(name) });
    const { running, lost } = remainingTasks(tasks, await client.get<ApiNode[]>("/nodes"));
    if (running === 0) {
      for (const [node, count] of lost)
        err.write(
          `${count} tasks of stack ${name} end when node ${node}, which is down, is back or removed\n`,
        );
      return;
    }
    if (performance.now() > deadline)
      throw new ExitError(1, `${running} tasks of stack ${name} have not ended yet\n`);
    await sleep(REMOVE_POLL_MS, undefined, { signal });
  }
}

async function removeStack(context: CommandContext, name: string): Promise<boolean> {
  const { client, out, err, flags } = context;
  const filters = nameFilter(name);
  const services = await stackServices(client, name);
  const networks = await client.get<ApiNetwork[]>("/networks", { filters });
  const secrets = await client.get<ApiSecret[]>("/secrets", { filters });
  const configs = await client.get<ApiConfig[]>("/configs", { filters });
  if (services.length + networks.length + secrets.length + configs.length === 0) {
    err.write(`Nothing found in stack: ${name}\n`);
    return true;
  }
  const objects: readonly (readonly [string, string, string])[] = [
    ...services.map((each) => ["service", each.Spec.Name, `/services/${each.ID}`] as const),
    ...secrets.map((each) => ["secret", each.Spec.Name, `/secrets/${each.ID}`] as const),
    ...configs.map((each) => ["config", each.Spec.Name, `/configs/${each.ID}`] as const),
    ...networks.map((each) => ["network", each.Name, `/networks/${each.Id}`] as const),
  ];
  let isWhole = true;
  for (const [kind, label, path] of objects) {
    out.write(`Removing ${kind} ${label}\n`);
    try {
      await client.delete(path);
    } catch (caught) {
      isWhole = false;
      err.write(`Failed to remove ${kind} ${label}: ${(caught as Error).message}\n`);
    }
  }
  if (!flags.bool("detach")) await waitForRemoval(context, name);
  return isWhole;
}

async function runRemove(context: CommandContext): Promise<void> {
  let isWhole = true;
  for (const name of context.args) isWhole = (await removeStack(context, name)) && isWhole;
  if (!isWhole) throw new ExitError(1, "Failed to remove some resources\n");
}

const FILES: FlagDefinition = csv(
  "compose-file",
  "file",
  'Compose file, or "-" for stdin; later files change earlier ones',
  "c",
);
const DEPLOY_FLAGS: readonly FlagDefinition[] = [
  FILES,
  bool("prune", "Remove services that are no longer in the file"),
  text("resolve-image", "always|changed|never", "When to ask the registry for digests (default always)"),
  bool("with-registry-auth", "Send registry credentials to the nodes"),
];

const stack: CommandDefinition = {
  name: "stack",
  usage: "COMMAND",
  summary: "Deploy and look after stacks of services from Compose files",
  argsMin: 0,
  flags: [],
  commands: [
    {
      name: "deploy",
      aliases: ["up"],
      usage: "[OPTIONS] STACK",
      summary: "Create a stack or change it to what the file says, and wait until it runs",
      argsMin: 1,
      argsMax: 1,
      flags: [
        ...DEPLOY_FLAGS,
        bool("detach", "Return at once instead of waiting", "d"),
        bool("quiet", "No progress output", "q"),
        text(
          "wait-timeout",
          "duration",
          "Give up waiting for a service after this time (default 10m, 0: never)",
        ),
      ],
      run: runDeploy,
    },
    {
      name: "plan",
      usage: "[OPTIONS] STACK",
      summary: "Show what a deploy would change, and change nothing",
      argsMin: 1,
      argsMax: 1,
      flags: [
        ...DEPLOY_FLAGS,
        text("format", "json", "Print as JSON"),
        bool("detailed-exitcode", "Exit with 2 if anything would change"),
      ],
      run: runPlan,
    },
    {
      name: "config",
      usage: "[OPTIONS]",
      summary: "Check Compose files and print what they come to",
      argsMin: 0,
      argsMax: 0,
      flags: [FILES, bool("skip-interpolation", "Leave variables as they are")],
      run: runConfig,
    },
    {
      name: "ls",
      aliases: ["list"],
      usage: "[OPTIONS]",
      summary: "List stacks",
      argsMin: 0,
      argsMax: 0,
      flags: [FORMAT_FLAG],
      run: runList,
    },
    {
      name: "ps",
      usage: "[OPTIONS] STACK",
      summary: "List the tasks of a stack",
      argsMin: 1,
      argsMax: 1,
      flags: TASK_LIST_FLAGS,
      run: runPs,
    },
    {
      name: "services",
      usage: "[OPTIONS] STACK",
      summary: "List the services of a stack",
      argsMin: 1,
      argsMax: 1,
      flags: [FILTER_FLAG, FORMAT_FLAG, QUIET_FLAG],
      run: runServices,
    },
    {
      name: "rm",
      aliases: ["remove", "down"],
      usage: "[OPTIONS] STACK [STACK...]",
      summary: "Remove stacks and wait until their tasks have ended",
      argsMin: 1,
      flags: [bool("detach", "Return at once", "d")],
      run: runRemove,
    },
  ],
};

export const definitions: readonly CommandDefinition[] = [stack];
