/**
 * `-v`, `--mount`, `--tmpfs`, `--volumes-from` and the image's VOLUMEs as one list of mount points, checked as `docker create` checks
 * them. Makes volumes through VolumeSource, nothing else.
 */
import { existsSync } from "node:fs";
import * as fs from "node:fs/promises";
import path from "node:path";
import { ClusterError } from "../../common/errors.ts";
import type { ContainerConfig, HostConfig } from "../../model/engine.ts";
import type { Mount } from "../../model/specs.ts";
import type { VolumeSource } from "../ports.ts";
import type { MountPoint } from "./container-record.ts";

const PROPAGATIONS = ["private", "rprivate", "slave", "rslave", "shared", "rshared"];
const VOLUME_NAME = /^[a-zA-Z0-9][a-zA-Z0-9_.-]*$/;

function refuse(text: string): never {
  throw new ClusterError("invalid_argument", text);
}

const BASE: Pick<
  MountPoint,
  | "Mode"
  | "RW"
  | "Propagation"
  | "subpath"
  | "isRecursive"
  | "readonlyDepth"
  | "isCopied"
  | "options"
  | "isAnonymous"
> = {
  Mode: "",
  RW: true,
  Propagation: "",
  subpath: "",
  isRecursive: true,
  readonlyDepth: "recursive",
  isCopied: false,
  options: "",
  isAnonymous: false,
};

function cleanTarget(target: string, given: string): string {
  if (!path.isAbsolute(target))
    refuse(
      `invalid mount config for type "bind": invalid mount path: '${target}' mount path must be absolute`,
    );
  const clean = path.posix.normalize(target).replace(/(.)\/$/, "$1");
  if (clean === "/")
    refuse(
      `invalid volume specification: '${given}': invalid mount config for type "bind": destination can't be '/'`,
    );
  return clean;
}

/** "SOURCE:TARGET[:OPTIONS]", or "TARGET" alone for a volume without a name. */
export function parseBind(text: string): MountPoint {
  const parts = text.split(":");
  if (parts.length === 1 && path.isAbsolute(text)) {
    const Destination = cleanTarget(text, text);
    return { ...BASE, Type: "volume", Source: "", Driver: "local", Destination, isCopied: true };
  }
  const [source = "", target = "", mode = ""] = parts;
  if (parts.length < 2 || parts.length > 3 || source === "" || target === "") {
    refuse(`invalid volume specification: '${text}'`);
  }
  const words = mode.split(",").filter((word) => word !== "");
  const propagation = words.find((word) => PROPAGATIONS.includes(word));
  const known = ["ro", "rw", "z", "Z", "nocopy", "consistent", "cached", "delegated", ...PROPAGATIONS];
  const unknown = words.find((word) => !known.includes(word));
  if (unknown !== undefined) refuse(`invalid mode: ${mode}`);
  if (words.includes("ro") && words.includes("rw")) refuse(`invalid mode: ${mode}`);
  const base = { ...BASE, Destination: cleanTarget(target, text), Mode: mode, RW: !words.includes("ro") };
  if (path.isAbsolute(source)) {
    return { ...base, Type: "bind", Source: path.normalize(source), Propagation: propagation ?? "rprivate" };
  }
  if (!VOLUME_NAME.test(source)) {
    refuse(
      `create ${source}: "${source}" includes invalid characters for a local volume name, only "[a-zA-Z0-9][a-zA-Z0-9_.-]" are allowed. If you intended to pass a host directory, use absolute path`,
    );
  }
  if (propagation !== undefined) refuse(`invalid volume specification: '${text}'`);
  return {
    ...base,
    Type: "volume",
    Name: source,
    Source: "",
    Driver: "local",
    Mode: mode === "" ? "z" : mode,
    isCopied: !words.includes("nocopy"),
  };
}

