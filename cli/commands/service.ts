/** `shoal service …`: docker's verbs. create, update, scale and rollback wait for the roll-out unless --detach. */
import { ClusterError } from "../../common/errors.ts";
import type { ServiceSpec } from "../../model/specs.ts";
import { ApiError } from "../client/api-client.ts";
import type { ApiClient } from "../client/api-client.ts";
import type { ApiNetwork, ApiService } from "../client/types.ts";
import type { CommandContext, CommandDefinition } from "../command.ts";
import {
  bool,
  DETACH_FLAG,
  ExitError,
  FILTER_FLAG,
  FORMAT_FLAG,
  INSPECT_FORMAT_FLAG,
  QUIET_FLAG,
  text,
} from "../command.ts";
import { durationFlag, parseFilters } from "../flag-values.ts";
import { getService, specLookup } from "../lookups.ts";
import { prettyService } from "../output/pretty-service.ts";
import { formatInspect, formatList } from "../output/table.ts";
import { serviceList } from "../output/service-table.ts";
import { WAIT_TIMEOUT_DEFAULT_MS, waitForService } from "../progress/wait-service.ts";
import { CREATE_FLAGS, UPDATE_FLAGS } from "../service-flags.ts";
import { createServiceSpec, updateServiceSpec } from "../service-spec.ts";
import { registryAuthHeader, resolveImage } from "../client/registry-auth.ts";
import { serviceLogs } from "./service-logs.ts";
import { findTasks, TASK_LIST_FLAGS, writeTasks } from "./task-list.ts";

export { runProgram } from "../program.ts";

/** An update races with the orchestrator's own writes of the version; so many fresh reads are tried. */
const UPDATE_RETRIES = 5;

function waitTimeoutMs(context: CommandContext): number {
  const given = durationFlag(context.flags, "wait-timeout");
  return given === undefined ? WAIT_TIMEOUT_DEFAULT_MS : given / 1e6;
}

async function waitUnlessDetached(
  context: CommandContext,
  serviceId: string,
  extra: {
    readonly isRollback?: boolean;
    readonly statusBefore?: ApiService["UpdateStatus"];
    readonly prefix?: string;
  } = {},
): Promise<void> {
  if (context.flags.bool("detach")) return;
  await waitForService(serviceId, {
    client: context.client,
    out: context.out,
    signal: context.signal,
    isQuiet: context.flags.bool("quiet"),
    timeoutMs: waitTimeoutMs(context),
    ...extra,
  });
}

function printWarnings(context: CommandContext, warnings: readonly string[] | null | undefined): void {
  for (const warning of warnings ?? []) context.err.write(`${warning}\n`);
}

/** Credentials for the image's registry, if they shall go along. */
function authOf({ env, flags }: CommandContext, spec: ServiceSpec): Record<string, string> {
  return registryAuthHeader(env, spec.TaskTemplate.ContainerSpec.Image, flags.bool("with-registry-auth"));
}

async function runCreate(context: CommandContext): Promise<void> {
  const { client, flags } = context;
  const plain = await createServiceSpec(context.args, flags, {
    lookup: specLookup(client),
    env: context.env,
  });
  const headers = authOf(context, plain);
  const spec = flags.bool("no-resolve-image")
    ? plain
    : await resolveImage(client, plain, { err: context.err, headers });
  const answer = await client.post<{ ID: string; Warnings?: string[] | null }>("/services/create", {
    body: spec,
    headers,
  });
  printWarnings(context, answer.Warnings);
  context.out.write(`${answer.ID}\n`);
  await waitUnlessDetached(context, answer.ID);
}

interface UpdateRequest {
  readonly name: string;
  readonly change: (service: ApiService) => Promise<ServiceSpec>;
  readonly rollback?: boolean;
  /** For what change() gave. */
  readonly headersOf?: (spec: ServiceSpec) => Readonly<Record<string, string>>;
}

/** Reads, changes, writes; again on a stale version. The service as it was before. */
export async function updateService(
  client: ApiClient,
  request: UpdateRequest,
): Promise<{ before: ApiService; warnings: readonly string[] }> {
  for (let attempt = 1; ; attempt += 1) {
    const service = await getService(client, request.name);
    const body = await request.change(service);
    try {
      const answer = await client.post<{ Warnings?: string[] | null } | null>(
        `/services/${service.ID}/update`,
        {
          query: {
            version: service.Version.Index,
            ...(request.rollback === true ? { rollback: "previous" } : {}),
          },
          body,
          ...(request.headersOf === undefined ? {} : { headers: request.headersOf(body) }),
        },
      );
      return { before: service, warnings: answer?.Warnings ?? [] };
    } catch (caught) {
      const isStale = caught instanceof ApiError && caught.isStale;
      if (!isStale || attempt >= UPDATE_RETRIES) throw caught;
    }
  }
}

