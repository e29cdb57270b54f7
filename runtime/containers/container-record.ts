/**
 * A container as it is kept on disk: what was asked, what it became, where it stands. DATA_ROOT/containers/ID/container.json has the whole
 * record in its first line and what changed since in each later one. Secrets and callbacks of a task are not in it.
 */
import * as fs from "node:fs";
import path from "node:path";
import { ZERO_TIME } from "../../common/time.ts";
import { asFullDisk } from "../full-disk.ts";
import type {
  ContainerConfig,
  ContainerStatus,
  CreateContainerRequest,
  HostConfig,
} from "../../model/engine.ts";
import type { ContainerNetworkResult } from "../ports.ts";
import { syncFile } from "../sync-file.ts";

/** Of the folder of a container whose removal has begun. */
export const REMOVED_SUFFIX = ".removed";
/** The same, where its anonymous volumes go too. */
export const REMOVED_WITH_VOLUMES_SUFFIX = ".removed-v";
const RECORD_FILE = "container.json";

/** One entry of inspect's Mounts, and what spec.ts mounts. */
export interface MountPoint {
  readonly Type: "bind" | "volume" | "tmpfs" | "image";
  readonly Name?: string;
  readonly Source: string;
  readonly Destination: string;
  readonly Driver?: string;
  /** Options as given: "z", "ro,rslave". */
  readonly Mode: string;
  readonly RW: boolean;
  readonly Propagation: string;
  readonly subpath: string;
  /** Of an image: name of the writable layer that holds on to its layers. */
  readonly layerKey?: string;
  readonly isRecursive: boolean;
  /** "recursive" if every mount below is made read-only too, "shallow" for the top alone. */
  readonly readonlyDepth: "recursive" | "shallow";
  /** Image content is copied into an empty volume at first use. */
  readonly isCopied: boolean;
  /** tmpfs options. */
  readonly options: string;
  /** Made for this container: goes with `rm -v` and `--rm`. */
  readonly isAnonymous: boolean;
}

export interface PersistedState {
  readonly status: ContainerStatus;
  readonly pid: number;
  /** Start time of `pid` in ticks since boot, as text: tells it from a later process of that number. */
  readonly pidStartTicks: string;
  readonly exitCode: number;
  readonly error: string;
  readonly isOomKilled: boolean;
  readonly startedAt: string;
  readonly finishedAt: string;
}

export interface ContainerRecord {
  readonly id: string;
  readonly name: string;
  /** RFC 3339 with nine digits. */
  readonly created: string;
  /** The reference that was asked for. */
  readonly image: string;
  readonly imageId: string;
  /** Merged with the image's. */
  readonly config: ContainerConfig;
  readonly hostConfig: HostConfig;
  readonly networkingConfig: CreateContainerRequest["networkingConfig"] | null;
  readonly mounts: readonly MountPoint[];
  readonly state: PersistedState;
  readonly restartCount: number;
  /** A person stopped it: "unless-stopped" does not bring it back. */
  readonly isStoppedByUser: boolean;
  /** What the network gave it while it runs. */
  readonly network: ContainerNetworkResult | null;
  /** Endpoints of a task, which the worker attached. */
  readonly isNetworkOfTask: boolean;
}

export const INITIAL_STATE: PersistedState = {
  status: "created",
  pid: 0,
  pidStartTicks: "0",
  exitCode: 0,
  error: "",
  isOomKilled: false,
  startedAt: ZERO_TIME,
  finishedAt: ZERO_TIME,
};

/** Beyond this the file is written anew: a container that is restarted all day leaves 300 bytes each time. */
const RECORD_BYTES_MAX = 64 * 1024;

/**
 * The file of one container. Synchronous: what is written is in the page cache when the call returns, so a killed daemon loses
 * nothing, and that takes less time than asking a thread for it. Synced are a new container's record, and what its restart policy
 * goes by; any other last change may be lost with the machine's power, which ends the container anyway.
 */
export class RecordFile {
  readonly #path: string;
  #bytes: number;

