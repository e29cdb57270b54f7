/**
 * Lays one stack file over another as docker does: mappings are joined key by key, lists that stand for sets by their key
 * (ports by published port, volumes by target, secrets and configs by source), other lists are appended, commands and
 * everything else replaced. Definitions of networks, volumes, secrets and configs are replaced as a whole. Pure.
 */
import { isObject } from "../../common/json.ts";
import type { Value, ValueMap } from "./readers.ts";

/** Lists whose items replace each other by this key. */
const KEYED_LISTS: Readonly<Record<string, string>> = {
  ports: "published",
  volumes: "target",
  secrets: "source",
  configs: "source",
};
/** Lists that are one value. */
const REPLACED_LISTS = new Set(["command", "entrypoint", "test"]);

function keyText(item: Value, key: string): string {
  const map = isObject(item) ? item : {};
  // Ports without a published one are told apart by their target.
  return map[key] === undefined ? `target ${JSON.stringify(map["target"])}` : JSON.stringify(map[key]);
}

function mergeKeyed(base: readonly Value[], over: readonly Value[], key: string): Value[] {
  const byKey = new Map(base.map((item) => [keyText(item, key), item]));
  for (const item of over) byKey.set(keyText(item, key), item);
  return [...byKey.values()];
}

function mergeValue(name: string, base: Value | undefined, over: Value): Value {
  if (isObject(base) && isObject(over)) return mergeMap(base, over);
  if (Array.isArray(base) && Array.isArray(over)) {
    const [before, after] = [base as readonly Value[], over as readonly Value[]];
    const key = KEYED_LISTS[name];
    if (key !== undefined) return mergeKeyed(before, after, key);
    return REPLACED_LISTS.has(name) ? after : [...before, ...after];
  }
  return over;
}

function mergeMap(base: ValueMap, over: ValueMap): ValueMap {
  const result: Record<string, Value> = { ...base };
  for (const [key, value] of Object.entries(over)) result[key] = mergeValue(key, base[key], value);
  return result;
}

/** A log driver's options belong to it: another driver starts anew. */
function mergeService(base: ValueMap, over: ValueMap): ValueMap {
  const merged = mergeMap(base, over);
  const [before, after] = [base["logging"], over["logging"]];
  const isOther =
    isObject(before) &&
    isObject(after) &&
    after["driver"] !== undefined &&
    before["driver"] !== undefined &&
    after["driver"] !== before["driver"];
  return isOther ? { ...merged, logging: after } : merged;
}

export function mergeStacks(base: ValueMap, over: ValueMap): ValueMap {
  const result: Record<string, Value> = { ...base };
  for (const [section, value] of Object.entries(over)) {
    const before = base[section];
    if (!isObject(before) || !isObject(value)) result[section] = value;
    else if (section === "services") {
      const services: Record<string, Value> = { ...before };
      for (const [name, service] of Object.entries(value)) {
        const known = before[name];
        services[name] = isObject(known) && isObject(service) ? mergeService(known, service) : service;
      }
      result[section] = services;
    } else result[section] = { ...before, ...value };
  }
  return result;
}
