/**
 * The field names of Docker's request bodies with the kind of value each takes. Go matches names without regard to case
 * and SDK users rely on it, so bodies are rewritten to the names of the model here; a value of the wrong kind is a 400
 * that names the field. Fields that are not listed are kept as they came. Pure; body.ts calls it.
 */
import { ClusterError } from "../common/errors.ts";
import { isObject } from "../common/json.ts";
import type { Json, JsonObject } from "../model/engine.ts";
import { JSON_DEPTH_MAX } from "./limits.ts";

/**
 * s string, n whole number, f number, b boolean, S list of strings, L string or list of strings (read as a list), m map of strings,
 * o object, t string or object, a list of objects, x map of objects under free keys, k map whose values are left alone, ? anything.
 */
type Kind = "s" | "n" | "f" | "b" | "S" | "L" | "m" | "o" | "t" | "a" | "x" | "k" | "?";

interface Field {
  readonly name: string;
  readonly kind: Kind;
}
export type Vocabulary = ReadonlyMap<string, Field>;

const KIND_WORDS: Readonly<Record<Kind, string>> = {
  s: "a string",
  n: "a whole number of at most 63 bits",
  f: "a number",
  b: "a boolean",
  S: "a list of strings",
  L: "a string or a list of strings",
  m: "a map of strings",
  o: "an object",
  t: "a string or an object",
  a: "a list of objects",
  x: "a map of objects",
  k: "a map",
  "?": "anything",
};

/** "Name:s Labels:m …" as a vocabulary. */
function vocabulary(text: string): Vocabulary {
  const fields = new Map<string, Field>();
  for (const entry of text.trim().split(/\s+/)) {
    const [name = "", kind = "?"] = entry.split(":");
    fields.set(name.toLowerCase(), { name, kind: kind as Kind });
  }
  return fields;
}

/** Container create, exec, commit, update, network connect and volume create. */
export const ENGINE_FIELDS: Vocabulary = vocabulary(`
  Hostname:s Domainname:s User:s AttachStdin:b AttachStdout:b AttachStderr:b ExposedPorts:k Tty:b OpenStdin:b
  StdinOnce:b Env:S Cmd:L Healthcheck:o ArgsEscaped:b Image:s Volumes:k WorkingDir:s Entrypoint:L NetworkDisabled:b
  MacAddress:s OnBuild:S Labels:m StopSignal:s StopTimeout:n Shell:L Test:S Interval:n Timeout:n StartPeriod:n
  StartInterval:n Retries:n HostConfig:o NetworkingConfig:o EndpointsConfig:x Binds:S ContainerIDFile:s LogConfig:o
  Type:s Config:? NetworkMode:s PortBindings:k RestartPolicy:o Name:s MaximumRetryCount:n AutoRemove:b VolumeDriver:s
  VolumesFrom:S ConsoleSize:? Annotations:m CapAdd:L CapDrop:L CgroupnsMode:s Dns:S DnsOptions:S DnsSearch:S ExtraHosts:S
  GroupAdd:S IpcMode:s Cgroup:s Links:S OomScoreAdj:n PidMode:s Privileged:b PublishAllPorts:b ReadonlyRootfs:b
  SecurityOpt:S StorageOpt:m Tmpfs:m UTSMode:s UsernsMode:s ShmSize:n Sysctls:m Runtime:s Isolation:s CpuShares:n
  Memory:n NanoCpus:n CgroupParent:s BlkioWeight:n BlkioWeightDevice:a BlkioDeviceReadBps:a BlkioDeviceWriteBps:a
  BlkioDeviceReadIOps:a BlkioDeviceWriteIOps:a Path:s Weight:n Rate:n CpuPeriod:n CpuQuota:n CpuRealtimePeriod:n
  CpuRealtimeRuntime:n CpusetCpus:s CpusetMems:s Devices:a PathOnHost:s PathInContainer:s CgroupPermissions:s
  DeviceCgroupRules:S DeviceRequests:a Driver:s Count:n DeviceIDs:S Capabilities:? Options:? KernelMemory:n
  MemoryReservation:n MemorySwap:n MemorySwappiness:n OomKillDisable:b Init:b PidsLimit:n Ulimits:a Soft:n Hard:n
  CpuCount:n CpuPercent:n IOMaximumIOps:n IOMaximumBandwidth:n Mounts:a Source:s Target:s ReadOnly:b Consistency:s
  BindOptions:o Propagation:s NonRecursive:b CreateMountpoint:b ReadOnlyNonRecursive:b ReadOnlyForceRecursive:b
  VolumeOptions:o NoCopy:b Subpath:s DriverConfig:o ImageOptions:o TmpfsOptions:o SizeBytes:n Mode:? MaskedPaths:S ReadonlyPaths:S
  IPAMConfig:o IPv4Address:s IPv6Address:s LinkLocalIPs:S Aliases:S DriverOpts:m GwPriority:n NetworkID:s EndpointID:s
  Gateway:s IPAddress:s IPPrefixLen:n DNSNames:S Container:s EndpointConfig:o Force:b Detach:b DetachKeys:s
  ClusterVolumeSpec:o`);

