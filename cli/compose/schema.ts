/**
 * The Compose format as `stack deploy` takes it: which keys there are, what they hold, which are accepted but without effect,
 * and which are refused. Everything is brought to docker's canonical form on the way. Data and small readers; no I/O.
 */
import path from "node:path";
import { ClusterError } from "../../common/errors.ts";
import { parseShortVolume } from "../mounts.ts";
import { parseShortPort } from "../ports.ts";
import type { Fields, Reader, Value } from "./readers.ts";
import {
  bool,
  bytes,
  choice,
  command,
  decimal,
  duration,
  environment,
  fields,
  fileMode,
  flatListOf,
  integer,
  labels,
  listOf,
  mapOf,
  mapping,
  raw,
  ratio,
  string,
  stringOrList,
  text,
  wrong,
} from "./readers.ts";

const PORT_MAX = 65535;
const UNSUPPORTED = "services of a cluster have no such setting";
const ignored = (why: string, read: Reader = raw): { read: Reader; ignored: string } => ({
  read,
  ignored: why,
});
const refused = (why: string): { read: Reader; refused: string } => ({ read: raw, refused: why });

/** Runs `parse`, and notes what it throws at the node's place. */
function parsed(parse: (text: string) => Value): Reader {
  return (node, context) => {
    const source = text(node, context);
    if (typeof source !== "string") return undefined;
    try {
      return parse(source);
    } catch (caught) {
      context.problems.error(node.at, `${context.path}: ${ClusterError.from(caught).message}`);
      return undefined;
    }
  };
}

/** The reader for scalars or the one for mappings, by what is there. */
function shortOrLong(short: Reader, long: Reader): Reader {
  return (node, context) => (node.kind === "map" ? long(node, context) : short(node, context));
}

const shortPort = parsed((source) =>
  parseShortPort(source).map((port) => {
    if (port.hostIp !== "")
      throw new ClusterError(
        "invalid_argument",
        `"${source}": a service port cannot be bound to one address`,
      );
    return {
      mode: "ingress",
      target: port.target,
      ...(port.published === undefined ? {} : { published: port.published }),
      protocol: port.protocol,
    };
  }),
);

const ports = flatListOf(
  shortOrLong(
    shortPort,
    fields({
      mode: choice("ingress", "host"),
      target: integer(1, PORT_MAX),
      published: integer(0, PORT_MAX),
      protocol: choice("tcp", "udp", "sctp"),
      name: string,
      host_ip: refused("a service port cannot be bound to one address"),
      app_protocol: ignored("it is a hint for other tools"),
    }),
  ),
);

/** Bind sources are made absolute; "~" is the home folder. */
function hostPath(source: string, folder: string): string {
  if (source === "~" || source.startsWith("~/"))
    return path.join(process.env["HOME"] ?? "/", source.slice(1));
  return path.resolve(folder, source);
}

const shortVolume: Reader = (node, context) =>
  parsed((source) => {
    const volume = parseShortVolume(source);
    return {
      type: volume.isBind ? "bind" : "volume",
      ...(volume.source === ""
        ? {}
        : { source: volume.isBind ? hostPath(volume.source, context.folder) : volume.source }),
      target: volume.target,
      ...(volume.isReadOnly ? { read_only: true } : {}),
      ...(volume.propagation === undefined ? {} : { bind: { propagation: volume.propagation } }),
      ...(volume.isNoCopy ? { volume: { nocopy: true } } : {}),
    };
  })(node, context);

const longVolume: Reader = (node, context) => {
  const volume = fields({
    type: choice("bind", "volume", "tmpfs", "cluster", "npipe", "image"),
    source: string,
    target: string,
    read_only: bool,
    consistency: string,
    bind: fields({
      propagation: string,
      create_host_path: ignored("bind sources must exist"),
      selinux: ignored("there is no SELinux support"),
    }),
    volume: fields({ nocopy: bool, subpath: string }),
    image: fields({ subpath: string }),
    tmpfs: fields({ size: bytes(false), mode: fileMode }),
    cluster: raw,
  })(node, context) as Record<string, Value> | undefined;
  if (volume === undefined) return undefined;
  if (volume["target"] === undefined) return wrong(node, context, 'a mapping with "target"');
  if (volume["type"] === "bind" && typeof volume["source"] === "string") {
    return { ...volume, source: hostPath(volume["source"], context.folder) };
  }
  return volume;
};

const fileReference = shortOrLong(
  (node, context) => {
    const source = text(node, context);
    return source === undefined ? undefined : { source };
  },
  fields({ source: string, target: string, uid: text, gid: text, mode: fileMode }),
);