async function runUpdate(context: CommandContext): Promise<void> {
  const { client, flags } = context;
  const name = context.args[0] ?? "";
  if (flags.bool("rollback")) return await rollback(context, name);
  const { before, warnings } = await updateService(client, {
    name,
    change: async (service) => {
      const spec = await updateServiceSpec(service.Spec, flags, {
        lookup: specLookup(client),
        env: context.env,
      });
      return flags.has("image") && !flags.bool("no-resolve-image")
        ? await resolveImage(client, spec, { err: context.err, headers: authOf(context, spec) })
        : spec;
    },
    headersOf: (spec) => authOf(context, spec),
  });
  printWarnings(context, warnings);
  context.out.write(`${name}\n`);
  await waitUnlessDetached(context, before.ID, { statusBefore: before.UpdateStatus ?? null });
}

async function rollback(context: CommandContext, name: string): Promise<void> {
  const { before, warnings } = await updateService(context.client, {
    name,
    rollback: true,
    change: async (service) => service.Spec,
  });
  printWarnings(context, warnings);
  context.out.write(`${name}\n`);
  await waitUnlessDetached(context, before.ID, {
    isRollback: true,
    statusBefore: before.UpdateStatus ?? null,
  });
}

function parseScale(word: string): { name: string; replicas: number } {
  const match = /^(.+)=(\d+)$/.exec(word);
  if (match === null)
    throw new ClusterError("invalid_argument", `Invalid scale "${word}": expected SERVICE=REPLICAS`);
  return { name: match[1] ?? "", replicas: Number(match[2]) };
}

async function runScale(context: CommandContext): Promise<void> {
  const wanted = context.args.map(parseScale);
  const changed: { name: string; before: ApiService }[] = [];
  for (const { name, replicas } of wanted) {
    const { before } = await updateService(context.client, {
      name,
      change: async ({ Spec: spec }) => {
        if (spec.Mode?.Replicated !== undefined)
          return { ...spec, Mode: { Replicated: { Replicas: replicas } } };
        if (spec.Mode?.ReplicatedJob !== undefined) {
          return {
            ...spec,
            Mode: { ReplicatedJob: { ...spec.Mode.ReplicatedJob, TotalCompletions: replicas } },
          };
        }
        throw new ClusterError(
          "failed_precondition",
          `Cannot scale service "${name}": its mode must be replicated, got global`,
        );
      },
    });
    changed.push({ name, before });
    context.out.write(`${name} scaled to ${replicas}\n`);
  }
  for (const { name, before } of changed) {
    const prefix = changed.length > 1 ? `${name}: ` : "";
    await waitUnlessDetached(context, before.ID, { statusBefore: before.UpdateStatus ?? null, prefix });
  }
}

async function runList(context: CommandContext): Promise<void> {
  const { flags } = context;
  const services = await context.client.get<ApiService[]>("/services", {
    query: { status: true },
    filters: parseFilters(flags.list("filter")),
  });
  services.sort((left, right) => (left.Spec.Name < right.Spec.Name ? -1 : 1));
  context.out.write(
    formatList(services, serviceList, { format: flags.string("format"), isQuiet: flags.bool("quiet") }),
  );
}

/** Tasks of the services that the words name: by full id, name, or id prefix. */
async function runPs(context: CommandContext): Promise<void> {
  const { client } = context;
  const problems: string[] = [];
  const ids: string[] = [];
  for (const name of context.args) {
    const service = await client.find<ApiService>(`/services/${encodeURIComponent(name)}`);
    if (service === undefined) problems.push(`no such service: ${name}`);
    else ids.push(service.ID);
  }
  if (ids.length > 0) await writeTasks(context, await findTasks(context, { service: ids }));
  if (problems.length > 0) throw new ExitError(1, `${problems.join("\n")}\n`);
}

