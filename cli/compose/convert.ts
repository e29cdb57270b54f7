/**
 * Turns a stack into what the API takes: specs of networks, secrets, configs and services with docker's names and labels.
 * Pure but for the contents of files, which the caller reads. Ids of secrets and configs come from `lookup`.
 */
import { ClusterError } from "../../common/errors.ts";
import type {
  ConfigReference,
  ContainerSpec,
  HealthConfig,
  Mount,
  NetworkAttachmentConfig,
  NetworkSpec,
  Resources,
  SecretReference,
  ServiceMode,
  ServiceSpec,
  TaskSpec,
  Ulimit,
  UpdateConfig,
} from "../../model/specs.ts";
import { parseBytes, parseDuration, parseNanoCpus } from "../../model/units.ts";
import type {
  ComposeDeploy,
  ComposeFileReference,
  ComposeHealthcheck,
  ComposeNetwork,
  ComposeResources,
  ComposeService,
  ComposeStack,
  ComposeUpdateConfig,
  ComposeVolume,
  ComposeVolumeMount,
} from "./types.ts";

export const NAMESPACE_LABEL = "com.docker.stack.namespace";
export const IMAGE_LABEL = "com.docker.stack.image";

/** Ids by full name. */
export interface IdLookup {
  readonly secretIds: ReadonlyMap<string, string>;
  readonly configIds: ReadonlyMap<string, string>;
}

interface Named {
  readonly name?: string;
}

/** `name:` literally, else STACK_key. */
export function objectName(stackName: string, key: string, definition: Named | undefined): string {
  return definition?.name ?? `${stackName}_${key}`;
}

/** Drops undefined fields. */
function defined<T extends object>(fields: T): { [Key in keyof T]?: Exclude<T[Key], undefined> } {
  return Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined)) as {
    [Key in keyof T]?: Exclude<T[Key], undefined>;
  };
}

const duration = (text: string | undefined): number | undefined =>
  text === undefined ? undefined : parseDuration(text);

export function networkSpec(stackName: string, key: string, network: ComposeNetwork): NetworkSpec {
  const ipam = network.ipam;
  return {
    Name: objectName(stackName, key, network),
    Labels: { ...network.labels, [NAMESPACE_LABEL]: stackName },
    Driver: network.driver ?? "overlay",
    ...defined({
      Options: network.driver_opts,
      Internal: network.internal,
      Attachable: network.attachable,
      EnableIPv6: network.enable_ipv6,
    }),
    ...(ipam === undefined
      ? {}
      : {
          IPAM: {
            ...defined({ Driver: ipam.driver, Options: ipam.options }),
            Config: (ipam.config ?? []).map((each) =>
              defined({
                Subnet: each.subnet,
                Gateway: each.gateway,
                IPRange: each.ip_range,
                AuxiliaryAddresses: each.aux_addresses,
              }),
            ),
          },
        }),
  };
}

/** Keys of the networks that services use; a service that names none uses "default". */
export function usedNetworks(stack: ComposeStack): string[] {
  const used = new Set<string>();
  for (const service of Object.values(stack.services)) {
    const names = Object.keys(service.networks ?? {});
    for (const name of names.length === 0 ? ["default"] : names) used.add(name);
  }
  return [...used].sort();
}

function attachments(stackName: string, name: string, stack: ComposeStack): NetworkAttachmentConfig[] {
  const own = stack.services[name]?.networks ?? {};
  const keys = Object.keys(own).length === 0 ? ["default"] : Object.keys(own).sort();
  return keys.map((key) => {
    const options = own[key];
    return {
      Target: objectName(stackName, key, stack.networks[key]),
      Aliases: [name, ...(options?.aliases ?? [])],
      ...(options?.driver_opts === undefined ? {} : { DriverOpts: options.driver_opts }),
    };
  });
}

