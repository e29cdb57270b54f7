/** Names to objects and back, through the API: what several commands need. */
import { ApiError } from "./client/api-client.ts";
import type { ApiClient } from "./client/api-client.ts";
import type { ApiConfig, ApiNetwork, ApiNode, ApiSecret, ApiService, ApiTask } from "./client/types.ts";
import type { SpecLookup } from "./service-spec.ts";

export async function getService(client: ApiClient, name: string): Promise<ApiService> {
  return await client.get<ApiService>(`/services/${encodeURIComponent(name)}`);
}

export async function getNode(client: ApiClient, name: string): Promise<ApiNode> {
  if (name !== "self") return await client.get<ApiNode>(`/nodes/${encodeURIComponent(name)}`);
  const info = await client.get<{ Swarm?: { NodeID?: string } }>("/info");
  const id = info.Swarm?.NodeID ?? "";
  if (id === "") throw new ApiError(503, "This node is not part of a swarm");
  return await client.get<ApiNode>(`/nodes/${id}`);
}

export function specLookup(client: ApiClient): SpecLookup {
  return {
    networkId: async (name) =>
      (await client.get<ApiNetwork>(`/networks/${encodeURIComponent(name)}`, { query: { scope: "swarm" } }))
        .Id,
    secretId: async (name) => (await client.get<ApiSecret>(`/secrets/${encodeURIComponent(name)}`)).ID,
    configId: async (name) => (await client.get<ApiConfig>(`/configs/${encodeURIComponent(name)}`)).ID,
  };
}

export interface TaskNames {
  readonly taskName: (task: ApiTask) => string;
  readonly nodeName: (task: ApiTask) => string;
  readonly serviceName: (task: ApiTask) => string;
}

/** Names for a list of tasks, read with one call per kind. */
export async function taskNames(
  client: ApiClient,
  tasks: readonly ApiTask[],
  isResolved: boolean,
): Promise<TaskNames> {
  const services = new Map<string, string>();
  const nodes = new Map<string, string>();
  if (isResolved && tasks.length > 0) {
    const [allServices, allNodes] = await Promise.all([
      client.get<ApiService[]>("/services"),
      client.get<ApiNode[]>("/nodes"),
    ]);
    for (const service of allServices) services.set(service.ID, service.Spec.Name);
    for (const node of allNodes) nodes.set(node.ID, node.Description?.Hostname ?? node.ID);
  }
  const serviceName = (task: ApiTask): string => services.get(task.ServiceID) ?? task.ServiceID;
  return {
    serviceName,
    nodeName: (task) => nodes.get(task.NodeID ?? "") ?? task.NodeID ?? "",
    taskName: (task) => `${serviceName(task)}.${(task.Slot ?? 0) > 0 ? task.Slot : (task.NodeID ?? "0")}`,
  };
}
