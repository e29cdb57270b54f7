/** Secrets, configs and networks of the cluster, and which services use them. What a secret holds never reaches the page. */
import { getJson } from "./client.js";
import { age, table, wide } from "./view.js";

export async function loadData() {
  const [secrets, configs, networks] = await Promise.all([
    getJson("/secrets"),
    getJson("/configs"),
    getJson(`/networks?filters=${encodeURIComponent('{"scope":{"swarm":true}}')}`),
  ]);
  return { secrets, configs, networks };
}

/** Names of services by the id of what they use; `idsOf` reads the ids from a service's spec. */
function usersOf(services, idsOf) {
  const users = new Map();
  for (const service of services) {
    for (const id of idsOf(service.Spec)) users.set(id, [...(users.get(id) ?? []), service.Spec.Name]);
  }
  return (id) => wide((users.get(id) ?? []).sort().join(", "));
}

function labelText(labels) {
  return wide(
    Object.entries(labels ?? {})
      .map(([key, value]) => `${key}=${value}`)
      .join(", "),
  );
}

function objectRows(objects, usedBy) {
  return [...objects]
    .sort((left, right) => (left.Spec.Name < right.Spec.Name ? -1 : 1))
    .map(({ ID: id, Spec: spec, CreatedAt: made, UpdatedAt: changed }) => [
      spec.Name,
      age(made),
      age(changed),
      usedBy(id),
      labelText(spec.Labels),
    ]);
}

function networkRows(networks, usedBy) {
  return [...networks]
    .sort((left, right) => (left.Name < right.Name ? -1 : 1))
    .map((network) => [
      network.Name,
      network.Driver,
      (network.IPAM?.Config ?? []).map((config) => config.Subnet).join(", "),
      network.Ingress ? "ingress" : network.Attachable ? "attachable" : "",
      usedBy(network.Id),
    ]);
}

/** Undefined while it has not been asked for yet. */
export function dataView(data, services) {
  if (data === undefined) return table("Secrets", [], []);
  const columns = ["Name", "Made", "Changed", "Used by", "Labels"];
  const container = (spec) => spec.TaskTemplate.ContainerSpec ?? {};
  const bySecret = usersOf(services, (spec) => (container(spec).Secrets ?? []).map((each) => each.SecretID));
  const byConfig = usersOf(services, (spec) => (container(spec).Configs ?? []).map((each) => each.ConfigID));
  const byNetwork = usersOf(services, (spec) =>
    (spec.TaskTemplate.Networks ?? []).map((network) => network.Target),
  );
  return [
    table("Secrets", columns, objectRows(data.secrets, bySecret)),
    table("Configs", columns, objectRows(data.configs, byConfig)),
    table(
      "Networks",
      ["Name", "Driver", "Subnets", "Kind", "Used by"],
      networkRows(data.networks, byNetwork),
    ),
  ];
}
