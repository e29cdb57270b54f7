/** Committed changes of the store as Docker events of scope swarm. Pure; event-feed.ts calls it. Tasks make no events. */
import { isDeepStrictEqual } from "node:util";
import type { EngineEvent } from "../../model/engine.ts";
import type { Network, Node, Service, StoreEvent } from "../../model/objects.ts";
import { nodeName } from "../lookup.ts";
import { nodeStateName } from "./cluster.ts";

type Attributes = Record<string, string>;

function change(into: Attributes, key: string, before: string | undefined, now: string | undefined): void {
  if (before === now) return;
  if (now !== undefined) into[`${key}.new`] = now;
  if (before !== undefined) into[`${key}.old`] = before;
}

function replicasOf(service: Service | undefined): string | undefined {
  const replicated = service?.spec.Mode?.Replicated;
  return replicated === undefined ? undefined : String(replicated.Replicas ?? 1);
}

/** undefined if nothing that users care about has changed. */
function serviceAttributes(service: Service, previous: Service | undefined): Attributes | undefined {
  const attributes: Attributes = { name: service.spec.Name };
  if (previous === undefined) return attributes;
  change(attributes, "replicas", replicasOf(previous), replicasOf(service));
  const imageOf = (each: Service): string => each.spec.TaskTemplate.ContainerSpec?.Image ?? "";
  change(attributes, "image", imageOf(previous), imageOf(service));
  change(attributes, "updatestate", previous.updateStatus?.state, service.updateStatus?.state);
  const hasNews = Object.keys(attributes).length > 1 || !isDeepStrictEqual(service.spec, previous.spec);
  return hasNews ? attributes : undefined;
}

function nodeAttributes(node: Node, previous: Node | undefined): Attributes | undefined {
  const attributes: Attributes = { name: nodeName(node) };
  if (previous === undefined) return attributes;
  change(attributes, "availability", previous.spec.Availability, node.spec.Availability);
  change(attributes, "role", previous.spec.Role, node.spec.Role);
  change(attributes, "state", nodeStateName(previous.status.state), nodeStateName(node.status.state));
  const hasNews = Object.keys(attributes).length > 1 || !isDeepStrictEqual(node.spec, previous.spec);
  return hasNews ? attributes : undefined;
}

function networkAttributes(network: Network): Attributes {
  return { name: network.spec.Name, type: network.spec.Driver || "overlay" };
}

function attributesOf(event: StoreEvent): Attributes | undefined {
  switch (event.table) {
    case "service":
      return serviceAttributes(event.object, event.action === "update" ? event.previous : undefined);
    case "node":
      return nodeAttributes(event.object, event.action === "update" ? event.previous : undefined);
    case "network":
      // The allocator's write is no news to users.
      return event.action === "update" ? undefined : networkAttributes(event.object);
    case "secret":
    case "config":
      return { name: event.object.spec.Name };
    case "cluster":
    case "image":
    case "task":
      return undefined;
  }
}

/** undefined for changes that Docker makes no event of. */
export function toEngineEvent(event: StoreEvent, wallMs: number): EngineEvent | undefined {
  const attributes = attributesOf(event);
  if (attributes === undefined) return undefined;
  return {
    Type: event.table,
    Action: event.action,
    Actor: { ID: event.object.id, Attributes: attributes },
    scope: "swarm",
    time: Math.floor(wallMs / 1000),
    timeNano: BigInt(Math.floor(wallMs * 1000)) * 1000n,
  };
}
