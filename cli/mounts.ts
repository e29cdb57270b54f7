/**
 * Mount words: the CSV form of `--mount` and the short form of `-v` and Compose ("source:target:ro,z"). Pure; used by
 * service flags, `run` and the Compose loader.
 */
import { ClusterError } from "../common/errors.ts";
import type { Mount } from "../model/specs.ts";
import { parseBytes } from "../model/units.ts";
import type { Draft } from "./draft.ts";
import { splitCsv } from "./flag-values.ts";

const TYPES = ["bind", "volume", "tmpfs", "npipe", "cluster", "image"] as const;
const PROPAGATIONS = ["rprivate", "private", "rshared", "shared", "rslave", "slave"];

function refuse(text: string, why: string): ClusterError {
  return new ClusterError("invalid_argument", `Invalid mount "${text}": ${why}`);
}

function flagValue(text: string, key: string, value: string | undefined): boolean {
  if (value === undefined || value === "true" || value === "1") return true;
  if (value === "false" || value === "0") return false;
  throw refuse(text, `${key} must be true or false, got "${value}"`);
}

function applyField(mount: Draft<Mount>, text: string, key: string, value: string | undefined): void {
  const given = value ?? "";
  const pair = (): [string, string] => {
    const cut = given.indexOf("=");
    return cut < 0 ? [given, ""] : [given.slice(0, cut), given.slice(cut + 1)];
  };
  switch (key) {
    case "type": {
      const type = TYPES.find((each) => each === given.toLowerCase());
      if (type === undefined) throw refuse(text, `type must be one of ${TYPES.join(", ")}, got "${given}"`);
      mount.Type = type;
      return;
    }
    case "source":
    case "src":
      mount.Source = given;
      return;
    case "target":
    case "dst":
    case "destination":
      mount.Target = given;
      return;
    case "readonly":
    case "ro":
      mount.ReadOnly = flagValue(text, key, value);
      return;
    case "consistency":
      mount.Consistency = given;
      return;
    case "bind-propagation":
      if (!PROPAGATIONS.includes(given))
        throw refuse(text, `bind-propagation must be one of ${PROPAGATIONS.join(", ")}`);
      mount.BindOptions = { ...mount.BindOptions, Propagation: given };
      return;
    case "bind-nonrecursive":
      mount.BindOptions = { ...mount.BindOptions, NonRecursive: flagValue(text, key, value) };
      return;
    case "volume-nocopy":
      mount.VolumeOptions = { ...mount.VolumeOptions, NoCopy: flagValue(text, key, value) };
      return;
    case "volume-subpath":
      mount.VolumeOptions = { ...mount.VolumeOptions, Subpath: given };
      return;
    case "volume-driver":
      mount.VolumeOptions = {
        ...mount.VolumeOptions,
        DriverConfig: { ...mount.VolumeOptions?.DriverConfig, Name: given },
      };
      return;
    case "volume-label": {
      const [name, label] = pair();
      mount.VolumeOptions = {
        ...mount.VolumeOptions,
        Labels: { ...mount.VolumeOptions?.Labels, [name]: label },
      };
      return;
    }
    case "volume-opt": {
      const [name, option] = pair();
      const driver = mount.VolumeOptions?.DriverConfig;
      mount.VolumeOptions = {
        ...mount.VolumeOptions,
        DriverConfig: { ...driver, Options: { ...driver?.Options, [name]: option } },
      };
      return;
    }
    case "tmpfs-size":
      mount.TmpfsOptions = { ...mount.TmpfsOptions, SizeBytes: parseBytes(given) };
      return;
    case "tmpfs-mode":
      if (!/^[0-7]{1,4}$/.test(given)) throw refuse(text, `tmpfs-mode must be octal, got "${given}"`);
      mount.TmpfsOptions = { ...mount.TmpfsOptions, Mode: Number.parseInt(given, 8) };
      return;
    default:
      throw refuse(text, `unknown field "${key}"`);
  }
}

/** `--mount type=volume,source=data,target=/var/lib/data`. */
export function parseMount(text: string): Mount {
  const mount: Draft<Mount> = { Type: "volume", Target: "" };
  for (const field of splitCsv("mount", text)) {
    const cut = field.indexOf("=");
    const key = (cut < 0 ? field : field.slice(0, cut)).trim().toLowerCase();
    applyField(mount, text, key, cut < 0 ? undefined : field.slice(cut + 1));
  }
  if (mount.Target === "") throw refuse(text, "target is required");
  if (mount.VolumeOptions !== undefined && mount.Type !== "volume")
    throw refuse(text, `volume-* fields need type=volume`);
  if (mount.BindOptions !== undefined && mount.Type !== "bind")
    throw refuse(text, `bind-* fields need type=bind`);
  if (mount.TmpfsOptions !== undefined && mount.Type !== "tmpfs")
    throw refuse(text, `tmpfs-* fields need type=tmpfs`);
  if (mount.Type === "bind" && (mount.Source ?? "") === "")
    throw refuse(text, "source is required for type=bind");
  return mount;
}

export interface ShortVolume {
  /** "" for an anonymous volume. */
  readonly source: string;
  readonly target: string;
  readonly isReadOnly: boolean;
  readonly isNoCopy: boolean;
  readonly propagation?: string;
  readonly isBind: boolean;
}

/** "TARGET", "SOURCE:TARGET" or "SOURCE:TARGET:MODE". A source that starts with "/", "." or "~" is a path. */
export function parseShortVolume(text: string): ShortVolume {
  const parts = text.split(":");
  if (parts.length > 3 || parts.some((part) => part === ""))
    throw refuse(text, 'expected "[SOURCE:]TARGET[:MODE]"');
  const [source, target, mode] =
    parts.length === 1 ? ["", parts[0] ?? "", ""] : [parts[0] ?? "", parts[1] ?? "", parts[2] ?? ""];
  const words = mode === "" ? [] : mode.split(",");
  const known = new Set([
    "ro",
    "rw",
    "nocopy",
    "z",
    "Z",
    "cached",
    "delegated",
    "consistent",
    ...PROPAGATIONS,
  ]);
  const bad = words.find((word) => !known.has(word));
  if (bad !== undefined) throw refuse(text, `unknown mode "${bad}"`);
  const propagation = words.find((word) => PROPAGATIONS.includes(word));
  return {
    source,
    target,
    isReadOnly: words.includes("ro"),
    isNoCopy: words.includes("nocopy"),
    isBind: /^[/.~]/.test(source),
    ...(propagation === undefined ? {} : { propagation }),
  };
}
