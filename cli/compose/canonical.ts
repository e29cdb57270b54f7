/**
 * Prints a stack in docker's canonical form: keys sorted, names of external objects filled in, nothing that is empty.
 * Pure.
 */
import { stringify } from "yaml";
import type { ComposeStack } from "./types.ts";

type Plain = Readonly<Record<string, unknown>>;

function sortedByKey(record: Plain): Plain {
  return Object.fromEntries(Object.entries(record).sort(([left], [right]) => (left < right ? -1 : 1)));
}

const SECTIONS = ["services", "networks", "volumes", "secrets", "configs"] as const;

/** The stack as plain data, as `stack config` prints it. */
export function canonicalStack(stack: ComposeStack): Plain {
  const result: Record<string, unknown> = stack.version === undefined ? {} : { version: stack.version };
  for (const name of SECTIONS) {
    const section = stack[name];
    if (Object.keys(section).length === 0) continue;
    result[name] = sortedByKey(
      Object.fromEntries(
        Object.entries(section).map(([key, value]) => [key, sortedByKey(withoutEmpty(value as Plain))]),
      ),
    );
  }
  for (const [key, value] of Object.entries(stack)) if (key.startsWith("x-")) result[key] = value;
  return result;
}

function isEmptyValue(value: unknown): boolean {
  if (value === undefined) return true;
  if (Array.isArray(value)) return value.length === 0;
  return typeof value === "object" && value !== null && Object.keys(value).length === 0;
}

function withoutEmpty(record: Plain): Plain {
  return Object.fromEntries(Object.entries(record).filter(([, value]) => !isEmptyValue(value)));
}

export function printStack(stack: ComposeStack): string {
  return stringify(canonicalStack(stack), { lineWidth: 0, aliasDuplicateObjects: false, version: "1.1" });
}