function tmpfsOptions(options: Mount["TmpfsOptions"]): string {
  const words: string[] = [];
  if ((options?.SizeBytes ?? 0) > 0) words.push(`size=${options?.SizeBytes}`);
  if ((options?.Mode ?? 0) > 0) words.push(`mode=${(options?.Mode ?? 0).toString(8)}`);
  for (const [key = "", value] of options?.Options ?? [])
    words.push(value === undefined ? key : `${key}=${value}`);
  return words.join(",");
}

/** A subpath that leads out through a link is refused at the start. */
function insideOf(subpath = "", bad: (why: string) => never): string {
  if (subpath === "") return "";
  const clean = path.posix.normalize(subpath);
  if (path.isAbsolute(clean) || clean === ".." || clean.startsWith("../"))
    return bad("subpath must be a relative path within the volume");
  return clean;
}

function fromMount(mount: Mount): MountPoint {
  const type = mount.Type ?? "volume";
  const bad = (why: string): never => refuse(`invalid mount config for type "${type}": ${why}`);
  if ((mount.Target ?? "") === "") bad("field Target must not be empty");
  const source = mount.Source ?? "";
  const base = { ...BASE, Destination: cleanTarget(mount.Target, mount.Target), RW: mount.ReadOnly !== true };
  switch (type) {
    case "bind": {
      if (source === "") bad("field Source must not be empty");
      if (!path.isAbsolute(source)) bad(`invalid mount path: '${source}' mount path must be absolute`);
      const propagation = mount.BindOptions?.Propagation ?? "";
      if (propagation !== "" && !PROPAGATIONS.includes(propagation))
        bad(`invalid propagation mode: ${propagation}`);
      return {
        ...base,
        Type: "bind",
        Source: path.normalize(source),
        Propagation: propagation === "" ? "rprivate" : propagation,
        isRecursive: mount.BindOptions?.NonRecursive !== true,
        readonlyDepth: mount.BindOptions?.ReadOnlyNonRecursive === true ? "shallow" : "recursive",
      };
    }
    case "tmpfs":
      if (source !== "") bad("field Source must not be specified");
      return { ...base, Type: "tmpfs", Source: "", options: tmpfsOptions(mount.TmpfsOptions) };
    case "volume":
      if (mount.BindOptions !== undefined && Object.keys(mount.BindOptions).length > 0)
        bad("field BindOptions must not be specified");
      if (source !== "" && !VOLUME_NAME.test(source))
        bad(`"${source}" includes invalid characters for a local volume name`);
      if (source === "" && (mount.VolumeOptions?.Subpath ?? "") !== "")
        bad("must not set Subpath when using anonymous volumes");
      return {
        ...base,
        Type: "volume",
        ...(source === "" ? {} : { Name: source }),
        Source: "",
        Driver: mount.VolumeOptions?.DriverConfig?.Name ?? "local",
        Mode: "z",
        isCopied: mount.VolumeOptions?.NoCopy !== true,
        subpath: insideOf(mount.VolumeOptions?.Subpath, bad),
      };
    case "image":
      if (source === "") bad("field Source must not be empty");
      return {
        ...base,
        Type: "image",
        Name: source,
        Source: "",
        RW: false,
        subpath: insideOf(mount.ImageOptions?.Subpath, bad),
      };
    case "cluster":
      return bad("cluster volumes need a CSI plugin, and there is none here");
    case "npipe":
      return bad("named pipes are there on Windows only");
  }
  // The type says that it can't be; the client may.
  return bad("mount type unknown");
}

export interface MountPointInput {
  readonly containerId: string;
  readonly config: ContainerConfig;
  readonly hostConfig: HostConfig;
  readonly volumes: VolumeSource;
  /** Holds on to the layers of an image, and answers the name by which they are found again. */
  readonly holdImage: (reference: string) => Promise<string>;
  /** Mount points of another container, for `--volumes-from`. */
  readonly mountsOf: (container: string) => readonly MountPoint[];
}