const serviceNetworks: Reader = (node, context) => {
  if (node.kind === "list") {
    const names = listOf(string)(node, context) as readonly string[] | undefined;
    return names === undefined ? undefined : Object.fromEntries(names.map((name) => [name, null]));
  }
  return mapOf((inner, at) =>
    inner.kind === "scalar" && inner.value === null
      ? null
      : fields({
          aliases: listOf(string),
          driver_opts: labels,
          ipv4_address: ignored("addresses of tasks are chosen by the cluster"),
          ipv6_address: ignored("addresses of tasks are chosen by the cluster"),
          priority: ignored(UNSUPPORTED),
        })(inner, at),
  )(node, context);
};

const healthTest: Reader = (node, context) => {
  if (node.kind === "scalar" && typeof node.value === "string") return ["CMD-SHELL", node.value];
  const words = listOf(text)(node, context) as readonly string[] | undefined;
  if (words !== undefined && words.length > 0 && !["NONE", "CMD", "CMD-SHELL"].includes(words[0] ?? "")) {
    return wrong(node, context, 'a list that starts with "CMD", "CMD-SHELL" or "NONE"');
  }
  return words;
};

const resources = {
  cpus: decimal,
  memory: bytes(true),
} satisfies Fields;

const updateConfig = fields({
  parallelism: integer(0),
  delay: duration,
  failure_action: choice("continue", "pause", "rollback"),
  monitor: duration,
  max_failure_ratio: ratio,
  order: choice("start-first", "stop-first"),
});

const deploy = fields({
  mode: choice("replicated", "global", "replicated-job", "global-job"),
  replicas: integer(0),
  labels,
  update_config: updateConfig,
  rollback_config: updateConfig,
  resources: fields({
    limits: fields({ ...resources, pids: integer(0) }),
    reservations: fields({
      ...resources,
      generic_resources: listOf(
        fields({ discrete_resource_spec: fields({ kind: string, value: integer() }) }),
      ),
      devices: ignored("devices are not offered to services"),
    }),
  }),
  restart_policy: fields({
    condition: choice("none", "on-failure", "any"),
    delay: duration,
    max_attempts: integer(0),
    window: duration,
  }),
  placement: fields({
    constraints: listOf(string),
    preferences: listOf(fields({ spread: string })),
    max_replicas_per_node: integer(0),
  }),
  endpoint_mode: choice("vip", "dnsrr"),
});

const ulimits = mapOf(shortOrLong(integer(), fields({ soft: integer(), hard: integer() })));

const extraHosts: Reader = (node, context) => {
  if (node.kind !== "map") return listOf(text)(node, context);
  const hosts = labels(node, context) as Readonly<Record<string, string>>;
  return Object.keys(hosts)
    .sort()
    .map((name) => `${name}:${hosts[name]}`);
};

const dependsOn: Reader = (node, context) =>
  node.kind === "map" ? [...node.entries.keys()] : listOf(string)(node, context);

const envFile: Reader = (node, context) => {
  const entry = shortOrLong(
    string,
    fields({ path: string, required: bool, format: ignored("only the usual format is read") }),
  );
  return node.kind === "list" ? listOf(entry)(node, context) : [entry(node, context) ?? ""];
};

