/**
 * Builds the spec of `service create` from flags and changes a spec as `service update` asks. Only flags that were given
 * change anything. Names of networks, secrets and configs are turned into ids through `lookup`; the rest is pure.
 */
import { ClusterError } from "../common/errors.ts";
import type {
  ConfigReference,
  ContainerSpec,
  FileTarget,
  GenericResource,
  HealthConfig,
  NetworkAttachmentConfig,
  PortConfig,
  SecretReference,
  ServiceSpec,
  Ulimit,
  UpdateConfig,
} from "../model/specs.ts";
import type { Flags } from "./command.ts";
import type { Draft } from "./draft.ts";
import {
  bytesFlag,
  choiceFlag,
  cpusFlag,
  durationFlag,
  given,
  healthFields,
  integerFlag,
  pairsFlag,
  parsePairs,
  ratioFlag,
  readEnvFile,
  resolveEnv,
  splitCsv,
  splitWords,
  unsignedFlag,
} from "./flag-values.ts";
import { parseMount } from "./mounts.ts";
import { parseServicePort } from "./ports.ts";

export interface SpecLookup {
  networkId(name: string): Promise<string>;
  secretId(name: string): Promise<string>;
  configId(name: string): Promise<string>;
}

type Env = Readonly<Record<string, string | undefined>>;
type ServiceDraft = Draft<ServiceSpec>;

function isEmpty(object: object): boolean {
  return Object.keys(object).length === 0;
}

/** What `--X` (create) or `--X-add` (update) and `--X-rm` ask of a list. */
function changeList<T>(
  flags: Flags,
  name: string,
  current: readonly T[] | undefined,
  options: { readonly keyOf: (item: T) => string; readonly parse: (text: string) => readonly T[] },
): T[] | undefined {
  const removed = new Set(flags.list(`${name}-rm`));
  const added = [...flags.list(name), ...flags.list(`${name}-add`)].flatMap(options.parse);
  if (removed.size === 0 && added.length === 0) return undefined;
  const byKey = new Map((current ?? []).map((item) => [options.keyOf(item), item]));
  for (const key of removed) byKey.delete(key);
  for (const item of added) byKey.set(options.keyOf(item), item);
  return [...byKey.values()];
}

function changeStrings(
  flags: Flags,
  name: string,
  current: readonly string[] | undefined,
): string[] | undefined {
  return changeList(flags, name, current, { keyOf: (item) => item, parse: (text) => [text] });
}

function changeMap(
  flags: Flags,
  name: string,
  current: Readonly<Record<string, string>> | undefined,
): Record<string, string> | undefined {
  const added = [...flags.list(name), ...flags.list(`${name}-add`)];
  const removed = flags.list(`${name}-rm`);
  if (added.length === 0 && removed.length === 0) return undefined;
  const kept = Object.entries(current ?? {}).filter(([key]) => !removed.includes(key));
  return { ...Object.fromEntries(kept), ...parsePairs(added) };
}

function healthOf(flags: Flags, current: HealthConfig | undefined): HealthConfig | undefined {
  const asked = healthFields(flags);
  if (flags.bool("no-healthcheck")) {
    if (!isEmpty(asked))
      throw new ClusterError("invalid_argument", "--no-healthcheck conflicts with --health-* options");
    return { Test: ["NONE"] };
  }
  return isEmpty(asked) ? undefined : { ...(current?.Test?.[0] === "NONE" ? {} : current), ...asked };
}

function parseUlimit(text: string): Ulimit {
  const match = /^(\w+)=(-?\d+)(?::(-?\d+))?$/.exec(text);
  if (match === null)
    throw new ClusterError("invalid_argument", `Invalid ulimit "${text}": expected name=soft[:hard]`);
  const soft = Number(match[2]);
  return { Name: match[1] ?? "", Soft: soft, Hard: match[3] === undefined ? soft : Number(match[3]) };
}

/** "name:ip" or "name=ip" to the file's "ip name". */
function parseHost(text: string): string {
  const match = /^([^:=]+)[:=](.+)$/.exec(text);
  if (match === null) throw new ClusterError("invalid_argument", `Invalid host "${text}": expected name:ip`);
  return `${match[2]} ${match[1]}`;
}

