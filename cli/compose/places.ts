/** Where in the Compose files a service, or what it names, is written: for problems that show only once all is merged. */
import type { MapNode, Position, SourceNode } from "./source.ts";

function names(node: SourceNode, wanted: string): boolean {
  if (node.kind === "scalar") {
    const text = String(node.value);
    return text === wanted || text.startsWith(`${wanted}:`);
  }
  const source = node.kind === "map" ? node.entries.get("source")?.value : undefined;
  return source?.kind === "scalar" && String(source.value) === wanted;
}

function placeWithin(list: SourceNode, wanted: string): Position | undefined {
  if (list.kind === "map") return list.entries.get(wanted)?.keyAt;
  return list.kind === "list" ? list.items.find((item) => names(item, wanted))?.at : undefined;
}

/**
 * The place in the last of `sources` that says it: of the service, or with `reference` of the item in the service's `section`
 * (networks, volumes, secrets, configs) that names it.
 */
export function placeOf(
  sources: readonly MapNode[],
  service: string,
  reference?: { readonly section: string; readonly name: string },
): Position | undefined {
  let ofService: Position | undefined;
  for (const source of sources.toReversed()) {
    const services = source.entries.get("services")?.value;
    const entry = services?.kind === "map" ? services.entries.get(service) : undefined;
    ofService ??= entry?.keyAt;
    if (reference === undefined) continue;
    const section = entry?.value.kind === "map" ? entry.value.entries.get(reference.section) : undefined;
    const place = section === undefined ? undefined : placeWithin(section.value, reference.name);
    if (place !== undefined) return place;
  }
  return ofService;
}
