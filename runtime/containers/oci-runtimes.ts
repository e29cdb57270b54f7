/**
 * The OCI runtimes that containers can ask for by name: ours, and programs with runc's command line that the daemon was
 * told of or that are installed under a usual name.
 */
import { execFile } from "node:child_process";
import { accessSync, constants } from "node:fs";
import * as fs from "node:fs/promises";
import path from "node:path";
import { promisify } from "node:util";
import { ClusterError } from "../../common/errors.ts";
import type { HostConfig } from "../../model/engine.ts";

/** Ours. */
export const OWN_RUNTIME = "shoal";
/** Taken from PATH where nothing else is configured under these names. */
const USUAL_NAMES = ["runc", "crun", "runsc", "kata-runtime", "youki"] as const;
const SEARCH_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const LOG_BYTES_MAX = 64 * 1024;

/** As daemon.json has it. */
export interface RuntimeConfig {
  readonly path: string;
  readonly runtimeArgs?: readonly string[];
}

export interface OciRuntime {
  readonly name: string;
  /** Absolute. */
  readonly program: string;
  readonly args: readonly string[];
  /** Where it keeps its state. */
  readonly root: string;
}

function findProgram(name: string): string | undefined {
  const places = path.isAbsolute(name)
    ? [name]
    : SEARCH_PATH.split(":").map((folder) => path.join(folder, name));
  return places.find((place) => {
    try {
      accessSync(place, constants.X_OK);
      return true;
    } catch {
      return false;
    }
  });
}

export class OciRuntimes {
  readonly #configured: ReadonlyMap<string, RuntimeConfig>;
  readonly #execRoot: string;
  readonly #nativeBinary: string;
  readonly defaultName: string;

  constructor(options: {
    readonly configured: Readonly<Record<string, RuntimeConfig>>;
    readonly defaultName: string;
    readonly execRoot: string;
    readonly nativeBinary: string;
  }) {
    this.#configured = new Map(Object.entries(options.configured));
    this.#execRoot = options.execRoot;
    this.#nativeBinary = options.nativeBinary;
    this.defaultName = options.defaultName === "" ? OWN_RUNTIME : options.defaultName;
    if (!this.has(this.defaultName)) {
      throw new ClusterError(
        "invalid_argument",
        `default-runtime must be one of ${[...this.#all().keys()].join(", ")}, got "${this.defaultName}"`,
      );
    }
  }

  #all(): ReadonlyMap<string, RuntimeConfig> {
    const found = new Map<string, RuntimeConfig>();
    for (const name of USUAL_NAMES) {
      const program = findProgram(name);
      if (program !== undefined) found.set(name, { path: program });
    }
    for (const [name, config] of this.#configured) found.set(name, config);
    return found.set(OWN_RUNTIME, { path: this.#nativeBinary, runtimeArgs: ["oci"] });
  }

  /** For `docker info`. "runc" is always there: it is what clients write who mean the usual one. */
  list(): Readonly<Record<string, RuntimeConfig>> {
    return { runc: { path: this.#nativeBinary, runtimeArgs: ["oci"] }, ...Object.fromEntries(this.#all()) };
  }

  has(name: string): boolean {
    return Object.hasOwn(this.list(), this.#plain(name));
  }

  #plain(name: string): string {
    return name === "io.containerd.runc.v2" ? "runc" : name;
  }

  /** Undefined: ours. Throws for a name that nothing stands for. */
  find(wanted: string | undefined): OciRuntime | undefined {
    const name = this.#plain(wanted === undefined || wanted === "" ? this.defaultName : wanted);
    // The usual one, at every create, start and exec: no look at what else is installed.
    if (name === OWN_RUNTIME) return undefined;
    const config = this.#all().get(name);
    if (config === undefined) {
      if (!this.has(name))
        throw new ClusterError("invalid_argument", `unknown or invalid runtime name: ${name}`);
      return undefined;
    }
    const program = findProgram(config.path);
    if (program === undefined) {
      throw new ClusterError(
        "failed_precondition",
        `Cannot use runtime "${name}": want an executable, there is none at ${config.path}`,
      );
    }
    return { name, program, args: config.runtimeArgs ?? [], root: path.join(this.#execRoot, "r", name) };
  }

  /** Runs one verb that ends soon. Its own words in the error. */
  async call(runtime: OciRuntime, ...args: readonly string[]): Promise<void> {
    const log = path.join(runtime.root, `log-${process.pid}-${Math.random().toString(36).slice(2)}`);
    const common = ["--root", runtime.root, "--log", log, "--log-format", "json"];
    try {
      await promisify(execFile)(runtime.program, [...runtime.args, ...common, ...args]);
    } catch (caught) {
      throw new ClusterError("internal", `${runtime.name} ${args[0]} failed: ${await lastError(log)}`, {
        cause: caught,
      });
    } finally {
      await fs.rm(log, { force: true });
    }
  }
}

/** Before anything is made: a runtime of that name is there, and can make what is asked for. */
export function checkRuntime(hostConfig: HostConfig, runtimes: OciRuntimes, isRemapped: boolean): void {
  const runtime = runtimes.find(hostConfig.Runtime);
  if (runtime !== undefined && isRemapped) {
    throw new ClusterError(
      "invalid_argument",
      `runtime "${runtime.name}" cannot be used with userns-remap: want "${OWN_RUNTIME}"`,
    );
  }
}

async function lastError(log: string): Promise<string> {
  const text = await fs.readFile(log, "utf8").catch(() => "");
  for (const line of text.slice(-LOG_BYTES_MAX).split("\n").toReversed()) {
    const words = /"msg":("(?:[^"\\]|\\.)*")/.exec(line)?.[1];
    if (words !== undefined && line.includes('"level":"error"')) return String(JSON.parse(words));
  }
  return "it gave no reason";
}
