/**
 * Deploys a stack through the API, in docker's order: networks, secrets, configs, then services. Everything that can be
 * checked is checked before the first change. Also tells what a deploy would do (plan).
 */
import { readFileSync } from "node:fs";
import { ClusterError } from "../../common/errors.ts";
import type { NetworkSpec, ServiceSpec } from "../../model/specs.ts";
import { type ApiClient, ApiError } from "../client/api-client.ts";
import { registryAuthHeader, resolveImage } from "../client/registry-auth.ts";
import type { ApiConfig, ApiInfo, ApiNetwork, ApiSecret, ApiService } from "../client/types.ts";
import type { Output } from "../command.ts";
import {
  IMAGE_LABEL,
  NAMESPACE_LABEL,
  networkSpec,
  objectName,
  serviceSpec,
  usedNetworks,
} from "./convert.ts";
import type { ComposeFileObject, ComposeStack } from "./types.ts";

type Env = Readonly<Record<string, string | undefined>>;

export interface DeployOptions {
  readonly client: ApiClient;
  readonly env: Env;
  readonly out: Output;
  readonly err: Output;
  readonly prune: boolean;
  readonly resolveImage: "always" | "changed" | "never";
  readonly withRegistryAuth: boolean;
}

export interface DeployedService {
  readonly id: string;
  readonly name: string;
  readonly statusBefore: ApiService["UpdateStatus"];
}

const PREDEFINED_NETWORKS = new Set(["host", "bridge", "none", "default"]);
const UPDATE_RETRIES = 5;

interface FileObject {
  /** In the file. */
  readonly key: string;
  readonly name: string;
  readonly body: Readonly<Record<string, unknown>>;
}

function contentOf(kind: string, key: string, object: ComposeFileObject, env: Env): Buffer {
  if (object.content !== undefined) return Buffer.from(object.content);
  if (object.environment !== undefined) {
    const value = env[object.environment];
    if (value === undefined)
      throw new ClusterError(
        "invalid_argument",
        `Cannot read ${kind} "${key}": the variable "${object.environment}" is not set`,
      );
    return Buffer.from(value);
  }
  try {
    return readFileSync(object.file ?? "");
  } catch (caught) {
    throw new ClusterError("invalid_argument", `Cannot read ${kind} "${key}": ${(caught as Error).message}`, {
      cause: caught,
    });
  }
}

/** Secrets or configs that the stack itself makes, with their data. */
function fileObjects(
  kind: "secret" | "config",
  stackName: string,
  objects: Readonly<Record<string, ComposeFileObject>>,
  env: Env,
): FileObject[] {
  return Object.entries(objects)
    .filter(([, object]) => object.external !== true)
    .map(([key, object]) => {
      const name = objectName(stackName, key, object);
      return {
        key,
        name,
        body: {
          Name: name,
          Labels: { ...object.labels, [NAMESPACE_LABEL]: stackName },
          ...(object.driver === undefined
            ? { Data: contentOf(kind, key, object, env).toString("base64") }
            : { Driver: { Name: object.driver, Options: object.driver_opts ?? {} } }),
          ...(object.template_driver === undefined ? {} : { Templating: { Name: object.template_driver } }),
        },
      };
    });
}

async function checkManager(client: ApiClient): Promise<void> {
  const info = await client.get<ApiInfo>("/info");
  if (info.Swarm?.ControlAvailable !== true) {
    throw new ClusterError(
      "failed_precondition",
      'This node is not a swarm manager. Use "shoal swarm init" or "shoal swarm join" to connect this node to swarm and try again.',
    );
  }
}

async function checkExternalNetworks(client: ApiClient, stack: ComposeStack): Promise<void> {
  for (const key of usedNetworks(stack)) {
    const network = stack.networks[key];
    const name = network?.name ?? key;
    if (network?.external !== true || PREDEFINED_NETWORKS.has(name)) continue;
    const found = await client.find<ApiNetwork>(`/networks/${encodeURIComponent(name)}`);
    if (found === undefined) {
      throw new ClusterError(
        "not_found",
        `network "${name}" is declared as external, but could not be found. You need to create a swarm-scoped network before the stack is deployed`,
      );
    }
    if (found.Scope !== "swarm") {
      throw new ClusterError(
        "failed_precondition",
        `network "${name}" is declared as external, but it is not in the right scope: "${found.Scope ?? ""}" instead of "swarm"`,
      );
    }
  }
}

function stackFilter(stackName: string): { readonly label: readonly string[] } {
  return { label: [`${NAMESPACE_LABEL}=${stackName}`] };
}

