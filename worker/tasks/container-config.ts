/**
 * A task as a container of the machine's engine: Docker's configuration for it, with the labels that Docker's own tasks
 * have.
 */
import type { ContainerConfig, HostConfig, InjectedFile } from "../../model/engine.ts";
import type { Task } from "../../model/objects.ts";
import type { ContainerSpec, CredentialSpec, Driver, FileTarget } from "../../model/specs.ts";
import { expandPayload, type TemplateContext } from "../../model/templates.ts";
import { ClusterError } from "../../common/errors.ts";
import type { TaskDependencies } from "./controller.ts";

export const TASK_ID_LABEL = "com.docker.swarm.task.id";
const DEFAULT_SECRET_MODE = 0o444;

/** The container's name, which is the task's: SERVICE.SLOT.TASKID, the node in the place of the slot for global services. */
export function taskContainerName(task: Task): string {
  return task.name;
}

function taskLabels(task: Task): Readonly<Record<string, string>> {
  return {
    ...task.spec.ContainerSpec.Labels,
    "com.docker.swarm.node.id": task.nodeId,
    "com.docker.swarm.service.id": task.serviceId,
    "com.docker.swarm.service.name": task.serviceName,
    "com.docker.swarm.task": "",
    [TASK_ID_LABEL]: task.id,
    "com.docker.swarm.task.name": taskContainerName(task),
  };
}

export function stopTimeoutSeconds(spec: ContainerSpec, defaultSeconds: number): number {
  return spec.StopGracePeriod === undefined ? defaultSeconds : Math.ceil(spec.StopGracePeriod / 1e9);
}

export function containerConfig(task: Task): ContainerConfig {
  const spec = task.spec.ContainerSpec;
  const set = <K extends string, V>(key: K, value: V | undefined): { readonly [P in K]?: V } =>
    (value === undefined ? {} : { [key]: value }) as { readonly [P in K]?: V };
  return {
    Image: spec.Image,
    Labels: taskLabels(task),
    ...set("Hostname", spec.Hostname),
    ...set("Env", taskEnv(task)),
    ...set("Cmd", spec.Args),
    ...set("Entrypoint", spec.Command),
    ...set("WorkingDir", spec.Dir),
    ...set("User", spec.User),
    ...set("Tty", spec.TTY),
    ...set("OpenStdin", spec.OpenStdin),
    ...set("StopSignal", spec.StopSignal),
    ...set("Healthcheck", spec.Healthcheck),
    ...(spec.StopGracePeriod === undefined ? {} : { StopTimeout: Math.ceil(spec.StopGracePeriod / 1e9) }),
  };
}

function taskEnv(task: Task): readonly string[] {
  const resources = (task.assignedGenericResources ?? []).map((each) => {
    const { Kind, Value } = each.NamedResourceSpec ?? each.DiscreteResourceSpec ?? { Kind: "", Value: "" };
    return `DOCKER_RESOURCE_${Kind.toUpperCase()}=${Value}`;
  });
  return [...(task.spec.ContainerSpec.Env ?? []), ...resources];
}

export function hostConfig(task: Task, networkMode: string): HostConfig {
  const spec = task.spec.ContainerSpec;
  const { Limits: limits, Reservations: reservations } = task.spec.Resources ?? {};
  const {
    CredentialSpec: credential,
    Seccomp: seccomp,
    AppArmor: apparmor,
    NoNewPrivileges,
  } = spec.Privileges ?? {};
  const securityOpt = [
    // For Windows: the engine refuses it, so that nobody believes that it is in force.
    ...credentialOption(credential),
    ...(seccomp?.Mode === "unconfined" ? ["seccomp=unconfined"] : []),
    ...(seccomp?.Mode === "custom"
      ? [`seccomp=${Buffer.from(seccomp.Profile ?? "", "base64").toString()}`]
      : []),
    ...(apparmor?.Mode === "disabled" ? ["apparmor=unconfined"] : []),
    ...(NoNewPrivileges === true ? ["no-new-privileges"] : []),
  ];
  const logDriver = task.spec.LogDriver ?? task.logDriver;
  return {
    NetworkMode: networkMode,
    RestartPolicy: { Name: "no" },
    Mounts: spec.Mounts ?? [],
    NanoCpus: limits?.NanoCPUs ?? 0,
    Memory: limits?.MemoryBytes ?? 0,
    MemoryReservation: reservations?.MemoryBytes ?? 0,
    ...(limits?.Pids === undefined ? {} : { PidsLimit: limits.Pids }),
    CapAdd: spec.CapabilityAdd ?? [],
    CapDrop: spec.CapabilityDrop ?? [],
    SecurityOpt: securityOpt,
    ReadonlyRootfs: spec.ReadOnly ?? false,
    GroupAdd: spec.Groups ?? [],
    ExtraHosts: hostEntries(spec.Hosts ?? []),
    Dns: spec.DNSConfig?.Nameservers ?? [],
    DnsSearch: spec.DNSConfig?.Search ?? [],
    DnsOptions: spec.DNSConfig?.Options ?? [],
    Sysctls: spec.Sysctls ?? {},
    Ulimits: spec.Ulimits ?? [],
    ...(spec.OomScoreAdj === undefined ? {} : { OomScoreAdj: spec.OomScoreAdj }),
    ...(spec.Isolation === undefined ? {} : { Isolation: spec.Isolation }),
    ...(spec.Init === undefined ? {} : { Init: spec.Init }),
    ...(logDriver?.Name === undefined
      ? {}
      : { LogConfig: { Type: logDriver.Name, Config: logDriver.Options ?? {} } }),
  };
}