function volumeMount(
  stackName: string,
  mount: ComposeVolumeMount,
  volumes: Readonly<Record<string, ComposeVolume>>,
): Mount {
  const type = mount.type ?? "volume";
  const base = {
    Type: type,
    Target: mount.target,
    ...defined({ ReadOnly: mount.read_only, Consistency: mount.consistency }),
  };
  if (type === "tmpfs") {
    const options = defined({ SizeBytes: mount.tmpfs?.size, Mode: mount.tmpfs?.mode });
    return { ...base, ...(Object.keys(options).length === 0 ? {} : { TmpfsOptions: options }) };
  }
  if (type !== "volume") {
    const propagation = mount.bind?.propagation;
    const subpath = mount.image?.subpath;
    return {
      ...base,
      ...(subpath === undefined ? {} : { ImageOptions: { Subpath: subpath } }),
      ...(mount.source === undefined ? {} : { Source: mount.source }),
      ...(propagation === undefined ? {} : { BindOptions: { Propagation: propagation } }),
    };
  }
  if ((mount.source ?? "") === "") return base;
  const key = mount.source ?? "";
  const volume = volumes[key];
  const options = defined({ NoCopy: mount.volume?.nocopy, Subpath: mount.volume?.subpath });
  if (volume?.external === true)
    return {
      ...base,
      Source: volume.name ?? key,
      ...(Object.keys(options).length === 0 ? {} : { VolumeOptions: options }),
    };
  const driver = defined({ Name: volume?.driver, Options: volume?.driver_opts });
  return {
    ...base,
    Source: objectName(stackName, key, volume),
    VolumeOptions: {
      ...options,
      Labels: { ...volume?.labels, [NAMESPACE_LABEL]: stackName },
      ...(Object.keys(driver).length === 0 ? {} : { DriverConfig: driver }),
    },
  };
}

/** A line of `tmpfs:`: "/run:size=64m,mode=1777". */
function tmpfsMount(line: string): Mount {
  const [target = "", options = ""] = line.split(":", 2);
  const fields = new Map(
    options
      .split(",")
      .filter((each) => each !== "")
      .map((each) => [each.split("=", 1)[0] ?? "", each.slice(each.indexOf("=") + 1)]),
  );
  const size = fields.get("size");
  const mode = fields.get("mode");
  const tmpfs = defined({
    SizeBytes: size === undefined ? undefined : parseBytes(size),
    Mode: mode === undefined ? undefined : Number.parseInt(mode, 8),
  });
  return {
    Type: "tmpfs",
    Target: target,
    ...(Object.keys(tmpfs).length === 0 ? {} : { TmpfsOptions: tmpfs }),
  };
}

function fileTarget(
  reference: ComposeFileReference,
  fallback: string,
): { Name: string; UID: string; GID: string; Mode: number } {
  return {
    Name: reference.target ?? fallback,
    UID: reference.uid ?? "0",
    GID: reference.gid ?? "0",
    Mode: reference.mode ?? 0o444,
  };
}

function idOf(ids: ReadonlyMap<string, string>, kind: string, name: string): string {
  const id = ids.get(name);
  if (id === undefined) throw new ClusterError("not_found", `${kind} not found: ${name}`);
  return id;
}

function healthOf(check: ComposeHealthcheck | undefined): HealthConfig | undefined {
  if (check === undefined) return undefined;
  if (check.disable === true) {
    if ((check.test?.length ?? 0) > 0)
      throw new ClusterError("invalid_argument", "A healthcheck cannot have both test and disable: true");
    return { Test: ["NONE"] };
  }
  return defined({
    Test: check.test,
    Interval: duration(check.interval),
    Timeout: duration(check.timeout),
    StartPeriod: duration(check.start_period),
    StartInterval: duration(check.start_interval),
    Retries: check.retries,
  });
}

function ulimitsOf(ulimits: ComposeService["ulimits"]): Ulimit[] | undefined {
  if (ulimits === undefined) return undefined;
  return Object.keys(ulimits)
    .sort()
    .map((name) => {
      const limit = ulimits[name] ?? 0;
      const soft = typeof limit === "number" ? limit : (limit.soft ?? limit.hard ?? 0);
      return { Name: name, Soft: soft, Hard: typeof limit === "number" ? limit : (limit.hard ?? soft) };
    });
}