  /** `bytes`: present length of the file; RECORD_BYTES_MAX makes the next change write it anew. */
  constructor(folder: string, bytes: number) {
    this.#path = path.join(folder, RECORD_FILE);
    this.#bytes = bytes;
  }

  /** The first line. The folder must hold no record yet. */
  static create(folder: string, record: ContainerRecord): RecordFile {
    const text = JSON.stringify(record);
    try {
      fs.writeFileSync(path.join(folder, RECORD_FILE), text, { mode: 0o600, flag: "wx" });
    } catch (caught) {
      throw asFullDisk(caught, "container", folder);
    }
    return new RecordFile(folder, Buffer.byteLength(text));
  }

  /** `record` is the whole of it after the change. Every change begins a line, so that one cut short spoils no later one. */
  change(change: Partial<ContainerRecord>, record: ContainerRecord): void {
    if (this.#bytes >= RECORD_BYTES_MAX) return this.#rewrite(record);
    const text = `\n${JSON.stringify(change)}`;
    try {
      this.#append(text);
      this.#bytes += Buffer.byteLength(text);
    } catch (caught) {
      // The next one must bring along what is missing now.
      this.#bytes = RECORD_BYTES_MAX;
      throw asFullDisk(caught, "container", path.dirname(this.#path));
    }
  }

  /** Resolves when a loss of power takes nothing any more of what was written so far. */
  synced(): Promise<void> {
    return syncFile(this.#path);
  }

  /** Never makes the file: changes without a first line would be worth nothing. */
  #append(text: string): void {
    const fd = fs.openSync(this.#path, fs.constants.O_WRONLY | fs.constants.O_APPEND);
    try {
      fs.writeFileSync(fd, text);
    } finally {
      fs.closeSync(fd);
    }
  }

  #rewrite(record: ContainerRecord): void {
    const text = JSON.stringify(record);
    const next = `${this.#path}.new`;
    fs.writeFileSync(next, text, { mode: 0o600 });
    fs.renameSync(next, this.#path);
    this.#bytes = Buffer.byteLength(text);
  }
}

/** Changes that can't be read were cut short by a kill or a loss of power: the state before them counts. */
function parseRecord(text: string): ContainerRecord {
  const [first = "", ...changes] = text.split("\n");
  let record = JSON.parse(first) as ContainerRecord;
  for (const line of changes) {
    try {
      record = { ...record, ...(JSON.parse(line) as Partial<ContainerRecord>) };
    } catch (caught) {
      if (!(caught instanceof SyntaxError)) throw caught;
    }
  }
  return record;
}

export interface LoadedRecord {
  readonly record: ContainerRecord;
  /** Of its file. */
  readonly bytes: number;
}

/** All containers on disk; folders without a whole record are left over from a crash and named in `broken`. */
export function loadRecords(root: string): {
  readonly loaded: readonly LoadedRecord[];
  readonly broken: readonly string[];
} {
  const loaded: LoadedRecord[] = [];
  const broken: string[] = [];
  for (const name of fs.readdirSync(root).sort()) {
    try {
      const text = fs.readFileSync(path.join(root, name, RECORD_FILE), "utf8");
      const record = parseRecord(text);
      if (record.id === name) loaded.push({ record, bytes: Buffer.byteLength(text) });
      else broken.push(name);
    } catch {
      broken.push(name);
    }
  }
  const created = ({ record }: LoadedRecord): string => record.created;
  loaded.sort((a, b) => (created(a) < created(b) ? -1 : created(a) > created(b) ? 1 : 0));
  return { loaded, broken };
}

let lastNanoseconds = 0n;
/** Wall time with nine digits, of a clock that may be set meanwhile; strictly growing, so that an order of creation can be told. */
export function nowNanoseconds(): bigint {
  const now = BigInt(Date.now()) * 1_000_000n;
  lastNanoseconds = now > lastNanoseconds ? now : lastNanoseconds + 1n;
  return lastNanoseconds;
}