/** Networks: create. */
export const NETWORK_FIELDS: Vocabulary = vocabulary(`
  Name:s Driver:s Scope:s CheckDuplicate:b IPAM:o Config:a Subnet:s IPRange:s Gateway:s AuxiliaryAddresses:m AuxAddress:m
  Options:m Internal:b Attachable:b Ingress:b ConfigOnly:b ConfigFrom:o Network:s Labels:m EnableIPv6:b EnableIPv4:b`);

/** Specs of services, nodes, secrets, configs and the cluster, and the swarm requests. */
export const SWARM_FIELDS: Vocabulary = vocabulary(`
  Name:s Labels:m TaskTemplate:o Mode:? UpdateConfig:o RollbackConfig:o Networks:a EndpointSpec:o ContainerSpec:o
  Resources:o RestartPolicy:o Placement:o LogDriver:o ForceUpdate:n Runtime:? Image:s Command:S Args:S Hostname:s Env:S
  Dir:s User:s Groups:S TTY:b OpenStdin:b ReadOnly:b Mounts:a StopSignal:s StopGracePeriod:n Healthcheck:o Test:S
  Interval:n Timeout:n StartPeriod:n StartInterval:n Retries:n Hosts:S DNSConfig:o Nameservers:S Search:S Secrets:a
  SecretID:s SecretName:s Configs:a ConfigID:s ConfigName:s File:t UID:s GID:s Isolation:s Init:b Sysctls:m
  CapabilityAdd:S CapabilityDrop:S Ulimits:a Soft:n Hard:n OomScoreAdj:n Privileges:o CredentialSpec:o SELinuxContext:o
  Seccomp:o Profile:s AppArmor:o NoNewPrivileges:b Type:s Source:s Target:s Consistency:s BindOptions:o Propagation:s
  NonRecursive:b CreateMountpoint:b ReadOnlyNonRecursive:b ReadOnlyForceRecursive:b VolumeOptions:o NoCopy:b Subpath:s
  DriverConfig:o ImageOptions:o TmpfsOptions:o SizeBytes:n Limits:o Reservations:o NanoCPUs:n MemoryBytes:n Pids:n GenericResources:a
  NamedResourceSpec:o DiscreteResourceSpec:o Kind:s Value:? Condition:s Delay:n MaxAttempts:n Window:n Constraints:S
  Preferences:a Spread:o SpreadDescriptor:s MaxReplicas:n Platforms:a Architecture:s OS:s Aliases:S DriverOpts:m
  Parallelism:n FailureAction:s Monitor:n MaxFailureRatio:f Order:s Replicated:o Replicas:n Global:o ReplicatedJob:o
  MaxConcurrent:n TotalCompletions:n GlobalJob:o Ports:a Protocol:s TargetPort:n PublishedPort:n PublishMode:s Role:s
  Availability:s Data:s Driver:? Templating:o Options:? Orchestration:o TaskHistoryRetentionLimit:n Raft:o
  SnapshotInterval:n KeepOldSnapshots:n LogEntriesForSlowFollowers:n ElectionTick:n HeartbeatTick:n Dispatcher:o
  HeartbeatPeriod:n CAConfig:o NodeCertExpiry:n ExternalCAs:a SigningCACert:s SigningCAKey:s ForceRotate:n TaskDefaults:o
  EncryptionConfig:o AutoLockManagers:b ListenAddr:s AdvertiseAddr:s DataPathAddr:s DataPathPort:n ForceNewCluster:b
  Spec:o DefaultAddrPool:S SubnetSize:n RemoteAddrs:S JoinToken:s UnlockKey:s`);

/** A body of which no field is known: /auth. */
export const NO_FIELDS: Vocabulary = new Map();

function isStringList(value: unknown): boolean {
  return Array.isArray(value) && value.every((each) => typeof each === "string");
}