/** "name:ip" to "ip name"; addresses may hold colons. */
function hostLines(hosts: readonly string[] | undefined): string[] | undefined {
  return hosts?.map((line) => {
    const cut = line.search(/[:=]/);
    if (cut < 0) throw new ClusterError("invalid_argument", `Invalid extra host "${line}": expected name:ip`);
    return `${line.slice(cut + 1)} ${line.slice(0, cut)}`;
  });
}

function environmentOf(environment: ComposeService["environment"]): string[] | undefined {
  if (environment === undefined) return undefined;
  return Object.entries(environment)
    .filter((entry): entry is [string, string] => entry[1] !== null)
    .map(([name, value]) => `${name}=${value}`)
    .sort();
}

function containerSpec(
  stackName: string,
  name: string,
  options: { readonly stack: ComposeStack; readonly lookup: IdLookup },
): ContainerSpec {
  const { stack, lookup } = options;
  const service = stack.services[name] ?? {};
  const secrets: SecretReference[] = (service.secrets ?? []).map((each) => {
    const full = objectName(stackName, each.source, stack.secrets[each.source]);
    return {
      SecretID: idOf(lookup.secretIds, "secret", full),
      SecretName: full,
      File: fileTarget(each, each.source),
    };
  });
  const configs: ConfigReference[] = (service.configs ?? []).map((each) => {
    const full = objectName(stackName, each.source, stack.configs[each.source]);
    return {
      ConfigID: idOf(lookup.configIds, "config", full),
      ConfigName: full,
      File: fileTarget(each, `/${each.source}`),
    };
  });
  const mounts = [
    ...(service.volumes ?? []).map((mount) => volumeMount(stackName, mount, stack.volumes)),
    ...(service.tmpfs ?? []).map(tmpfsMount),
  ];
  const dns = defined({ Nameservers: service.dns, Search: service.dns_search, Options: service.dns_opt });
  return {
    Image: service.image ?? "",
    Labels: { ...service.labels, [NAMESPACE_LABEL]: stackName },
    ...defined({
      Command: service.entrypoint,
      Args: service.command,
      Hostname: service.hostname,
      Env: environmentOf(service.environment),
      Dir: service.working_dir,
      User: service.user,
      Groups: service.group_add,
      TTY: service.tty,
      OpenStdin: service.stdin_open,
      ReadOnly: service.read_only,
      Init: service.init,
      StopSignal: service.stop_signal,
      StopGracePeriod: duration(service.stop_grace_period),
      Healthcheck: healthOf(service.healthcheck),
      Hosts: hostLines(service.extra_hosts),
      Sysctls: service.sysctls,
      CapabilityAdd: service.cap_add,
      CapabilityDrop: service.cap_drop,
      Ulimits: ulimitsOf(service.ulimits),
      OomScoreAdj: service.oom_score_adj,
      Isolation: service.isolation,
    }),
    ...(mounts.length === 0 ? {} : { Mounts: mounts }),
    ...(Object.keys(dns).length === 0 ? {} : { DNSConfig: dns }),
    ...(secrets.length === 0 ? {} : { Secrets: secrets }),
    ...(configs.length === 0 ? {} : { Configs: configs }),
  };
}

function resourcesOf(resources: ComposeResources | undefined): Resources | undefined {
  if (resources === undefined) return undefined;
  return defined({
    NanoCPUs: resources.cpus === undefined ? undefined : parseNanoCpus(resources.cpus),
    MemoryBytes: resources.memory === undefined ? undefined : parseBytes(resources.memory),
    Pids: resources.pids,
    GenericResources: resources.generic_resources?.map((each) => ({
      DiscreteResourceSpec: {
        Kind: each.discrete_resource_spec?.kind ?? "",
        Value: each.discrete_resource_spec?.value ?? 0,
      },
    })),
  });
}

