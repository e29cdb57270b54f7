/**
 * `docker cp` and `docker export`: file trees in and out of a container, running or not, by a native process that sees the container's
 * tree and follows no link out of it. Here are Docker's rules of names and errors.
 */
import * as fs from "node:fs/promises";
import type { Socket } from "node:net";
import path from "node:path";
import { PassThrough, type Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { ClusterError } from "../../common/errors.ts";
import { rfc3339At } from "../../common/time.ts";
import type { JsonObject } from "../../model/engine.ts";
import { decompressed, peek } from "../images/decompression.ts";
import type { RootfsSource } from "../ports.ts";
import { startTicks } from "./execs.ts";
import { mountImage } from "./image-mounts.ts";
import type { LaunchMount } from "./launch-spec.ts";
import type { MountPoint } from "./container-record.ts";
import type { LiveContainer } from "./live-container.ts";
import { FrameType } from "./native-frames.ts";
import { ArchiveMode, encodeArchiveJob, NamespaceFlag, type ArchiveJob } from "./native-job.ts";
import type { NativeLauncher } from "./native-launcher.ts";
import { pointMount, volatileFlags } from "./spec.ts";
import { userNamespaceOf } from "./user-namespace.ts";
import { unmountBelow } from "../volumes/mount-calls.ts";

export interface ArchiveDeps {
  readonly launcher: NativeLauncher;
  readonly rootfs: RootfsSource;
  readonly execRoot: string;
}

const FRAME_BYTES_MAX = 64 * 1024;

/** Go's os.FileMode, which Docker clients expect, of a Unix mode. */
export function goFileMode(mode: number): number {
  const kinds: Readonly<Record<number, number>> = {
    0o040000: 2 ** 31,
    0o120000: 2 ** 27,
    0o060000: 2 ** 26,
    0o020000: 2 ** 26 + 2 ** 21,
    0o010000: 2 ** 25,
    0o140000: 2 ** 24,
  };
  const flags =
    ((mode & 0o4000) === 0 ? 0 : 2 ** 23) +
    ((mode & 0o2000) === 0 ? 0 : 2 ** 22) +
    ((mode & 0o1000) === 0 ? 0 : 2 ** 20);
  return (kinds[mode & 0o170000] ?? 0) + flags + (mode & 0o777);
}

/** Below the exec root: images that are mounted for a look into a container that does not run. */
const LOOKS = "look";

/** Name of the entries' top as Docker has it: "." for "dir/.", "/" for the root. */
function baseOf(place: string): string {
  if (place.endsWith("/.")) return ".";
  const base = path.posix.basename(path.posix.normalize(`/${place}`));
  return base === "" ? "/" : base;
}

/** Reads one frame and leaves what follows in the stream. */
async function readFrame(socket: Socket): Promise<{ readonly type: number; readonly payload: Buffer }> {
  const take = async (length: number): Promise<Buffer> => {
    if (length === 0) return Buffer.alloc(0);
    while (true) {
      const bytes = socket.read(length) as Buffer | null;
      if (bytes !== null && bytes.byteLength === length) return bytes;
      if (socket.readableEnded || socket.destroyed || bytes !== null) {
        throw new ClusterError("unavailable", "The archive process ended without an answer");
      }
      await new Promise<void>((resolve) => {
        const done = (): void => {
          for (const event of ["readable", "end", "close", "error"]) socket.off(event, done);
          resolve();
        };
        for (const event of ["readable", "end", "close", "error"]) socket.on(event, done);
      });
    }
  };
  const head = await take(5);
  const length = head.readUInt32LE(0) - 1;
  if (length > FRAME_BYTES_MAX)
    throw new ClusterError("internal", `Archive answer is too long: ${length} bytes`);
  return { type: head.readUInt8(4), payload: await take(length) };
}

/** As root of its user namespace, so that ids in an archive are the container's. */
function processTarget(pid: number): ArchiveJob["process"] {
  const namespaces = userNamespaceOf(pid).isOwn ? NamespaceFlag.user : 0;
  return { pid, startTicks: startTicks(pid), namespaces };
}

function archiveError(text: string, place: string, live: LiveContainer): ClusterError {
  const [, code = "", words = text] = /^(E[A-Z]+): ([\s\S]*)$/.exec(text) ?? [];
  switch (code) {
    case "ENOENT":
      return new ClusterError(
        "not_found",
        `Could not find the file ${place} in container ${live.record.name}`,
      );
    case "ENOTDIR":
      return new ClusterError("invalid_argument", words);
    case "EROFS":
      return new ClusterError("permission_denied", words);
    default:
      return new ClusterError(text.startsWith("cannot overwrite") ? "invalid_argument" : "internal", words);
  }
}

interface Wanted {
  readonly place: string;
  readonly prefix?: string;
  readonly keepsKind?: boolean;
  readonly user?: string;
}

interface Opened {
  readonly socket: Socket;
  readonly payload: Buffer;
}

/** What is mounted below another mount comes after it. */
function byDepth(one: LaunchMount, other: LaunchMount): number {
  return one.target.split("/").length - other.target.split("/").length;
}

export class Archives {
  readonly #deps: ArchiveDeps;

  #lookCount = 0;

  constructor(deps: ArchiveDeps) {
    this.#deps = deps;
  }

  /** Takes away what a killed daemon has left mounted. */
  async open(): Promise<void> {
    const folder = path.join(this.#deps.execRoot, LOOKS);
    await unmountBelow(folder);
    await fs.rm(folder, { recursive: true, force: true });
  }

  async export(live: LiveContainer): Promise<Readable> {
    const { lower, upper } = await this.#deps.rootfs.layers(live.id);
    const job = await this.#job(live, ArchiveMode.export, { place: "/" });
    // Read from the layers, without volumes, whether it runs or not.
    const { socket } = await this.#open(live, "/", {
      ...job,
      process: undefined,
      lower: [upper, ...lower],
      upper: undefined,
      work: undefined,
      mounts: [],
    });
    return tarOf(socket);
  }

  async stat(live: LiveContainer, place: string): Promise<JsonObject> {
    const { socket, payload } = await this.#look(live, ArchiveMode.stat, { place });
    socket.destroy();
    return statJson(payload, place);
  }

  async get(
    live: LiveContainer,
    place: string,
  ): Promise<{ readonly stat: JsonObject; readonly tar: Readable }> {
    const { socket, payload } = await this.#look(live, ArchiveMode.get, { place, prefix: baseOf(place) });
    return { stat: statJson(payload, place), tar: tarOf(socket) };
  }

  async put(
    live: LiveContainer,
    place: string,
    tar: Readable,
    options: { readonly noOverwriteDirNonDir: boolean; readonly copyUidGid: boolean },
  ): Promise<void> {
    const { socket } = await this.#look(live, ArchiveMode.put, {
      place,
      keepsKind: options.noOverwriteDirNonDir,
      user: options.copyUidGid ? (live.record.config.User ?? "") : "",
    });
    try {
      const answer = readFrame(socket);
      // An error comes while we still send: the pipe breaks, the answer says why.
      const feed = async (): Promise<void> => pipeline(decompressed(await peek(tar)), socket);
      const [fed] = await Promise.allSettled([feed(), answer]);
      // An archive that could not be read says more than the process that got only half of it.
      if (fed.status === "rejected" && fed.reason instanceof ClusterError) throw fed.reason;
      const { type, payload } = await answer;
      if (type !== FrameType.done) throw archiveError(payload.toString("utf8"), place, live);
    } finally {
      socket.destroy();
    }
  }

  async #job(live: LiveContainer, mode: number, wanted: Wanted): Promise<ArchiveJob> {
    // The layers are to be mounted again: those of the last run must not be any more.
    if (!live.isRunning) await live.ending?.closed;
    const { pid } = live.record.state;
    const { place, prefix = "", keepsKind = false, user = "" } = wanted;
    const stateDir = path.join(this.#deps.execRoot, "c", live.id);
    await fs.mkdir(stateDir, { recursive: true, mode: 0o711 });
    const { lower, upper, work } = await this.#deps.rootfs.layers(live.id);
    return {
      flags: volatileFlags(live.record),
      mode,
      path: place === "" ? "/" : place,
      prefix,
      keepsKind,
      user,
      process: live.isRunning && pid > 0 ? processTarget(pid) : undefined,
      stateDir,
      lower,
      upper,
      work,
      mounts: live.record.mounts
        .filter(({ Type }) => Type !== "tmpfs" && Type !== "image")
        .map(pointMount)
        .toSorted(byDepth),
    };
  }

  /** The container's tree with all that is mounted in it, once the process that reads or writes has it open. */
  async #look(live: LiveContainer, mode: number, wanted: Wanted): Promise<Opened> {
    const job = await this.#job(live, mode, wanted);
    const images = live.record.mounts.filter(({ Type }) => Type === "image");
    if (job.process !== undefined || images.length === 0) return this.#open(live, wanted.place, job);
    // A running container's own process has them; here they are there until this one has copied them for itself.
    this.#lookCount += 1;
    const folder = path.join(this.#deps.execRoot, LOOKS, `${live.id}-${this.#lookCount}`);
    try {
      await fs.mkdir(folder, { recursive: true, mode: 0o700 });
      const points: MountPoint[] = [];
      for (const point of images) {
        const mountpoint = path.join(folder, String(points.length));
        await mountImage(this.#deps.rootfs, point, mountpoint);
        points.push({ ...point, Source: mountpoint });
      }
      return await this.#open(live, wanted.place, {
        ...job,
        mounts: [...job.mounts, ...points.map(pointMount)].toSorted(byDepth),
      });
    } finally {
      await unmountBelow(folder);
      await fs.rm(folder, { recursive: true, force: true });
    }
  }

  async #open(live: LiveContainer, place: string, job: ArchiveJob): Promise<Opened> {
    const socket = await this.#deps.launcher.archive(encodeArchiveJob(job));
    socket.on("error", () => undefined);
    try {
      const { type, payload } = await readFrame(socket);
      if (type === FrameType.done) return { socket, payload };
      throw archiveError(payload.toString("utf8"), place, live);
    } catch (caught) {
      socket.destroy();
      throw caught;
    }
  }
}

function tarOf(socket: Socket): Readable {
  const tar = new PassThrough();
  socket.end();
  pipeline(socket, tar).catch((caught: unknown) => tar.destroy(ClusterError.from(caught)));
  return tar;
}

function statJson(payload: Buffer, place: string): JsonObject {
  const [size = "0", mode = "0", seconds = "0", nanoseconds = "0", , ...target] = payload
    .toString("utf8")
    .split("\n");
  const link = target.join("\n");
  const absolute = link === "" ? "" : path.posix.resolve("/", path.posix.dirname(`/${place}`), link);
  return {
    name: baseOf(place),
    size: Number(size),
    mode: goFileMode(Number(mode)),
    mtime: rfc3339At(Number(seconds), Number(nanoseconds)),
    linkTarget: absolute,
  };
}
