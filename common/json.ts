/** What can be said of a value that came as JSON, before its fields are looked at. Pure. */

/** True of maps only: to JavaScript null and lists are objects as well. */
export function isObject(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