function applyContainer(container: Draft<ContainerSpec>, flags: Flags, env: Env): void {
  const entrypoint = flags.string("entrypoint");
  const args = flags.string("args");
  Object.assign(
    container,
    given({
      Image: flags.string("image"),
      Command: entrypoint === undefined ? undefined : splitWords("entrypoint", entrypoint),
      Args: args === undefined ? undefined : splitWords("args", args),
      Hostname: flags.string("hostname"),
      Dir: flags.string("workdir"),
      User: flags.string("user"),
      StopSignal: flags.string("stop-signal"),
      StopGracePeriod: durationFlag(flags, "stop-grace-period"),
      OomScoreAdj: integerFlag(flags, "oom-score-adj"),
      TTY: flags.has("tty") ? flags.bool("tty") : undefined,
      ReadOnly: flags.has("read-only") ? flags.bool("read-only") : undefined,
      Init: flags.has("init") ? flags.bool("init") : undefined,
      Isolation: flags.string("isolation"),
      Healthcheck: healthOf(flags, container.Healthcheck),
    }),
  );
  applyContainerLists(container, flags, env);
}

function applyContainerLists(container: Draft<ContainerSpec>, flags: Flags, env: Env): void {
  const fileEnv = flags.list("env-file").flatMap((file) => readEnvFile(file, env));
  const envFlags = changeList(flags, "env", [...(container.Env ?? []), ...fileEnv], {
    keyOf: (item) => item.split("=", 1)[0] ?? "",
    parse: (text) => resolveEnv([text], env),
  });
  const dns = given({
    Nameservers: changeStrings(flags, "dns", container.DNSConfig?.Nameservers),
    Search: changeStrings(flags, "dns-search", container.DNSConfig?.Search),
    Options: changeStrings(flags, "dns-option", container.DNSConfig?.Options),
  });
  const changed = given({
    Env: envFlags ?? (fileEnv.length > 0 ? fileEnv : undefined),
    Labels: changeMap(flags, "container-label", container.Labels),
    Groups: changeStrings(flags, "group", container.Groups),
    Sysctls: changeMap(flags, "sysctl", container.Sysctls),
    CapabilityAdd: flags.has("cap-add")
      ? capabilities(container.CapabilityAdd, flags.list("cap-add"))
      : undefined,
    CapabilityDrop: flags.has("cap-drop")
      ? capabilities(container.CapabilityDrop, flags.list("cap-drop"))
      : undefined,
    Mounts: changeList(flags, "mount", container.Mounts, {
      keyOf: (item) => item.Target,
      parse: (text) => [parseMount(text)],
    }),
    Ulimits: changeList(flags, "ulimit", container.Ulimits, {
      keyOf: (item) => item.Name,
      parse: (text) => [parseUlimit(text)],
    }),
  });
  Object.assign(container, changed);
  if (flags.hasAny("host", "host-add", "host-rm")) container.Hosts = hostsOf(container.Hosts, flags);
  if (!isEmpty(dns)) container.DNSConfig = { ...container.DNSConfig, ...dns };
}

function hostsOf(current: readonly string[] | undefined, flags: Flags): string[] {
  const removed = new Set(flags.list("host-rm").map((text) => text.split(/[:=]/, 1)[0]));
  const kept = (current ?? []).filter((line) => !removed.has(line.split(/\s+/)[1]));
  return [...kept, ...[...flags.list("host"), ...flags.list("host-add")].map(parseHost)];
}

/** As Linux names them: "net_admin" and "CAP_NET_ADMIN" are one. */
function capabilities(current: readonly string[] | undefined, added: readonly string[]): string[] {
  const normal = (name: string): string => {
    const upper = name.toUpperCase();
    return upper === "ALL" || upper.startsWith("CAP_") ? upper : `CAP_${upper}`;
  };
  return [...new Set([...(current ?? []), ...added.map(normal)])].sort();
}

function parseGenericResource(text: string): GenericResource {
  const match = /^([^=]+)=(.+)$/.exec(text);
  if (match === null)
    throw new ClusterError("invalid_argument", `Invalid generic resource "${text}": expected kind=value`);
  const [, kind = "", value = ""] = match;
  return /^\d+$/.test(value)
    ? { DiscreteResourceSpec: { Kind: kind, Value: Number(value) } }
    : { NamedResourceSpec: { Kind: kind, Value: value } };
}

