/**
 * A volume driver in a process of its own, spoken to by Docker's volume plugin protocol: JSON over HTTP on a UNIX socket in
 * a plugins folder. A plugin that is slow or gone fails the call it was asked for, and nothing else.
 */
import { closeSync, constants, openSync, readdirSync } from "node:fs";
import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { ClusterError, hasCode, hasNodeCode, type ErrorCode } from "../../common/errors.ts";
import { isObject } from "../../common/json.ts";
import { plainHttp } from "../node-http.ts";
import type { DriverVolume, VolumeDriver } from "./volume-driver.ts";

/** A plugin may have to reach for storage far away. */
const CALL_TIMEOUT_MS = 60_000;
/** Questions that `volume ls` waits for. */
const READ_TIMEOUT_MS = 10_000;
/** For a plugin that is being restarted. */
const PLUGIN_WAIT_MS = 10_000;
const ANSWER_BYTES_MAX = 4 * 1024 * 1024;
/** What the socket of a plugin says that does not run, or ends just now. */
const NOBODY: readonly string[] = ["ENOENT", "ECONNREFUSED", "EPIPE", "ECONNRESET"];
const RETRY_FIRST_MS = 20;
const RETRY_MAX_MS = 500;
const CONTENT_TYPE = "application/vnd.docker.plugins.v1.2+json";

type Answer = Readonly<Record<string, unknown>>;

interface PluginCall {
  /** "VolumeDriver.Mount" */
  readonly call: string;
  readonly body: object;
  readonly timeoutMs: number;
}

/** One POST; resolves to the JSON object that comes back. `unavailable` where nobody listens. */
function post(socketPath: string, { call, body, timeoutMs }: PluginCall): Promise<Answer> {
  const text = JSON.stringify(body);
  return new Promise((resolve, reject) => {
    const failed = (why: string, code: ErrorCode = "internal"): void =>
      reject(new ClusterError(code, `${call}: ${why}`, { details: { socketPath } }));
    let folder: number;
    try {
      folder = openSync(path.dirname(socketPath), constants.O_RDONLY | constants.O_DIRECTORY);
    } catch (caught) {
      return failed(
        ClusterError.from(caught).message,
        ClusterError.from(caught).code === "not_found" ? "unavailable" : "internal",
      );
    }
    const outgoing = plainHttp.request(
      {
        // A socket's path has at most 107 bytes; that of its folder may have more.
        socketPath: `/proc/self/fd/${folder}/${path.basename(socketPath)}`,
        path: `/${call}`,
        method: "POST",
        headers: {
          "Content-Type": CONTENT_TYPE,
          Accept: CONTENT_TYPE,
          "Content-Length": Buffer.byteLength(text),
        },
        timeout: timeoutMs,
      },
      (response) => {
        const pieces: Buffer[] = [];
        let bytes = 0;
        response.on("data", (piece: Buffer) => {
          bytes += piece.length;
          if (bytes > ANSWER_BYTES_MAX) response.destroy(new Error("answer is too large"));
          else pieces.push(piece);
        });
        response.on("error", (error: Error) => failed(error.message));
        response.on("end", () => {
          const answer = parseAnswer(Buffer.concat(pieces).toString("utf8"));
          const error = answer?.["Err"];
          if (typeof error === "string" && error !== "") failed(error);
          else if (response.statusCode !== 200) failed(`plugin answered ${response.statusCode}`);
          else if (answer === undefined) failed("plugin's answer is no JSON object");
          else resolve(answer);
        });
      },
    );
    outgoing.on("close", () => closeSync(folder));
    outgoing.on("timeout", () => {
      // Not "no such volume": nothing is known of it.
      failed(`no answer in ${timeoutMs / 1000} s`, "deadline_exceeded");
      outgoing.destroy();
    });
    outgoing.on("error", (error) =>
      failed(
        error.message.replace(/\/proc\/self\/fd\/\d+\/\S+/, socketPath),
        hasNodeCode(error, ...NOBODY) ? "unavailable" : "internal",
      ),
    );
    outgoing.end(text);
  });
}

