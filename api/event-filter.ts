/** Docker's filters of /events: which events a client wants to see. Pure. */
import type { EngineEvent, Filters } from "../model/engine.ts";
import { anyValue, exactMatches, labelsMatch } from "./filters.ts";

/** Types whose objects can be named by a filter of the same name. */
const OBJECT_TYPES = [
  "container",
  "volume",
  "network",
  "plugin",
  "node",
  "service",
  "secret",
  "config",
  "daemon",
];
export const EVENT_FILTER_KEYS: ReadonlySet<string> = new Set([
  ...OBJECT_TYPES,
  "event",
  "image",
  "label",
  "scope",
  "type",
]);

/** "exec_create: sh" is an exec_create, "health_status: healthy" a health_status. */
function actionMatches(action: string, wanted: string): boolean {
  return action === wanted || action.startsWith(`${wanted}:`);
}

function isNamed(event: EngineEvent, wanted: string): boolean {
  const { ID, Attributes } = event.Actor;
  return ID.startsWith(wanted) || Attributes["name"] === wanted;
}

function withoutTag(image: string): string {
  const name = image.split("@", 1)[0] ?? image;
  const colon = name.lastIndexOf(":");
  return colon > name.lastIndexOf("/") ? name.slice(0, colon) : name;
}

function imageMatches(event: EngineEvent, wanted: string): boolean {
  const { ID, Attributes } = event.Actor;
  const image = (event.Type === "image" ? Attributes["name"] : Attributes["image"]) ?? "";
  return [ID, image, withoutTag(ID), withoutTag(image)].includes(wanted);
}

export function eventMatches(event: EngineEvent, filters: Filters): boolean {
  return (
    exactMatches(filters, "type", event.Type) &&
    exactMatches(filters, "scope", event.scope) &&
    anyValue(filters, "event", (wanted) => actionMatches(event.Action, wanted)) &&
    anyValue(filters, "image", (wanted) => imageMatches(event, wanted)) &&
    labelsMatch(filters, "label", event.Actor.Attributes) &&
    OBJECT_TYPES.every((type) =>
      anyValue(filters, type, (wanted) => event.Type === type && isNamed(event, wanted)),
    )
  );
}

/** One line of the stream. Nanoseconds don't fit into a JSON number of this language, so they are put in as digits. */
export function eventLine(event: EngineEvent): string {
  const { timeNano, ...rest } = event;
  return `${JSON.stringify(rest).slice(0, -1)},"timeNano":${String(timeNano)}}\n`;
}
