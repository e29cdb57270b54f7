/** Texts of requests that the kernel would cut short: it ends each at its first NUL. Pure. */
import { ClusterError } from "../../common/errors.ts";

const SHOWN_CHARS_MAX = 80;

/** Throws invalid_argument that names the field, "Env[2]" or "Labels.key", of the first text or key within `value` that holds a NUL. */
export function refuseNul(value: unknown, field: string): void {
  if (typeof value === "string") {
    if (!value.includes("\0")) return;
    const shown = JSON.stringify(value.slice(0, SHOWN_CHARS_MAX));
    throw new ClusterError("invalid_argument", `invalid ${field}: must hold no NUL character, got ${shown}`);
  }
  if (Array.isArray(value)) value.forEach((each, index) => refuseNul(each, `${field}[${index}]`));
  else if (typeof value === "object" && value !== null) {
    for (const [key, each] of Object.entries(value)) {
      refuseNul(key, `name in ${field}`);
      refuseNul(each, `${field}.${key}`);
    }
  }
}