function applyResources(spec: ServiceDraft, flags: Flags): void {
  const limits = given({
    NanoCPUs: cpusFlag(flags, "limit-cpu"),
    MemoryBytes: bytesFlag(flags, "limit-memory"),
    Pids: unsignedFlag(flags, "limit-pids"),
  });
  const template = spec.TaskTemplate;
  const reservations = given({
    NanoCPUs: cpusFlag(flags, "reserve-cpu"),
    MemoryBytes: bytesFlag(flags, "reserve-memory"),
    GenericResources: changeList(
      flags,
      "generic-resource",
      template.Resources?.Reservations?.GenericResources,
      {
        keyOf: (item) => item.DiscreteResourceSpec?.Kind ?? item.NamedResourceSpec?.Kind ?? "",
        parse: (text) => [parseGenericResource(text)],
      },
    ),
  });
  if (!isEmpty(limits))
    template.Resources = { ...template.Resources, Limits: { ...template.Resources?.Limits, ...limits } };
  if (!isEmpty(reservations)) {
    template.Resources = {
      ...template.Resources,
      Reservations: { ...template.Resources?.Reservations, ...(reservations as object) },
    };
  }
}

function applyTemplate(spec: ServiceDraft, flags: Flags): void {
  const template = spec.TaskTemplate;
  applyResources(spec, flags);
  const restart = given({
    Condition: choiceFlag(flags, "restart-condition", ["none", "on-failure", "any"]),
    Delay: durationFlag(flags, "restart-delay"),
    MaxAttempts: unsignedFlag(flags, "restart-max-attempts"),
    Window: durationFlag(flags, "restart-window"),
  });
  if (!isEmpty(restart)) template.RestartPolicy = { ...template.RestartPolicy, ...restart };
  const preferences = changeList(flags, "placement-pref", template.Placement?.Preferences, {
    keyOf: (item) => `spread=${item.Spread?.SpreadDescriptor ?? ""}`,
    parse: (text) => [parsePreference(text)],
  });
  const placement = given({
    Constraints: changeStrings(flags, "constraint", template.Placement?.Constraints),
    Preferences: preferences,
    MaxReplicas: unsignedFlag(flags, "replicas-max-per-node"),
  });
  if (!isEmpty(placement)) template.Placement = { ...template.Placement, ...(placement as object) };
  const options = pairsFlag(flags, "log-opt");
  const driver = flags.string("log-driver");
  if (options !== undefined || driver !== undefined) {
    template.LogDriver = {
      ...template.LogDriver,
      ...(driver === undefined ? {} : { Name: driver }),
      ...(options === undefined ? {} : { Options: options }),
    };
  }
  if (flags.bool("force")) template.ForceUpdate = (template.ForceUpdate ?? 0) + 1;
}

function parsePreference(text: string): { Spread: { SpreadDescriptor: string } } {
  const match = /^spread=(.+)$/.exec(text);
  if (match === null) {
    throw new ClusterError(
      "invalid_argument",
      `Invalid placement preference "${text}": expected spread=node.labels.KEY`,
    );
  }
  return { Spread: { SpreadDescriptor: match[1] ?? "" } };
}

function updateConfigOf(
  flags: Flags,
  prefix: "update" | "rollback",
  current: UpdateConfig | undefined,
): UpdateConfig | undefined {
  const actions =
    prefix === "update" ? (["pause", "continue", "rollback"] as const) : (["pause", "continue"] as const);
  const asked = given({
    Parallelism: unsignedFlag(flags, `${prefix}-parallelism`),
    Delay: durationFlag(flags, `${prefix}-delay`),
    FailureAction: choiceFlag<"pause" | "continue" | "rollback">(flags, `${prefix}-failure-action`, actions),
    Monitor: durationFlag(flags, `${prefix}-monitor`),
    MaxFailureRatio: ratioFlag(flags, `${prefix}-max-failure-ratio`),
    Order: choiceFlag(flags, `${prefix}-order`, ["start-first", "stop-first"]),
  });
  // Parallelism 1 is Docker's default and 0 means "all": a config that is made here must say which.
  return isEmpty(asked) ? undefined : { ...(current ?? { Parallelism: 1 }), ...asked };
}