function updateConfigOf(config: ComposeUpdateConfig | undefined): UpdateConfig | undefined {
  if (config === undefined) return undefined;
  return {
    // As with docker: one task at a time unless said, and 0 is "all".
    Parallelism: config.parallelism ?? 1,
    ...defined({
      Delay: duration(config.delay),
      FailureAction: config.failure_action,
      Monitor: duration(config.monitor),
      MaxFailureRatio: config.max_failure_ratio,
      Order: config.order,
    }),
  };
}

function modeOf(deploy: ComposeDeploy | undefined): ServiceMode {
  const replicas = deploy?.replicas;
  switch (deploy?.mode) {
    case "global":
    case "global-job":
      if (replicas !== undefined)
        throw new ClusterError(
          "invalid_argument",
          "deploy.replicas can be used with the modes replicated and replicated-job only",
        );
      return deploy.mode === "global" ? { Global: {} } : { GlobalJob: {} };
    case "replicated-job":
      return { ReplicatedJob: defined({ MaxConcurrent: replicas, TotalCompletions: replicas }) };
    case "replicated":
    case undefined:
      return { Replicated: replicas === undefined ? {} : { Replicas: replicas } };
  }
}

function taskTemplate(
  container: ContainerSpec,
  service: ComposeService,
  networks: readonly NetworkAttachmentConfig[],
): TaskSpec {
  const { deploy, logging } = service;
  const limits = resourcesOf(deploy?.resources?.limits);
  const reservations = resourcesOf(deploy?.resources?.reservations);
  const restart = deploy?.restart_policy;
  const placement = deploy?.placement;
  return {
    ContainerSpec: container,
    Networks: networks,
    ...(limits === undefined && reservations === undefined
      ? {}
      : { Resources: defined({ Limits: limits, Reservations: reservations }) }),
    ...(restart === undefined
      ? {}
      : {
          RestartPolicy: defined({
            Condition: restart.condition,
            Delay: duration(restart.delay),
            MaxAttempts: restart.max_attempts,
            Window: duration(restart.window),
          }),
        }),
    ...(placement === undefined
      ? {}
      : {
          Placement: defined({
            Constraints: placement.constraints,
            Preferences: placement.preferences?.map((each) => ({
              Spread: { SpreadDescriptor: each.spread ?? "" },
            })),
            MaxReplicas: placement.max_replicas_per_node,
          }),
        }),
    ...(logging === undefined
      ? {}
      : { LogDriver: defined({ Name: logging.driver, Options: logging.options }) }),
  };
}

/** The spec of one service, as `stack deploy` sends it. Throws invalid_argument with the service's name. */
export function serviceSpec(
  stackName: string,
  name: string,
  options: { readonly stack: ComposeStack; readonly lookup: IdLookup },
): ServiceSpec {
  const service = options.stack.services[name] ?? {};
  try {
    const container = containerSpec(stackName, name, options);
    const ports = (service.ports ?? []).map((port) => ({
      ...(port.name === undefined ? {} : { Name: port.name }),
      Protocol: port.protocol ?? ("tcp" as const),
      TargetPort: port.target,
      ...(port.published === undefined ? {} : { PublishedPort: port.published }),
      PublishMode: port.mode ?? ("ingress" as const),
    }));
    const endpoint = defined({
      Mode: service.deploy?.endpoint_mode,
      Ports: ports.length === 0 ? undefined : ports,
    });
    return {
      Name: `${stackName}_${name}`,
      Labels: { ...service.deploy?.labels, [NAMESPACE_LABEL]: stackName, [IMAGE_LABEL]: service.image ?? "" },
      TaskTemplate: taskTemplate(container, service, attachments(stackName, name, options.stack)),
      Mode: modeOf(service.deploy),
      EndpointSpec: endpoint,
      ...defined({
        UpdateConfig: updateConfigOf(service.deploy?.update_config),
        RollbackConfig: updateConfigOf(service.deploy?.rollback_config),
      }),
    };
  } catch (caught) {
    const error = ClusterError.from(caught);
    throw new ClusterError(error.code, `service ${name}: ${error.message}`, { cause: caught });
  }
}