export async function stackServices(
  client: ApiClient,
  stackName: string,
  withStatus = false,
): Promise<ApiService[]> {
  const services = await client.get<ApiService[]>("/services", {
    query: withStatus ? { status: true } : {},
    filters: stackFilter(stackName),
  });
  return services.sort((left, right) => (left.Spec.Name < right.Spec.Name ? -1 : 1));
}

/** Everything the stack needs, converted; nothing was changed yet. */
interface Prepared {
  readonly networks: readonly NetworkSpec[];
  readonly secrets: readonly FileObject[];
  readonly configs: readonly FileObject[];
}

/** Stands for the id of an object that the deploy will make. */
const UNKNOWN_ID = "(new)";

function prepare(stackName: string, stack: ComposeStack, env: Env): Prepared {
  const networks = usedNetworks(stack)
    .filter((key) => stack.networks[key]?.external !== true)
    .map((key) => networkSpec(stackName, key, stack.networks[key] ?? {}));
  const secrets = fileObjects("secret", stackName, stack.secrets, env);
  const configs = fileObjects("config", stackName, stack.configs, env);
  // Converting with stand-ins for the ids finds what is wrong in any service before anything is made.
  const names = (kind: "secrets" | "configs"): Map<string, string> =>
    new Map(
      Object.entries(stack[kind]).map(([key, object]) => [objectName(stackName, key, object), UNKNOWN_ID]),
    );
  const lookup = { secretIds: names("secrets"), configIds: names("configs") };
  for (const name of Object.keys(stack.services)) serviceSpec(stackName, name, { stack, lookup });
  return { networks, secrets, configs };
}

function unchangeable(kind: "secret" | "config", { key, name }: FileObject): string {
  return `${kind}s.${key}: ${kind} "${name}" exists, and what it holds cannot change: give the new one another name ("name: ${name}_2", say), and the services that use it are rolled`;
}

/** Configs show what they hold, so that a deploy which would be refused changes nothing. Secrets do not. */
async function checkConfigs(client: ApiClient, configs: readonly FileObject[]): Promise<void> {
  const problems: string[] = [];
  for (const config of configs) {
    const found = await client.find<ApiConfig>(`/configs/${encodeURIComponent(config.name)}`);
    const data = config.body["Data"];
    if (found !== undefined && data !== undefined && data !== found.Spec.Data)
      problems.push(unchangeable("config", config));
  }
  if (problems.length > 0) throw new ClusterError("failed_precondition", problems.join("\n"));
}

/** True for Docker's words for a secret or config of which more than the labels would change. */
function isUnchangeable(caught: unknown): boolean {
  return caught instanceof ApiError && caught.message.includes("only updates to Labels are allowed");
}

async function applyFileObjects(
  kind: "secret" | "config",
  objects: readonly FileObject[],
  { client, out }: DeployOptions,
): Promise<void> {
  for (const object of objects) {
    const { name, body } = object;
    const found = await client.find<ApiSecret | ApiConfig>(`/${kind}s/${encodeURIComponent(name)}`);
    if (found === undefined) {
      out.write(`Creating ${kind} ${name}\n`);
      await client.post(`/${kind}s/create`, { body });
    } else {
      try {
        await client.post(`/${kind}s/${found.ID}/update`, { query: { version: found.Version.Index }, body });
      } catch (caught) {
        if (!isUnchangeable(caught)) throw caught;
        throw new ClusterError("failed_precondition", unchangeable(kind, object), { cause: caught });
      }
    }
  }
}

async function idsByName(
  client: ApiClient,
  kind: "secrets" | "configs",
  stackName: string,
  objects: Readonly<Record<string, ComposeFileObject>>,
): Promise<Map<string, string>> {
  const names = new Set(Object.entries(objects).map(([key, object]) => objectName(stackName, key, object)));
  if (names.size === 0) return new Map();
  const found = await client.get<readonly (ApiSecret | ApiConfig)[]>(`/${kind}`, {
    filters: { name: [...names] },
  });
  return new Map(found.filter((each) => names.has(each.Spec.Name)).map((each) => [each.Spec.Name, each.ID]));
}

/**
 * The spec to send for a service that exists: its forced restarts and, if the file's image is the same, the image as
 * resolved then.
 */
function mergeWithCurrent(spec: ServiceSpec, current: ApiService): ServiceSpec {
  const keeps = spec.TaskTemplate.ContainerSpec.Image === current.Spec.Labels?.[IMAGE_LABEL];
  const template = spec.TaskTemplate;
  const old = current.Spec.TaskTemplate;
  const platforms = old.Placement?.Platforms;
  return {
    ...spec,
    TaskTemplate: {
      ...template,
      ...(old.ForceUpdate === undefined ? {} : { ForceUpdate: old.ForceUpdate }),
      ...(keeps
        ? {
            ContainerSpec: { ...template.ContainerSpec, Image: old.ContainerSpec.Image },
            ...(platforms === undefined
              ? {}
              : { Placement: { ...template.Placement, Platforms: platforms } }),
          }
        : {}),
    },
  };
}

