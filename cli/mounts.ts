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

/** Name and value of "NAME=VALUE"; the value is "" where there is none. */
function pairOf(text: string): [string, string] {
  const cut = text.indexOf("=");
  return cut < 0 ? [text, ""] : [text.slice(0, cut), text.slice(cut + 1)];
}

/** A field of a mount: what it was given is put into `mount`. */
interface Field {
  readonly mount: Draft<Mount>;
  /** The whole word, for errors. */
  readonly text: string;
  readonly given: string;
  readonly isSet: () => boolean;
}

function setType({ mount, text, given }: Field): void {
  const type = TYPES.find((each) => each === given.toLowerCase());
  if (type === undefined) throw refuse(text, `type must be one of ${TYPES.join(", ")}, got "${given}"`);
  mount.Type = type;
}

function setSource({ mount, given }: Field): void {
  mount.Source = given;
}

function setTarget({ mount, given }: Field): void {
  mount.Target = given;
}

function setReadOnly({ mount, isSet }: Field): void {
  mount.ReadOnly = isSet();
}

function bindOption(optionsOf: (field: Field) => NonNullable<Mount["BindOptions"]>): (field: Field) => void {
  return (field) => {
    field.mount.BindOptions = { ...field.mount.BindOptions, ...optionsOf(field) };
  };
}

function volumeOption(
  optionsOf: (
    field: Field,
    options: NonNullable<Mount["VolumeOptions"]>,
  ) => NonNullable<Mount["VolumeOptions"]>,
): (field: Field) => void {
  return (field) => {
    const options = field.mount.VolumeOptions ?? {};
    field.mount.VolumeOptions = { ...options, ...optionsOf(field, options) };
  };
}

function tmpfsOption(
  optionsOf: (field: Field) => NonNullable<Mount["TmpfsOptions"]>,
): (field: Field) => void {
  return (field) => {
    field.mount.TmpfsOptions = { ...field.mount.TmpfsOptions, ...optionsOf(field) };
  };
}

function propagation({ text, given }: Field): string {
  if (!PROPAGATIONS.includes(given))
    throw refuse(text, `bind-propagation must be one of ${PROPAGATIONS.join(", ")}, got "${given}"`);
  return given;
}

function tmpfsBytes({ text, given }: Field): number {
  try {
    return parseBytes(given);
  } catch {
    throw refuse(text, `tmpfs-size must be bytes as in "64M" or "1.5GiB", got "${given}"`);
  }
}

function tmpfsMode({ text, given }: Field): number {
  if (!/^[0-7]{1,4}$/.test(given)) throw refuse(text, `tmpfs-mode must be octal, got "${given}"`);
  return Number.parseInt(given, 8);
}

const FIELDS: Readonly<Record<string, (field: Field) => void>> = {
  type: setType,
  source: setSource,
  src: setSource,
  target: setTarget,
  dst: setTarget,
  destination: setTarget,
  readonly: setReadOnly,
  ro: setReadOnly,
  consistency: ({ mount, given }) => {
    mount.Consistency = given;
  },
  "bind-propagation": bindOption((field) => ({ Propagation: propagation(field) })),
  "bind-nonrecursive": bindOption(({ isSet }) => ({ NonRecursive: isSet() })),
  "volume-nocopy": volumeOption(({ isSet }) => ({ NoCopy: isSet() })),
  "volume-subpath": volumeOption(({ given }) => ({ Subpath: given })),
  "image-subpath": ({ mount, given }) => {
    mount.ImageOptions = { Subpath: given };
  },
  "volume-driver": volumeOption(({ given }, { DriverConfig }) => ({
    DriverConfig: { ...DriverConfig, Name: given },
  })),
  "volume-label": volumeOption(({ given }, { Labels }) => ({
    Labels: { ...Labels, ...Object.fromEntries([pairOf(given)]) },
  })),
  "volume-opt": volumeOption(({ given }, { DriverConfig }) => ({
    DriverConfig: {
      ...DriverConfig,
      Options: { ...DriverConfig?.Options, ...Object.fromEntries([pairOf(given)]) },
    },
  })),
  "tmpfs-size": tmpfsOption((field) => ({ SizeBytes: tmpfsBytes(field) })),
  "tmpfs-mode": tmpfsOption((field) => ({ Mode: tmpfsMode(field) })),
};

function applyField(mount: Draft<Mount>, text: string, key: string, value: string | undefined): void {
  const apply = Object.hasOwn(FIELDS, key) ? FIELDS[key] : undefined;
  if (apply === undefined) throw refuse(text, `unknown field "${key}"`);
  apply({ mount, text, given: value ?? "", isSet: () => flagValue(text, key, value) });
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
  if (mount.ImageOptions !== undefined && mount.Type !== "image")
    throw refuse(text, `image-* fields need type=image`);
  if (mount.TmpfsOptions !== undefined && mount.Type !== "tmpfs")
    throw refuse(text, `tmpfs-* fields need type=tmpfs`);
  if ((mount.Type === "bind" || mount.Type === "image") && (mount.Source ?? "") === "")
    throw refuse(text, `source is required for type=${mount.Type}`);
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
