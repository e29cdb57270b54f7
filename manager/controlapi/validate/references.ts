/**
 * What a service spec refers to: networks by name or id (stored by id), secrets and configs, and ports that others hold.
 * Reads the transaction's state; writes nothing.
 */
import { ClusterError } from "../../../common/errors.ts";
import type { Network } from "../../../model/objects.ts";
import type { NetworkAttachmentConfig, PortConfig, ServiceSpec } from "../../../model/specs.ts";
import type { StoreView } from "../../../model/store-view.ts";
import { refuse } from "./rules.ts";

/** Networks of every node that a service may name. */
const LOCAL_NETWORKS: ReadonlySet<string> = new Set(["host", "bridge", "none"]);

/** The spec with network names replaced by ids. Throws if something that it refers to is missing or not for services. */
export function resolveReferences(view: StoreView, spec: ServiceSpec): ServiceSpec {
  checkBlobs(view, spec);
  const template = spec.TaskTemplate;
  return {
    ...spec,
    TaskTemplate:
      template.Networks === undefined
        ? template
        : { ...template, Networks: resolveAll(view, template.Networks) },
    ...(spec.Networks === undefined ? {} : { Networks: resolveAll(view, spec.Networks) }),
  };
}

/** The network that a user means by an id, a name, or the beginning of an id. */
function findNetwork(view: StoreView, reference: string): Network | undefined {
  if (reference === "") return undefined;
  const exact = view.get("network", reference) ?? view.list("network", { kind: "name", name: reference })[0];
  if (exact !== undefined) return exact;
  const byPrefix = view.list("network", { kind: "idPrefix", prefix: reference });
  return byPrefix.length === 1 ? byPrefix[0] : undefined;
}

function resolveAll(
  view: StoreView,
  attachments: readonly NetworkAttachmentConfig[],
): readonly NetworkAttachmentConfig[] {
  return attachments.map((attachment) => {
    const target = attachment.Target ?? "";
    const network = findNetwork(view, target);
    if (network === undefined) {
      if (LOCAL_NETWORKS.has(target)) return attachment;
      throw new ClusterError("not_found", `network ${target} not found`, { details: { network: target } });
    }
    if (network.spec.Ingress === true) {
      throw refuse(`Service cannot be explicitly attached to the ingress network "${network.spec.Name}"`);
    }
    return { ...attachment, Target: network.id };
  });
}

function checkBlobs(view: StoreView, spec: ServiceSpec): void {
  const { Configs = [], Secrets = [] } = spec.TaskTemplate.ContainerSpec;
  checkExist(
    "secret",
    Secrets.filter(({ SecretID }) => view.get("secret", SecretID) === undefined).map(
      (each) => each.SecretName,
    ),
  );
  checkExist(
    "config",
    Configs.filter(({ ConfigID }) => view.get("config", ConfigID) === undefined).map(
      (each) => each.ConfigName,
    ),
  );
}

/** `missing`: names of those that do not. */
function checkExist(kind: string, missing: readonly string[]): void {
  if (missing.length === 1) throw refuse(`${kind} not found: ${missing[0]}`);
  if (missing.length > 1) throw refuse(`${kind}s not found: ${missing.join(", ")}`);
}

function isHost(port: PortConfig): boolean {
  return port.PublishMode === "host";
}

function portKey(port: PortConfig): string {
  return `${port.Protocol || "tcp"}/${port.PublishedPort ?? 0}`;
}

/** Throws if a published port of the spec is another service's. Two services may use one host port on different nodes. */
export function checkPortsFree(view: StoreView, spec: ServiceSpec, ownId: string): void {
  const wanted = (spec.EndpointSpec?.Ports ?? []).filter((port) => (port.PublishedPort ?? 0) !== 0);
  if (wanted.length === 0) return;
  for (const other of view.list("service")) {
    if (other.id === ownId) continue;
    const held = [...(other.spec.EndpointSpec?.Ports ?? []), ...(other.endpoint?.ports ?? [])];
    for (const port of wanted) {
      const clash = held.find((each) => portKey(each) === portKey(port) && !(isHost(each) && isHost(port)));
      if (clash === undefined) continue;
      const how = isHost(clash) ? "a host-published" : "an ingress";
      throw refuse(
        `port '${port.PublishedPort}' is already in use by service '${other.spec.Name}' (${other.id}) as ${how} port`,
        "EndpointSpec.Ports",
      );
    }
  }
}