const SERVICE: Fields = {
  image: string,
  command,
  entrypoint: command,
  environment,
  env_file: envFile,
  labels,
  hostname: string,
  user: text,
  group_add: listOf(text),
  working_dir: string,
  ports,
  volumes: listOf(shortOrLong(shortVolume, longVolume)),
  tmpfs: stringOrList,
  networks: serviceNetworks,
  secrets: listOf(fileReference),
  configs: listOf(fileReference),
  healthcheck: fields({
    test: healthTest,
    interval: duration,
    timeout: duration,
    retries: integer(0),
    start_period: duration,
    start_interval: duration,
    disable: bool,
  }),
  deploy,
  logging: fields({ driver: string, options: mapping(() => "") }),
  cap_add: listOf(string),
  cap_drop: listOf(string),
  dns: stringOrList,
  dns_search: stringOrList,
  dns_opt: listOf(string),
  extra_hosts: extraHosts,
  init: bool,
  read_only: bool,
  stdin_open: bool,
  tty: bool,
  stop_grace_period: duration,
  stop_signal: string,
  sysctls: labels,
  ulimits,
  oom_score_adj: integer(-1000, 1000),
  isolation: string,
  credential_spec: refused("it is for Windows containers"),
  depends_on: ignored(
    "the services of a stack start at the same time; let them wait for each other",
    dependsOn,
  ),
  build: ignored("build and push the image first"),
  container_name: ignored("tasks have names of their own"),
  expose: ignored("all ports are open inside a network", listOf(text)),
  restart: ignored("use deploy.restart_policy", string),
  cgroupns_mode: ignored(UNSUPPORTED),
  cgroup_parent: ignored(UNSUPPORTED),
  devices: ignored(UNSUPPORTED),
  domainname: ignored(UNSUPPORTED),
  external_links: ignored(UNSUPPORTED),
  ipc: ignored(UNSUPPORTED),
  links: ignored("services find each other by name"),
  mac_address: ignored(UNSUPPORTED),
  network_mode: ignored("use networks"),
  pid: ignored(UNSUPPORTED),
  privileged: ignored(UNSUPPORTED, bool),
  security_opt: ignored(UNSUPPORTED),
  shm_size: ignored("mount a tmpfs at /dev/shm instead"),
  userns_mode: ignored(UNSUPPORTED),
  platform: ignored("use deploy.placement.constraints"),
  profiles: ignored("all services of the file are deployed"),
  pull_policy: ignored("nodes fetch what they lack"),
  scale: ignored("use deploy.replicas"),
  annotations: ignored(UNSUPPORTED),
  attach: ignored(UNSUPPORTED),
  develop: ignored("it is for development on one machine"),
  runtime: ignored(UNSUPPORTED),
  extends: refused("write the service out, or use a YAML anchor"),
  volumes_from: refused("name the volumes"),
  volume_driver: refused("set the driver of the volume"),
  cpu_quota: refused("use deploy.resources.limits.cpus"),
  cpu_shares: refused("use deploy.resources.reservations.cpus"),
  cpuset: refused("use deploy.placement"),
  cpus: refused("use deploy.resources.limits.cpus"),
  mem_limit: refused("use deploy.resources.limits.memory"),
  mem_reservation: refused("use deploy.resources.reservations.memory"),
  memswap_limit: refused("use deploy.resources.limits.memory"),
  pids_limit: refused("use deploy.resources.limits.pids"),
};

/** `external: true`, or the old `external: {name: x}`. */
const external: Reader = (node, context) =>
  node.kind === "map" ? fields({ name: string })(node, context) : bool(node, context);

/** An empty definition, as `volumes: {data: }`, is all defaults. */
function orEmpty(reader: Reader): Reader {
  return (node, context) => (node.kind === "scalar" && node.value === null ? {} : reader(node, context));
}

const networkDefinition = orEmpty(
  fields({
    name: string,
    driver: string,
    driver_opts: labels,
    ipam: fields({
      driver: string,
      config: listOf(fields({ subnet: string, gateway: string, ip_range: string, aux_addresses: labels })),
      options: labels,
    }),
    external,
    internal: bool,
    attachable: bool,
    labels,
    enable_ipv6: bool,
    enable_ipv4: ignored("IPv4 is always on"),
  }),
);

const volumeDefinition = orEmpty(
  fields({
    name: string,
    driver: string,
    driver_opts: labels,
    external,
    labels,
    spec: refused("cluster volumes are not supported"),
  }),
);

function fileDefinition(extra: Fields): Reader {
  const read = fields({
    name: string,
    file: string,
    environment: string,
    content: string,
    external,
    labels,
    template_driver: string,
    ...extra,
  });
  return (node, context) => {
    const value = read(node, context) as Record<string, Value> | undefined;
    if (value === undefined) return undefined;
    const sources = ["file", "environment", "content", "external", "driver"].filter(
      (key) => value[key] !== undefined && value[key] !== false,
    );
    if (sources.length !== 1) {
      context.problems.error(
        node.at,
        `${context.path} must have one of file, environment, content or external, got ${sources.length === 0 ? "none" : sources.join(" and ")}`,
      );
      return undefined;
    }
    return typeof value["file"] === "string"
      ? { ...value, file: hostPath(value["file"], context.folder) }
      : value;
  };
}

/** Reads a whole file. */
export const composeFile: Reader = fields({
  version: text,
  name: ignored("the stack's name is given to `stack deploy`", string),
  services: mapOf(fields(SERVICE)),
  networks: mapOf(networkDefinition),
  volumes: mapOf(volumeDefinition),
  secrets: mapOf(fileDefinition({ driver: string, driver_opts: labels })),
  configs: mapOf(fileDefinition({})),
  include: refused("name the files with several --compose-file"),
  models: refused("it is for development tools"),
});