async function networkNames(
  client: ApiClient,
  services: readonly ApiService[],
): Promise<Map<string, string>> {
  const names = new Map<string, string>();
  for (const service of services) {
    for (const { Target: target } of service.Spec.TaskTemplate.Networks ?? service.Spec.Networks ?? []) {
      if (names.has(target)) continue;
      const network = await client.find<ApiNetwork>(`/networks/${encodeURIComponent(target)}`, {
        query: { scope: "swarm" },
      });
      names.set(target, network?.Name ?? target);
    }
  }
  return names;
}

async function runInspect(context: CommandContext): Promise<void> {
  const { client, flags } = context;
  const isPretty = flags.bool("pretty") || flags.string("format") === "pretty";
  const found: ApiService[] = [];
  const problems: string[] = [];
  for (const name of context.args) {
    const service = await client.find<ApiService>(`/services/${encodeURIComponent(name)}`, {
      query: isPretty ? { insertDefaults: "effective" } : {},
    });
    if (service === undefined) problems.push(`no such service: ${name}`);
    else found.push(service);
  }
  if (isPretty) {
    const names = await networkNames(client, found);
    context.out.write(found.map((service) => prettyService(service, names)).join("\n"));
  } else context.out.write(formatInspect(found, flags.string("format")));
  if (problems.length > 0) throw new ExitError(1, `${problems.join("\n")}\n`);
}

async function runRemove(context: CommandContext): Promise<void> {
  const problems: string[] = [];
  for (const name of context.args) {
    try {
      await context.client.delete(`/services/${encodeURIComponent(name)}`);
      context.out.write(`${name}\n`);
    } catch (caught) {
      if (!(caught instanceof ApiError)) throw caught;
      problems.push(caught.message);
    }
  }
  if (problems.length > 0)
    throw new ExitError(1, problems.map((each) => `Error response from daemon: ${each}\n`).join(""));
}

const WAIT_FLAGS = [
  DETACH_FLAG,
  bool("quiet", "No progress output", "q"),
  text("wait-timeout", "duration", "Give up waiting after this time (default 10m, 0: never)"),
];

const service: CommandDefinition = {
  name: "service",
  usage: "COMMAND",
  summary: "Create, scale, update and watch services",
  argsMin: 0,
  flags: [],
  commands: [
    {
      name: "create",
      usage: "[OPTIONS] IMAGE [COMMAND] [ARG...]",
      summary: "Create a service",
      argsMin: 1,
      stopsAtArgument: true,
      flags: CREATE_FLAGS,
      run: runCreate,
    },
    {
      name: "update",
      usage: "[OPTIONS] SERVICE",
      summary: "Change a service",
      argsMin: 1,
      argsMax: 1,
      flags: UPDATE_FLAGS,
      run: runUpdate,
    },
    {
      name: "scale",
      usage: "SERVICE=REPLICAS [SERVICE=REPLICAS...]",
      summary: "Set the number of tasks of services",
      argsMin: 1,
      flags: WAIT_FLAGS,
      run: runScale,
    },
    {
      name: "rollback",
      usage: "[OPTIONS] SERVICE",
      summary: "Go back to the previous specification",
      argsMin: 1,
      argsMax: 1,
      flags: WAIT_FLAGS,
      run: async (context) => await rollback(context, context.args[0] ?? ""),
    },
    {
      name: "ls",
      aliases: ["list"],
      usage: "[OPTIONS]",
      summary: "List services",
      argsMin: 0,
      argsMax: 0,
      flags: [FILTER_FLAG, FORMAT_FLAG, QUIET_FLAG],
      run: runList,
    },
    {
      name: "ps",
      usage: "[OPTIONS] SERVICE [SERVICE...]",
      summary: "List the tasks of services",
      argsMin: 1,
      flags: TASK_LIST_FLAGS,
      run: runPs,
    },
    {
      name: "inspect",
      usage: "[OPTIONS] SERVICE [SERVICE...]",
      summary: "Show services as JSON, or readable with --pretty",
      argsMin: 1,
      flags: [INSPECT_FORMAT_FLAG, bool("pretty", "Readable output")],
      run: runInspect,
    },
    serviceLogs,
    {
      name: "rm",
      aliases: ["remove"],
      usage: "SERVICE [SERVICE...]",
      summary: "Remove services",
      argsMin: 1,
      flags: [],
      run: runRemove,
    },
  ],
};

export const definitions: readonly CommandDefinition[] = [service];