async function deployService(
  spec: ServiceSpec,
  options: DeployOptions,
  current: ApiService | undefined,
): Promise<DeployedService> {
  const { client, out, err } = options;
  const image = spec.TaskTemplate.ContainerSpec.Image;
  const headers = registryAuthHeader(options.env, image, options.withRegistryAuth);
  if (current === undefined) {
    out.write(`Creating service ${spec.Name}\n`);
    const body = options.resolveImage === "never" ? spec : await resolveImage(client, spec, { err, headers });
    const answer = await client.post<{ ID: string }>("/services/create", { body, headers });
    return { id: answer.ID, name: spec.Name, statusBefore: undefined };
  }
  out.write(`Updating service ${spec.Name} (id: ${current.ID})\n`);
  const isChanged = image !== current.Spec.Labels?.[IMAGE_LABEL];
  const wantsResolve = options.resolveImage === "always" || (options.resolveImage === "changed" && isChanged);
  const resolved = wantsResolve ? await resolveImage(client, spec, { err, headers }) : spec;
  const isResolved = resolved.TaskTemplate.ContainerSpec.Image !== image;
  for (let attempt = 1; ; attempt += 1) {
    const found = attempt === 1 ? current : await client.get<ApiService>(`/services/${current.ID}`);
    const body = isResolved ? withForceUpdate(resolved, found) : mergeWithCurrent(spec, found);
    try {
      await client.post(`/services/${current.ID}/update`, {
        query: { version: found.Version.Index },
        body,
        headers,
      });
      return { id: current.ID, name: spec.Name, statusBefore: found.UpdateStatus ?? null };
    } catch (caught) {
      const isStale = caught instanceof ApiError && caught.isStale;
      if (!isStale || attempt >= UPDATE_RETRIES) throw caught;
    }
  }
}

function withForceUpdate(spec: ServiceSpec, current: ApiService): ServiceSpec {
  const force = current.Spec.TaskTemplate.ForceUpdate;
  return force === undefined ? spec : { ...spec, TaskTemplate: { ...spec.TaskTemplate, ForceUpdate: force } };
}

export async function deployStack(
  stackName: string,
  stack: ComposeStack,
  options: DeployOptions,
): Promise<DeployedService[]> {
  const { client, out } = options;
  const prepared = prepare(stackName, stack, options.env);
  await checkManager(client);
  await checkExternalNetworks(client, stack);
  await checkConfigs(client, prepared.configs);
  const before = await stackServices(client, stackName);
  if (options.prune) {
    const kept = new Set(Object.keys(stack.services).map((name) => `${stackName}_${name}`));
    for (const service of before.filter((each) => !kept.has(each.Spec.Name))) {
      out.write(`Removing service ${service.Spec.Name}\n`);
      await client.delete(`/services/${service.ID}`);
    }
  }
  const networks = await client.get<ApiNetwork[]>("/networks", { filters: stackFilter(stackName) });
  const existing = new Set(networks.map((network) => network.Name));
  for (const network of prepared.networks) {
    if (existing.has(network.Name)) continue;
    out.write(`Creating network ${network.Name}\n`);
    await client.post("/networks/create", { body: network });
  }
  await applyFileObjects("secret", prepared.secrets, options);
  await applyFileObjects("config", prepared.configs, options);
  const lookup = {
    secretIds: await idsByName(client, "secrets", stackName, stack.secrets),
    configIds: await idsByName(client, "configs", stackName, stack.configs),
  };
  const deployed: DeployedService[] = [];
  for (const name of Object.keys(stack.services).sort()) {
    const spec = serviceSpec(stackName, name, { stack, lookup });
    deployed.push(
      await deployService(
        spec,
        options,
        before.find((each) => each.Spec.Name === spec.Name),
      ),
    );
  }
  return deployed;
}

/** One line of a plan. */
export interface PlannedChange {
  readonly action: "create" | "update" | "remove" | "keep";
  readonly kind: "network" | "secret" | "config" | "service";
  readonly name: string;
  /** Dotted paths with the old and the new value. */
  readonly fields: readonly { readonly path: string; readonly before: string; readonly after: string }[];
}

function flatten(value: unknown, path: string, result: Map<string, string>): void {
  if (Array.isArray(value))
    value.forEach((each: unknown, index) => flatten(each, `${path}[${index}]`, result));
  else if (typeof value === "object" && value !== null) {
    for (const [key, each] of Object.entries(value))
      flatten(each, path === "" ? key : `${path}.${key}`, result);
  } else if (value !== undefined) result.set(path, JSON.stringify(value));
}