function isOfKind(value: unknown, kind: Kind): boolean {
  switch (kind) {
    case "s":
      return typeof value === "string";
    case "n":
      // What Go's int64 doesn't hold would make the object unreadable for every client.
      return Number.isInteger(value) && Math.abs(value as number) < 2 ** 63;
    case "f":
      return typeof value === "number";
    case "b":
      return typeof value === "boolean";
    case "S":
      return isStringList(value);
    case "L":
      return typeof value === "string" || isStringList(value);
    case "m":
      return (
        isObject(value) && Object.values(value).every((each) => typeof each === "string" || each === null)
      );
    case "o":
      return isObject(value);
    case "t":
      return typeof value === "string" || isObject(value);
    case "a":
      return Array.isArray(value) && value.every((each) => isObject(each) || each === null);
    case "x":
    case "k":
      return isObject(value);
    case "?":
      return true;
  }
}

function wrongKind(path: string, kind: Kind, value: unknown): ClusterError {
  const got = JSON.stringify(value);
  const short = got.length > 80 ? `${got.slice(0, 80)}…` : got;
  return new ClusterError(
    "invalid_argument",
    `invalid JSON: ${path} must be ${KIND_WORDS[kind]}, got ${short}`,
  );
}

function tooDeep(): ClusterError {
  return new ClusterError("invalid_argument", `invalid JSON: nested deeper than ${JSON_DEPTH_MAX} levels`);
}

/** JSON.parse makes "__proto__" an own key, but assigning it would replace the prototype. */
function put(into: Record<string, unknown>, key: string, value: unknown): void {
  if (key !== "__proto__") into[key] = value;
}

function rewriteList(list: readonly unknown[], words: Vocabulary, path: string, depth: number): unknown[] {
  if (depth > JSON_DEPTH_MAX) throw tooDeep();
  return list.map((each, index) => {
    if (Array.isArray(each)) return rewriteList(each, words, `${path}[${index}]`, depth + 1);
    return isObject(each) ? rewriteObject(each, words, `${path}[${index}]`, depth + 1) : each;
  });
}

function rewriteMap(
  map: Readonly<Record<string, unknown>>,
  words: Vocabulary,
  path: string,
  depth: number,
): Record<string, unknown> {
  const result: Record<string, unknown> = {};
  for (const [key, value] of Object.entries(map)) {
    if (value !== null && !isObject(value)) throw wrongKind(`${path}.${key}`, "o", value);
    put(result, key, value === null ? {} : rewriteObject(value, words, `${path}.${key}`, depth + 1));
  }
  return result;
}

function rewriteValue(
  value: unknown,
  field: Field,
  words: Vocabulary,
  place: { readonly path: string; readonly depth: number },
): unknown {
  const { path, depth } = place;
  if (!isOfKind(value, field.kind)) throw wrongKind(path, field.kind, value);
  switch (field.kind) {
    case "s":
    case "n":
    case "f":
    case "b":
    case "S":
    case "k":
      return value;
    case "m":
      return Object.fromEntries(Object.entries(value as object).map(([key, each]) => [key, each ?? ""]));
    case "L":
      return typeof value === "string" ? [value] : value;
    case "x":
      return rewriteMap(value as Record<string, unknown>, words, path, depth);
    case "o":
      return rewriteObject(value as Record<string, unknown>, words, path, depth + 1);
    case "t":
      return isObject(value) ? rewriteObject(value, words, path, depth + 1) : value;
    case "a":
      return rewriteList(value as readonly unknown[], words, path, depth + 1).filter((each) => each !== null);
    case "?":
      // Where a field is a list of objects in one place and a free map in another, only lists are rewritten,
      // but for service modes, whose names are fields.
      if (Array.isArray(value)) return rewriteList(value, words, path, depth + 1);
      return field.name === "Mode" && isObject(value) ? rewriteObject(value, words, path, depth + 1) : value;
  }
}

function rewriteObject(
  object: Readonly<Record<string, unknown>>,
  words: Vocabulary,
  path: string,
  depth: number,
): Record<string, unknown> {
  if (depth > JSON_DEPTH_MAX) throw tooDeep();
  const result: Record<string, unknown> = {};
  for (const [key, value] of Object.entries(object)) {
    const field = words.get(key.toLowerCase());
    const name = field?.name ?? key;
    // Null is Go's way to say that a field is not set.
    if (value === null) continue;
    const at = path === "" ? name : `${path}.${name}`;
    put(result, name, field === undefined ? value : rewriteValue(value, field, words, { path: at, depth }));
  }
  return result;
}

/** The body with the model's field names, without nulls. Throws invalid_argument naming the field. */
export function canonical(body: JsonObject, words: Vocabulary): JsonObject {
  return rewriteObject(body, words, "", 0) as Record<string, Json>;
}