/** As post(), but for `waitMs` waits for a plugin that is not there (yet, or again after a crash). */
async function postWhenUp(socketPath: string, call: PluginCall, waitMs: number): Promise<Answer> {
  const deadlineMs = performance.now() + waitMs;
  for (let pauseMs = RETRY_FIRST_MS; ; pauseMs = Math.min(RETRY_MAX_MS, pauseMs * 2)) {
    try {
      return await post(socketPath, call);
    } catch (caught) {
      if (!hasCode(caught, "unavailable") || performance.now() + pauseMs > deadlineMs) throw caught;
    }
    await sleep(pauseMs);
  }
}

function parseAnswer(text: string): Answer | undefined {
  // Some calls answer with nothing.
  if (text.trim() === "") return {};
  try {
    const value: unknown = JSON.parse(text);
    return isObject(value) ? value : undefined;
  } catch {
    return undefined;
  }
}

function toVolume(value: unknown): DriverVolume | undefined {
  if (!isObject(value) || typeof value["Name"] !== "string") return undefined;
  const { Name: name, Mountpoint: mountpoint, CreatedAt: createdAt, Status: status } = value;
  return {
    name,
    mountpoint: typeof mountpoint === "string" ? mountpoint : "",
    createdAt: typeof createdAt === "string" ? createdAt : "",
    status: isObject(status) ? status : {},
  };
}

/** Where a plugin is spoken to, and how its paths read on the host. */
export interface PluginPlace {
  readonly name: string;
  readonly socketPath: string;
  /** How long a call waits for somebody to listen. */
  readonly waitMs: number;
  /** The same for questions only. Default waitMs. */
  readonly readWaitMs?: number;
  /** How long an answer may take; default 60 s, of questions 10 s. */
  readonly callTimeoutMs?: number;
  readonly readTimeoutMs?: number;
  readonly hostPath: (path: string) => string;
}

export interface LookupOptions {
  readonly isReading?: boolean;
}

export class PluginDriver implements VolumeDriver {
  readonly name: string;
  readonly #place: PluginPlace;
  #scope: string | undefined;

  constructor(place: PluginPlace) {
    this.name = place.name;
    this.#place = place;
  }