function differences(before: unknown, after: unknown): PlannedChange["fields"] {
  const [left, right] = [new Map<string, string>(), new Map<string, string>()];
  flatten(before, "", left);
  flatten(after, "", right);
  return [...new Set([...left.keys(), ...right.keys()])]
    .filter((path) => left.get(path) !== right.get(path))
    .sort()
    .map((path) => ({ path, before: left.get(path) ?? "", after: right.get(path) ?? "" }));
}

/** Network targets are stored as ids and written as names; a plan compares names. */
function withNetworkNames(spec: ServiceSpec, names: ReadonlyMap<string, string>): ServiceSpec {
  const networks = spec.TaskTemplate.Networks?.map((each) => ({
    ...each,
    Target: names.get(each.Target) ?? each.Target,
  }));
  return networks === undefined
    ? spec
    : { ...spec, TaskTemplate: { ...spec.TaskTemplate, Networks: networks } };
}

/** What the API tells of a spec that is silent: a file that says nothing of it asks for no change. */
function withDefaults(spec: ServiceSpec): ServiceSpec {
  const { Mode, EndpointSpec, TaskTemplate } = spec;
  const isReplicated = Mode === undefined || Object.keys(Mode).every((key) => key === "Replicated");
  return {
    ...spec,
    ...(isReplicated ? { Mode: { Replicated: { Replicas: 1, ...Mode?.Replicated } } } : {}),
    EndpointSpec: { Mode: "vip", ...EndpointSpec },
    TaskTemplate: { ForceUpdate: 0, Runtime: "container", ...TaskTemplate },
  };
}

/** Fields in which a service would change; `names`: networks by id. */
export function specChanges(
  before: ServiceSpec,
  after: ServiceSpec,
  names: ReadonlyMap<string, string>,
): PlannedChange["fields"] {
  const comparable = (spec: ServiceSpec): ServiceSpec => withDefaults(withNetworkNames(spec, names));
  return differences(comparable(before), comparable(after));
}

/** What a deploy would change. Changes nothing. */
export async function planStack(
  stackName: string,
  stack: ComposeStack,
  options: DeployOptions,
): Promise<PlannedChange[]> {
  const { client } = options;
  const prepared = prepare(stackName, stack, options.env);
  await checkManager(client);
  await checkExternalNetworks(client, stack);
  await checkConfigs(client, prepared.configs);
  const changes: PlannedChange[] = [];
  const networks = await client.get<ApiNetwork[]>("/networks", { filters: { driver: ["overlay"] } });
  const networkNames = new Map(networks.map((network) => [network.Id, network.Name]));
  const existing = new Set(networkNames.values());
  for (const { Name: name } of prepared.networks) {
    changes.push({ action: existing.has(name) ? "keep" : "create", kind: "network", name, fields: [] });
  }
  for (const kind of ["secret", "config"] as const) {
    for (const { name } of prepared[`${kind}s`]) {
      const found = await client.find(`/${kind}s/${encodeURIComponent(name)}`);
      changes.push({ action: found === undefined ? "create" : "keep", kind, name, fields: [] });
    }
  }
  const withNew = (ids: ReadonlyMap<string, string>, all: readonly FileObject[]): Map<string, string> =>
    new Map([...all.map((each) => [each.name, UNKNOWN_ID] as const), ...ids]);
  const lookup = {
    secretIds: withNew(await idsByName(client, "secrets", stackName, stack.secrets), prepared.secrets),
    configIds: withNew(await idsByName(client, "configs", stackName, stack.configs), prepared.configs),
  };
  const before = await stackServices(client, stackName);
  for (const key of Object.keys(stack.services).sort()) {
    const spec = serviceSpec(stackName, key, { stack, lookup });
    const current = before.find((each) => each.Spec.Name === spec.Name);
    if (current === undefined) {
      changes.push({ action: "create", kind: "service", name: spec.Name, fields: differences({}, spec) });
      continue;
    }
    const next = mergeWithCurrent(spec, current);
    const fields = specChanges(current.Spec, next, networkNames);
    changes.push({
      action: fields.length === 0 ? "keep" : "update",
      kind: "service",
      name: spec.Name,
      fields,
    });
  }
  if (options.prune) {
    const kept = new Set(Object.keys(stack.services).map((name) => `${stackName}_${name}`));
    for (const { Spec: spec } of before.filter((each) => !kept.has(each.Spec.Name))) {
      changes.push({ action: "remove", kind: "service", name: spec.Name, fields: [] });
    }
  }
  return changes;
}
