/** `--gpus` of `run` and `create`, in docker's words: `all`, `2`, `device=GPU-1`, `count=2,"capabilities=utility,compute"`. */
import { ClusterError } from "../common/errors.ts";
import { parsePairs, splitCsv } from "./flag-values.ts";

/** The API's DeviceRequest. */
export interface GpuRequest {
  readonly Driver: string;
  /** -1: all. 0 where devices are named. */
  readonly Count: number;
  readonly DeviceIDs: readonly string[] | null;
  readonly Capabilities: readonly (readonly string[])[];
  readonly Options: Readonly<Record<string, string>>;
}

const KEYS = ["driver", "count", "device", "capabilities", "options"] as const;
type Key = (typeof KEYS)[number];

function refuse(wanted: string, given: string): ClusterError {
  return new ClusterError("invalid_argument", `Invalid value for --gpus: expected ${wanted}, got "${given}"`);
}

function countOf(word: string): number {
  if (word === "all") return -1;
  if (/^\d+$/.test(word) && Number.isSafeInteger(Number(word))) return Number(word);
  throw refuse('"all" or a whole number, 0 or more', word);
}

export function parseGpus(word: string): GpuRequest {
  const fields = new Map<Key, string>();
  for (const field of splitCsv("gpus", word)) {
    const cut = field.indexOf("=");
    const name = cut < 0 ? "count" : field.slice(0, cut);
    const key = KEYS.find((each) => each === name);
    if (key === undefined) throw refuse(`one of ${KEYS.join(", ")}`, name);
    if (fields.has(key)) throw refuse(`"${key}" once`, word);
    fields.set(key, field.slice(cut + 1));
  }
  const [count, device] = [fields.get("count"), fields.get("device")];
  return {
    Driver: fields.get("driver") ?? "",
    Count: count === undefined ? (device === undefined ? 1 : 0) : countOf(count),
    DeviceIDs: device?.split(",") ?? null,
    Capabilities: [[...(fields.get("capabilities")?.split(",") ?? []), "gpu"]],
    Options: parsePairs(fields.get("options")?.split(",") ?? []),
  };
}