function credentialOption(spec: CredentialSpec | undefined): readonly string[] {
  const { Config, File, Registry } = spec ?? {};
  const sources = { config: Config, file: File, registry: Registry };
  return Object.entries(sources)
    .filter(([, name]) => name !== undefined && name !== "")
    .map(([kind, name]) => `credentialspec=${kind}://${name}`);
}

/** "IP name [alias…]" of service specs as "name:IP" of containers. */
function hostEntries(hosts: readonly string[]): readonly string[] {
  return hosts.flatMap((line) => {
    const [ip = "", ...names] = line.split(/\s+/);
    return names.map((name) => `${name}:${ip}`);
  });
}

function injected(
  target: FileTarget,
  options: { readonly defaultFolder: string; readonly data: string; readonly isSecret: boolean },
): InjectedFile {
  const path = target.Name.startsWith("/") ? target.Name : `${options.defaultFolder}/${target.Name}`;
  return {
    path,
    data: Buffer.from(options.data, "base64"),
    uid: Number(target.UID ?? "0") || 0,
    gid: Number(target.GID ?? "0") || 0,
    mode: target.Mode ?? DEFAULT_SECRET_MODE,
    isSecret: options.isSecret,
  };
}

/** Secrets under /run/secrets and configs under /, unless their targets are absolute. Throws when one has not come along. */
export function taskFiles(
  task: Task,
  dependencies: TaskDependencies,
  context: TemplateContext,
): readonly InjectedFile[] {
  const files = untemplatedFiles(task, dependencies);
  const texts = (isSecret: boolean) => (name: string) => {
    const found = files.find(({ file, target }) => file.isSecret === isSecret && target === name);
    return found === undefined ? undefined : Buffer.from(found.file.data).toString("utf8");
  };
  const env = task.spec.ContainerSpec.Env ?? [];
  const sources = { env, secret: texts(true), config: texts(false) };
  return files.map(({ file, isTemplate }) =>
    isTemplate ? { ...file, data: expandPayload(file.data, context, sources) } : file,
  );
}

interface SourceFile {
  readonly file: InjectedFile;
  /** The name by which other templates read it. */
  readonly target: string;
  readonly isTemplate: boolean;
}

function isTemplate(spec: { readonly Templating?: Driver }): boolean {
  return spec.Templating?.Name === "golang";
}

function untemplatedFiles(task: Task, dependencies: TaskDependencies): readonly SourceFile[] {
  const spec = task.spec.ContainerSpec;
  const files: SourceFile[] = [];
  for (const reference of spec.Secrets ?? []) {
    const secret = dependencies.secrets.get(reference.SecretID);
    if (secret === undefined) throw missing("secret", reference.SecretName);
    const target = reference.File ?? { Name: reference.SecretName };
    const file = injected(target, {
      defaultFolder: "/run/secrets",
      data: secret.spec.Data ?? "",
      isSecret: true,
    });
    files.push({ file, target: target.Name, isTemplate: isTemplate(secret.spec) });
  }
  for (const reference of spec.Configs ?? []) {
    if (reference.File === undefined) continue;
    const config = dependencies.configs.get(reference.ConfigID);
    if (config === undefined) throw missing("config", reference.ConfigName);
    const { File: target } = reference;
    const file = injected(target, { defaultFolder: "", data: config.spec.Data ?? "", isSecret: false });
    files.push({ file, target: target.Name, isTemplate: isTemplate(config.spec) });
  }
  return files;
}

function missing(kind: string, name: string): ClusterError {
  return new ClusterError("unavailable", `Cannot prepare task: ${kind} "${name}" was not sent to this node`, {
    retryable: true,
  });
}
