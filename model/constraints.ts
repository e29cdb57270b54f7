/**
 * Placement constraints ("node.labels.zone==b"): parsing, which is also their validation, and matching against a node.
 * Keys and values are compared without case, as Swarm does. Used by the API (to refuse bad ones), by the scheduler
 * and by whoever asks whether a task still fits its node. Pure.
 */
import { isIP } from "node:net";
import { isInBlock } from "../common/addresses.ts";
import { ClusterError } from "../common/errors.ts";
import type { Node } from "./objects.ts";
import type { Platform } from "./specs.ts";

export interface Constraint {
  /** As the user wrote it, without outer blanks. */
  readonly text: string;
  readonly key: string;
  readonly isEqual: boolean;
  readonly value: string;
  /** What the node has for the key; undefined if nothing. */
  readonly read: (node: Node) => string | undefined;
  /** `value` in the form in which values are compared. */
  readonly wanted: string;
}

const KEY = /^[a-z_][a-z0-9\-_.]+$/i;
const VALUE = /^[a-z0-9:\-_\s.*()?+[\]\\^$|/]+$/i;
const NODE_LABEL = "node.labels.";
const ENGINE_LABEL = "engine.labels.";
const KEYS: ReadonlySet<string> = new Set([
  "node.id",
  "node.hostname",
  "node.ip",
  "node.role",
  "node.platform.os",
  "node.platform.arch",
]);

function invalid(text: string, wanted: string): ClusterError {
  return new ClusterError("invalid_argument", `invalid placement constraint "${text}": ${wanted}`);
}

export function parseConstraint(text: string): Constraint {
  const match = /^(.*?)(==|!=)(.*)$/s.exec(text);
  if (match === null) throw invalid(text, 'wanted KEY==VALUE or KEY!=VALUE, e.g. "node.role==worker"');
  const [key = "", operator, value = ""] = match.slice(1).map((part) => part.trim());
  if (!KEY.test(key)) throw invalid(text, `key "${key}" is invalid`);
  if (!VALUE.test(value)) throw invalid(text, `value "${value}" is invalid`);
  const lower = key.toLowerCase();
  const isLabel = lower.startsWith(NODE_LABEL) || lower.startsWith(ENGINE_LABEL);
  if (!isLabel && !KEYS.has(lower)) {
    throw invalid(
      text,
      `wanted one of ${[...KEYS].join(", ")}, node.labels.*, engine.labels.*, got "${key}"`,
    );
  }
  const wanted = lower === "node.platform.arch" ? normalizedArchitecture(value) : value.toLowerCase();
  const read = readerOf(key);
  return { text: text.trim(), key: isLabel ? key : lower, isEqual: operator === "==", value, read, wanted };
}

const parsed = new WeakMap<readonly string[], readonly Constraint[]>();

/** All of a spec's constraints. Throws invalid_argument; stored specs were checked before. */
export function parseConstraints(texts: readonly string[] | undefined): readonly Constraint[] {
  if (texts === undefined || texts.length === 0) return [];
  let constraints = parsed.get(texts);
  if (constraints === undefined) {
    constraints = texts.map(parseConstraint);
    parsed.set(texts, constraints);
  }
  return constraints;
}

/** Other names of an architecture that mean the same. */
function normalizedArchitecture(name: string): string {
  const lower = name.toLowerCase();
  if (lower === "x86_64" || lower === "x86-64") return "amd64";
  if (lower === "aarch64") return "arm64";
  return lower;
}

function label(labels: Readonly<Record<string, string>> | undefined, name: string): string | undefined {
  if (labels === undefined) return undefined;
  return Object.hasOwn(labels, name) ? labels[name] : undefined;
}

function addressMatches(value: string, addr: string): boolean {
  if (isIP(addr) === 0) return false;
  return isIP(value) === 0 ? isInBlock(addr, value) : value.toLowerCase() === addr.toLowerCase();
}

/** How to find what a node has for a key of a constraint or a placement preference. */
export function readerOf(key: string): (node: Node) => string | undefined {
  const lower = key.toLowerCase();
  if (lower.startsWith(NODE_LABEL)) {
    const name = key.slice(NODE_LABEL.length);
    return (node) => label(node.spec.Labels, name);
  }
  if (lower.startsWith(ENGINE_LABEL)) {
    const name = key.slice(ENGINE_LABEL.length);
    return (node) => label(node.description?.Engine.Labels, name);
  }
  switch (lower) {
    case "node.id":
      return (node) => node.id;
    case "node.hostname":
      return (node) => node.description?.Hostname;
    case "node.role":
      return (node) => node.certificateRole;
    case "node.platform.os":
      return (node) => node.description?.Platform.OS;
    case "node.platform.arch":
      return (node) => normalizedArchitecture(node.description?.Platform.Architecture ?? "");
    default:
      return () => undefined;
  }
}

export function constraintMatches(constraint: Constraint, node: Node): boolean {
  if (constraint.key === "node.ip")
    return addressMatches(constraint.value, node.status.addr) === constraint.isEqual;
  const actual = constraint.read(node);
  const isSame =
    actual !== undefined && (actual === constraint.wanted || actual.toLowerCase() === constraint.wanted);
  return isSame === constraint.isEqual;
}

/** The first constraint that the node does not satisfy, or undefined. */
export function firstUnmet(constraints: readonly Constraint[], node: Node): Constraint | undefined {
  return constraints.find((constraint) => !constraintMatches(constraint, node));
}

/** True if an image for one of `platforms` runs on the node; no platforms: any. Empty fields match everything. */
export function platformMatches(platforms: readonly Platform[] | undefined, node: Node): boolean {
  if (platforms === undefined || platforms.length === 0) return true;
  const actual = node.description?.Platform;
  if (actual === undefined) return false;
  const os = (actual.OS ?? "").toLowerCase();
  const architecture = normalizedArchitecture(actual.Architecture ?? "");
  return platforms.some(
    (wanted) =>
      (!wanted.OS || wanted.OS.toLowerCase() === os) &&
      (!wanted.Architecture || normalizedArchitecture(wanted.Architecture) === architecture),
  );
}
