/** `service inspect --pretty`: the spec in docker's readable form, with the defaults that hold where it is silent. Pure. */
import type { Resources, UpdateConfig } from "../../model/specs.ts";
import { binarySize, formatDuration } from "../../model/units.ts";
import type { ApiService } from "../client/types.ts";
import { modeText } from "./service-table.ts";

function line(label: string, value: string | number | undefined, indent = 0): string[] {
  if (value === undefined || value === "") return [];
  const text = `${" ".repeat(indent)}${label}:`;
  return [`${text.padEnd(16)}${value}`];
}

function updateLines(title: string, config: UpdateConfig | undefined, unset: string): string[] {
  if (config === undefined) return [`${title}: ${unset}`];
  return [
    `${title}:`,
    ...line("Parallelism", config.Parallelism ?? 1, 1),
    ...line("Delay", config.Delay === undefined ? undefined : formatDuration(config.Delay), 1),
    ...line("On failure", config.FailureAction ?? "pause", 1),
    ...line("Monitoring", formatDuration(config.Monitor ?? 5e9), 1),
    ...line("Max failure ratio", config.MaxFailureRatio ?? 0, 1),
    ...line("Order", config.Order ?? "stop-first", 1),
  ];
}

function resourceLines(label: string, resources: Resources | undefined): string[] {
  const lines = [
    ...line("CPU", resources?.NanoCPUs === undefined ? undefined : resources.NanoCPUs / 1e9, 2),
    ...line(
      "Memory",
      resources?.MemoryBytes === undefined ? undefined : binarySize(resources.MemoryBytes),
      2,
    ),
    ...line("Pids", resources?.Pids, 2),
  ];
  return lines.length === 0 ? [] : [` ${label}:`, ...lines];
}

function updateStatusLines(service: ApiService): string[] {
  const status = service.UpdateStatus;
  if (status?.State === undefined || status.State === "") return [];
  return [
    "UpdateStatus:",
    ...line("State", status.State, 1),
    ...line("Started", status.StartedAt, 1),
    ...line("Completed", status.CompletedAt, 1),
    ...line("Message", status.Message, 1),
  ];
}

function containerLines(service: ApiService): string[] {
  const container = service.Spec.TaskTemplate.ContainerSpec;
  const mounts = (container.Mounts ?? []).map(
    (mount) =>
      ` ${mount.Type ?? "volume"} ${mount.Source ?? ""} → ${mount.Target}${mount.ReadOnly === true ? " (read-only)" : ""}`,
  );
  const files = (
    references: readonly { readonly name: string; readonly target: string | undefined }[],
  ): string[] => references.map((each) => ` ${each.name} → ${each.target ?? each.name}`);
  const secrets = files(
    (container.Secrets ?? []).map((each) => ({ name: each.SecretName, target: each.File?.Name })),
  );
  const configs = files(
    (container.Configs ?? []).map((each) => ({ name: each.ConfigName, target: each.File?.Name })),
  );
  return [
    "ContainerSpec:",
    ...line("Image", container.Image, 1),
    ...line("Command", container.Command?.join(" "), 1),
    ...line("Args", container.Args?.join(" "), 1),
    ...line("Env", container.Env?.join(" "), 1),
    ...line("Dir", container.Dir, 1),
    ...line("User", container.User, 1),
    ...line("Health check", container.Healthcheck?.Test?.join(" "), 1),
    ...(mounts.length === 0 ? [] : ["Mounts:", ...mounts]),
    ...(secrets.length === 0 ? [] : ["Secrets:", ...secrets]),
    ...(configs.length === 0 ? [] : ["Configs:", ...configs]),
  ];
}

/** `networkNames`: names by id. */
export function prettyService(service: ApiService, networkNames: ReadonlyMap<string, string>): string {
  const { Spec: spec } = service;
  const template = spec.TaskTemplate;
  const networks = (template.Networks ?? spec.Networks ?? []).map(
    (each) => networkNames.get(each.Target) ?? each.Target,
  );
  const resources = [
    ...resourceLines("Reservations", template.Resources?.Reservations),
    ...resourceLines("Limits", template.Resources?.Limits),
  ];
  const ports = (service.Endpoint?.Ports ?? spec.EndpointSpec?.Ports ?? []).flatMap((port) => [
    ...line("PublishedPort", port.PublishedPort ?? 0, 1),
    ...line("Protocol", port.Protocol ?? "tcp", 2),
    ...line("TargetPort", port.TargetPort, 2),
    ...line("PublishMode", port.PublishMode ?? "ingress", 2),
  ]);
  const replicas = spec.Mode?.Replicated === undefined ? undefined : (spec.Mode.Replicated.Replicas ?? 1);
  const labels = Object.entries(spec.Labels ?? {}).map(([key, value]) => ` ${key}=${value}`);
  const lines = [
    ...line("ID", service.ID),
    ...line("Name", spec.Name),
    ...(labels.length === 0 ? [] : ["Labels:", ...labels]),
    ...line(
      "Service Mode",
      modeText(spec.Mode).replace(/^./, (char) => char.toUpperCase()),
    ),
    ...line("Replicas", replicas, 1),
    ...updateStatusLines(service),
    ...line("Placement", " "),
    ...line("Constraints", template.Placement?.Constraints?.join(", "), 1),
    ...line("Max per node", template.Placement?.MaxReplicas, 1),
    ...updateLines("UpdateConfig", spec.UpdateConfig, "safe defaults (roll back on failure)"),
    ...updateLines("RollbackConfig", spec.RollbackConfig, "safe defaults"),
    ...containerLines(service),
    ...(resources.length === 0 ? [] : ["Resources:", ...resources]),
    ...line("Networks", networks.join(" ")),
    ...line("Endpoint Mode", spec.EndpointSpec?.Mode ?? "vip"),
    ...(ports.length === 0 ? [] : ["Ports:", ...ports]),
  ];
  return `${lines.map((each) => each.trimEnd()).join("\n")}\n`;
}