function fromOthers(input: MountPointInput): readonly MountPoint[] {
  return (input.hostConfig.VolumesFrom ?? []).flatMap((entry) => {
    const [container = "", mode = "rw"] = entry.split(":");
    if (!["ro", "rw", "z", "Z"].includes(mode)) refuse(`invalid mode for volumes-from: ${mode}`);
    return input
      .mountsOf(container)
      .filter((point) => point.Type !== "tmpfs" && point.Type !== "image")
      .map((point) => ({ ...point, RW: point.RW && mode !== "ro", isAnonymous: false }));
  });
}

async function checkBindSources(hostConfig: HostConfig): Promise<void> {
  for (const mount of hostConfig.Mounts ?? []) {
    if (mount.Type !== "bind" || mount.Source === undefined) continue;
    if (existsSync(mount.Source)) continue;
    if (mount.BindOptions?.CreateMountpoint === true) await fs.mkdir(mount.Source, { recursive: true });
    else refuse(`invalid mount config for type "bind": bind source path does not exist: ${mount.Source}`);
  }
}

/** Later ones win over earlier ones of the same target in this order: image, others' volumes, binds, mounts. */
export async function resolveMountPoints(input: MountPointInput): Promise<readonly MountPoint[]> {
  const { config, hostConfig } = input;
  const points = new Map<string, MountPoint>();
  const explicit = new Set<string>();
  for (const point of fromOthers(input)) points.set(point.Destination, point);
  const own = [...(hostConfig.Binds ?? []).map(parseBind), ...(hostConfig.Mounts ?? []).map(fromMount)];
  for (const point of own) {
    if (explicit.has(point.Destination)) refuse(`Duplicate mount point: ${point.Destination}`);
    explicit.add(point.Destination);
    points.set(point.Destination, point);
  }
  for (const [target, options] of Object.entries(hostConfig.Tmpfs ?? {})) {
    const clean = cleanTarget(target, target);
    if (explicit.has(clean)) refuse(`Duplicate mount point: ${clean}`);
    const isReadonly = options.split(",").includes("ro");
    points.set(clean, { ...BASE, Type: "tmpfs", Source: "", Destination: clean, RW: !isReadonly, options });
  }
  for (const target of Object.keys(config.Volumes ?? {})) {
    const clean = cleanTarget(target, target);
    if (points.has(clean)) continue;
    points.set(clean, {
      ...BASE,
      Type: "volume",
      Source: "",
      Destination: clean,
      Driver: hostConfig.VolumeDriver ?? "local",
      isCopied: true,
    });
  }
  await checkBindSources(hostConfig);
  const driverOf = new Map((hostConfig.Mounts ?? []).map((mount) => [mount.Target, mount.VolumeOptions]));
  const resolved: MountPoint[] = [];
  for (const point of points.values())
    resolved.push(await withVolume(point, input, driverOf.get(point.Destination)));
  return resolved;
}

async function withVolume(
  point: MountPoint,
  input: MountPointInput,
  options: Mount["VolumeOptions"],
): Promise<MountPoint> {
  if (point.Type === "bind" && !existsSync(point.Source)) {
    // `-v` makes a missing folder, `--mount` does not (and was refused above).
    await fs.mkdir(point.Source, { recursive: true });
    return point;
  }
  if (point.Type === "image") return { ...point, layerKey: await input.holdImage(point.Name ?? "") };
  if (point.Type !== "volume" || point.Source !== "") return point;
  const driver = options?.DriverConfig?.Name ?? input.hostConfig.VolumeDriver ?? "";
  const volume = await input.volumes.ensure({
    name: point.Name ?? null,
    madeFor: input.containerId,
    ...(driver === "" ? {} : { driver }),
    ...(options?.DriverConfig?.Options === undefined ? {} : { options: options.DriverConfig.Options }),
    ...(options?.Labels === undefined ? {} : { labels: options.Labels }),
  });
  return {
    ...point,
    Name: volume.name,
    Driver: volume.driver,
    Source: volume.mountpoint,
    isAnonymous: point.Name === undefined,
  };
}