function applyMode(spec: ServiceDraft, flags: Flags): void {
  const mode = choiceFlag(flags, "mode", ["replicated", "global", "replicated-job", "global-job"]);
  const replicas = unsignedFlag(flags, "replicas");
  const concurrent = unsignedFlag(flags, "max-concurrent");
  if (mode === "global") spec.Mode = { Global: {} };
  else if (mode === "global-job") spec.Mode = { GlobalJob: {} };
  else if (mode === "replicated-job") spec.Mode = { ReplicatedJob: {} };
  else spec.Mode ??= { Replicated: {} };
  const refuse = (flag: string, modes: string): ClusterError =>
    new ClusterError("invalid_argument", `Cannot use --${flag}: the service's mode must be ${modes}`);
  if (replicas !== undefined) {
    if (spec.Mode.Replicated !== undefined) spec.Mode.Replicated = { Replicas: replicas };
    else if (spec.Mode.ReplicatedJob !== undefined) {
      spec.Mode.ReplicatedJob = {
        ...spec.Mode.ReplicatedJob,
        TotalCompletions: replicas,
        MaxConcurrent: concurrent ?? replicas,
      };
    } else throw refuse("replicas", "replicated or replicated-job");
  }
  if (concurrent !== undefined) {
    if (spec.Mode.ReplicatedJob === undefined) throw refuse("max-concurrent", "replicated-job");
    spec.Mode.ReplicatedJob = { ...spec.Mode.ReplicatedJob, MaxConcurrent: concurrent };
  }
}

function portId(port: PortConfig): string {
  return `${port.TargetPort}/${port.Protocol ?? "tcp"}/${port.PublishedPort ?? 0}/${port.PublishMode ?? "ingress"}`;
}

function applyEndpoint(spec: ServiceDraft, flags: Flags): void {
  const mode = choiceFlag(flags, "endpoint-mode", ["vip", "dnsrr"]);
  if (mode !== undefined) spec.EndpointSpec = { ...spec.EndpointSpec, Mode: mode };
  const added = [...flags.list("publish"), ...flags.list("publish-add")].flatMap(parseServicePort);
  const removed = flags.list("publish-rm").flatMap(parseServicePort);
  if (added.length === 0 && removed.length === 0) return;
  const isRemoved = (port: PortConfig): boolean =>
    removed.some(
      (each) => each.TargetPort === port.TargetPort && (each.Protocol ?? "tcp") === (port.Protocol ?? "tcp"),
    );
  const byId = new Map(
    (spec.EndpointSpec?.Ports ?? []).filter((port) => !isRemoved(port)).map((port) => [portId(port), port]),
  );
  for (const port of added) byId.set(portId(port), { ...port });
  spec.EndpointSpec = { ...spec.EndpointSpec, Ports: [...byId.values()] };
}

interface FileReferenceWords {
  readonly source: string;
  readonly file: FileTarget;
}

/** "name" or "source=name,target=/path,uid=0,gid=0,mode=0440". */
function parseFileReference(flag: string, text: string): FileReferenceWords {
  const fields = new Map<string, string>();
  for (const field of splitCsv(flag, text)) {
    const cut = field.indexOf("=");
    if (cut < 0) fields.set("source", field);
    else fields.set(field.slice(0, cut).trim().toLowerCase(), field.slice(cut + 1));
  }
  const unknown = [...fields.keys()].find(
    (key) => !["source", "src", "target", "uid", "gid", "mode"].includes(key),
  );
  if (unknown !== undefined)
    throw new ClusterError("invalid_argument", `Invalid --${flag} "${text}": unknown field "${unknown}"`);
  const source = fields.get("source") ?? fields.get("src") ?? "";
  const mode = fields.get("mode") ?? "0444";
  if (source === "" || !/^[0-7]{1,5}$/.test(mode)) {
    throw new ClusterError(
      "invalid_argument",
      `Invalid --${flag} "${text}": expected source=NAME and an octal mode`,
    );
  }
  const target = fields.get("target") ?? (flag.startsWith("config") ? `/${source}` : source);
  const file = {
    Name: target,
    UID: fields.get("uid") ?? "0",
    GID: fields.get("gid") ?? "0",
    Mode: Number.parseInt(mode, 8),
  };
  return { source, file };
}

async function applyFiles(container: Draft<ContainerSpec>, flags: Flags, lookup: SpecLookup): Promise<void> {
  const words = (name: "secret" | "config"): readonly FileReferenceWords[] =>
    [...flags.list(name), ...flags.list(`${name}-add`)].map((text) => parseFileReference(name, text));
  if (flags.hasAny("secret", "secret-add", "secret-rm")) {
    const removed = new Set(flags.list("secret-rm"));
    const kept: SecretReference[] = (container.Secrets ?? []).filter((each) => !removed.has(each.SecretName));
    for (const { source, file } of words("secret")) {
      kept.push({ SecretID: await lookup.secretId(source), SecretName: source, File: file });
    }
    container.Secrets = kept;
  }
  if (flags.hasAny("config", "config-add", "config-rm")) {
    const removed = new Set(flags.list("config-rm"));
    const kept: ConfigReference[] = (container.Configs ?? []).filter((each) => !removed.has(each.ConfigName));
    for (const { source, file } of words("config")) {
      kept.push({ ConfigID: await lookup.configId(source), ConfigName: source, File: file });
    }
    container.Configs = kept;
  }
}

