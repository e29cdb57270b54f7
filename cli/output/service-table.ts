/** The service list of `service ls` and `stack services`: docker's columns. Pure. */
import type { ServiceMode } from "../../model/specs.ts";
import type { ApiService } from "../client/types.ts";
import { servicePortsText } from "../ports.ts";
import type { ListFormat } from "./table.ts";
import { labelText, shortId } from "./table.ts";

export function modeText(mode: ServiceMode | undefined): string {
  if (mode?.Global !== undefined) return "global";
  if (mode?.ReplicatedJob !== undefined) return "replicated job";
  if (mode?.GlobalJob !== undefined) return "global job";
  return "replicated";
}

/** "3/5", with "(max 2 per node)" or "(1/4 completed)" behind it. */
function replicasText(service: ApiService): string {
  const status = service.ServiceStatus;
  const counts = `${status?.RunningTasks ?? 0}/${status?.DesiredTasks ?? 0}`;
  const job = service.Spec.Mode?.ReplicatedJob;
  if (job !== undefined)
    return `${counts} (${status?.CompletedTasks ?? 0}/${job.TotalCompletions ?? 1} completed)`;
  if (service.Spec.Mode?.GlobalJob !== undefined)
    return `${counts} (${status?.CompletedTasks ?? 0}/${status?.DesiredTasks ?? 0} completed)`;
  const max = service.Spec.TaskTemplate.Placement?.MaxReplicas ?? 0;
  return max > 0 && service.Spec.Mode?.Global === undefined ? `${counts} (max ${max} per node)` : counts;
}

export const serviceList: ListFormat<ApiService> = {
  columns: {
    ID: { header: "ID", get: (service) => shortId(service.ID) },
    Name: { header: "NAME", get: (service) => service.Spec.Name },
    Mode: { header: "MODE", get: (service) => modeText(service.Spec.Mode) },
    Replicas: { header: "REPLICAS", get: replicasText },
    Image: {
      header: "IMAGE",
      get: (service) => service.Spec.TaskTemplate.ContainerSpec.Image.replace(/@sha256:[0-9a-f]+$/, ""),
    },
    Ports: { header: "PORTS", get: (service) => servicePortsText(service.Endpoint?.Ports) },
    Labels: { header: "LABELS", get: (service) => labelText(service.Spec.Labels) },
    Label: {
      header: "LABEL",
      get: (service) => (key: unknown) => service.Spec.Labels?.[String(key)] ?? "",
    },
  },
  defaults: ["ID", "Name", "Mode", "Replicas", "Image", "Ports"],
  quiet: (service) => shortId(service.ID),
};