  #ask(call: string, body: object): Promise<Answer> {
    const { socketPath, waitMs, callTimeoutMs: timeoutMs = CALL_TIMEOUT_MS } = this.#place;
    return postWhenUp(socketPath, { call, body, timeoutMs }, waitMs);
  }

  /** A question that changes nothing. */
  #read(call: string, body: object): Promise<Answer> {
    const {
      socketPath,
      waitMs,
      readWaitMs = waitMs,
      readTimeoutMs: timeoutMs = READ_TIMEOUT_MS,
    } = this.#place;
    return postWhenUp(socketPath, { call, body, timeoutMs }, readWaitMs);
  }

  /** Shakes hands; throws unless it is a volume driver. `isReading`: for a question only, which waits for no plugin. */
  async activate({ isReading = false }: LookupOptions = {}): Promise<void> {
    const answer = await (isReading ? this.#read("Plugin.Activate", {}) : this.#ask("Plugin.Activate", {}));
    const kinds = answer["Implements"];
    if (!Array.isArray(kinds) || !kinds.includes("VolumeDriver")) {
      throw new ClusterError("failed_precondition", `plugin "${this.name}" must implement VolumeDriver`);
    }
  }

  /** Whether anybody listens, whatever it answers. */
  async reach(): Promise<void> {
    await this.#ask("Plugin.Activate", {}).catch((caught: unknown) => {
      if (hasCode(caught, "unavailable")) throw caught;
    });
  }

  async scope(): Promise<string> {
    if (this.#scope === undefined) {
      // Old plugins know no such call.
      const answer = await this.#read("VolumeDriver.Capabilities", {}).catch(() => ({}));
      const capabilities: unknown = (answer as Answer)["Capabilities"];
      const scope = isObject(capabilities) ? capabilities["Scope"] : undefined;
      this.#scope = scope === "global" ? "global" : "local";
    }
    return this.#scope;
  }

  async create(name: string, options: Readonly<Record<string, string>>): Promise<void> {
    await this.#ask("VolumeDriver.Create", { Name: name, Opts: options });
  }

  async remove(name: string): Promise<void> {
    await this.#ask("VolumeDriver.Remove", { Name: name });
  }

  async mount(name: string, userId: string): Promise<string> {
    const answer = await this.#ask("VolumeDriver.Mount", { Name: name, ID: userId });
    const mountpoint = answer["Mountpoint"];
    if (typeof mountpoint === "string" && path.isAbsolute(mountpoint))
      return this.#place.hostPath(mountpoint);
    throw new ClusterError(
      "internal",
      `VolumeDriver.Mount: plugin "${this.name}" must give an absolute Mountpoint`,
    );
  }

  async unmount(name: string, userId: string): Promise<void> {
    await this.#ask("VolumeDriver.Unmount", { Name: name, ID: userId });
  }

  async get(name: string): Promise<DriverVolume | undefined> {
    try {
      const answer = await this.#read("VolumeDriver.Get", { Name: name });
      return this.#onHost(toVolume(answer["Volume"]));
    } catch (caught) {
      if (caught instanceof ClusterError && caught.code === "internal") return undefined;
      throw caught;
    }
  }

  #onHost(volume: DriverVolume | undefined): DriverVolume | undefined {
    if (volume === undefined || volume.mountpoint === "") return volume;
    return { ...volume, mountpoint: this.#place.hostPath(volume.mountpoint) };
  }

  async list(): Promise<readonly DriverVolume[]> {
    const answer = await this.#read("VolumeDriver.List", {});
    const volumes = answer["Volumes"];
    if (!Array.isArray(volumes)) return [];
    return volumes.map((each) => this.#onHost(toVolume(each))).filter((each) => each !== undefined);
  }
}

const PLUGIN_NAME = /^[A-Za-z0-9][A-Za-z0-9_.:/-]{0,127}$/;

export type PluginLimits = Pick<PluginPlace, "callTimeoutMs" | "readTimeoutMs">;

/** Finds plugins by their sockets: NAME.sock or NAME/NAME.sock in one of the folders. */
export class PluginDrivers {
  readonly #folders: readonly string[];
  readonly #limits: PluginLimits;
  readonly #active = new Map<string, PluginDriver>();

  constructor(folders: readonly string[], limits: PluginLimits = {}) {
    this.#folders = folders;
    this.#limits = limits;
  }

  names(): readonly string[] {
    const names = new Set<string>();
    for (const folder of this.#folders) {
      for (const name of readNames(folder))
        if (name.endsWith(".sock")) names.add(name.slice(0, -".sock".length));
    }
    return [...names].sort();
  }

  async get(name: string, options: LookupOptions = {}): Promise<PluginDriver> {
    const known = this.#active.get(name);
    if (known !== undefined) return known;
    if (PLUGIN_NAME.test(name) && !name.includes("..")) {
      for (const folder of this.#folders) {
        for (const socketPath of [
          path.join(folder, `${name}.sock`),
          path.join(folder, name, `${name}.sock`),
        ]) {
          if (!readNames(path.dirname(socketPath)).includes(path.basename(socketPath))) continue;
          const driver = new PluginDriver({
            name,
            socketPath,
            waitMs: PLUGIN_WAIT_MS,
            readWaitMs: 0,
            ...this.#limits,
            hostPath: (inside) => inside,
          });
          await driver.activate(options);
          this.#active.set(name, driver);
          return driver;
        }
      }
    }
    throw new ClusterError("not_found", `plugin "${name}" not found`);
  }
}

function readNames(folder: string): readonly string[] {
  try {
    return readdirSync(folder);
  } catch {
    // No such folder: no plugins in it.
    return [];
  }
}