/** "name" or "name=net,alias=a,driver-opt=k=v". */
async function parseNetwork(text: string, lookup: SpecLookup): Promise<NetworkAttachmentConfig> {
  if (!text.includes("=")) return { Target: await lookup.networkId(text) };
  let target = "";
  const aliases: string[] = [];
  const options: string[] = [];
  for (const field of splitCsv("network", text)) {
    const [, key = "", value = ""] = /^\s*([^=]+)=(.*)$/.exec(field) ?? [];
    if (key === "name") target = value;
    else if (key === "alias") aliases.push(value);
    else if (key === "driver-opt") options.push(value);
    else
      throw new ClusterError(
        "invalid_argument",
        `Invalid --network "${text}": unknown field "${key || field}"`,
      );
  }
  return {
    Target: await lookup.networkId(target),
    ...(aliases.length === 0 ? {} : { Aliases: aliases }),
    ...(options.length === 0 ? {} : { DriverOpts: parsePairs(options) }),
  };
}

async function applyNetworks(spec: ServiceDraft, flags: Flags, lookup: SpecLookup): Promise<void> {
  if (!flags.hasAny("network", "network-add", "network-rm")) return;
  const removed = new Set(await Promise.all(flags.list("network-rm").map((name) => lookup.networkId(name))));
  const current = spec.TaskTemplate.Networks ?? spec.Networks ?? [];
  const byTarget = new Map(
    current.filter((each) => !removed.has(each.Target)).map((each) => [each.Target, each]),
  );
  for (const text of [...flags.list("network"), ...flags.list("network-add")]) {
    const network = await parseNetwork(text, lookup);
    byTarget.set(network.Target, network as Draft<NetworkAttachmentConfig>);
  }
  spec.TaskTemplate.Networks = [...byTarget.values()];
  delete spec.Networks;
}

/** Changes `spec` in place as the flags say. */
async function applyAll(
  spec: ServiceDraft,
  flags: Flags,
  options: { readonly lookup: SpecLookup; readonly env: Env },
): Promise<void> {
  if (flags.has("credential-spec")) {
    throw new ClusterError(
      "invalid_argument",
      "Cannot use --credential-spec: it is for Windows containers only",
    );
  }
  applyContainer(spec.TaskTemplate.ContainerSpec, flags, options.env);
  applyTemplate(spec, flags);
  applyMode(spec, flags);
  applyEndpoint(spec, flags);
  const labels = changeMap(flags, "label", spec.Labels);
  if (labels !== undefined) spec.Labels = labels;
  const update = updateConfigOf(flags, "update", spec.UpdateConfig);
  if (update !== undefined) spec.UpdateConfig = update;
  const rollback = updateConfigOf(flags, "rollback", spec.RollbackConfig);
  if (rollback !== undefined) spec.RollbackConfig = rollback;
  await applyFiles(spec.TaskTemplate.ContainerSpec, flags, options.lookup);
  await applyNetworks(spec, flags, options.lookup);
}

/** `args`: IMAGE [COMMAND [ARG…]]. Without --name the daemon makes one up. */
export async function createServiceSpec(
  args: readonly string[],
  flags: Flags,
  options: { readonly lookup: SpecLookup; readonly env: Env },
): Promise<ServiceSpec> {
  const [image = "", ...command] = args;
  const container: Draft<ContainerSpec> = { Image: image };
  if (command.length > 0) container.Args = command;
  const spec: ServiceDraft = { Name: flags.string("name") ?? "", TaskTemplate: { ContainerSpec: container } };
  await applyAll(spec, flags, options);
  return spec;
}

/** The spec to send for an update; `current` is left alone. */
export async function updateServiceSpec(
  current: ServiceSpec,
  flags: Flags,
  options: { readonly lookup: SpecLookup; readonly env: Env },
): Promise<ServiceSpec> {
  const spec = structuredClone(current) as ServiceDraft;
  await applyAll(spec, flags, options);
  return spec;
}
