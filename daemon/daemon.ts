/**
 * The daemon: engine, place in the cluster, API. Built from options, started and stopped as a whole; containers outlive it.
 */
import { readFile } from "node:fs/promises";
import { arch, hostname, release } from "node:os";
import path from "node:path";
import { type ApiServer, createApiServer } from "../api/api-server.ts";
import type { TlsOptions } from "node:tls";
import type { Component } from "../common/env.ts";
import { ClusterError } from "../common/errors.ts";
import type { Logger } from "../common/log.ts";
import { MetricsRegistry } from "../common/metrics.ts";
import { packageRoot } from "../common/package-root.ts";
import { realEnv } from "../common/real-env.ts";
import type { Engine } from "../model/engine.ts";
import { DEFAULT_DOMAIN } from "../model/image-reference.ts";
import { createEngine } from "../runtime/engine.ts";
import { DEFAULT_REGISTRY_CONFIG } from "../runtime/registry/registry-config.ts";
import { createWorkerNetwork, type WorkerNetwork } from "../worker/network/worker-network.ts";
import { instanceTag } from "./instance.ts";
import { registerDaemonMetrics } from "./daemon-metrics.ts";
import { describeNode } from "./node-description.ts";
import { NodeStateStore } from "./node-state.ts";
import { type DaemonOptions, parseHost, type TlsFiles } from "./options.ts";
import { FolderLock } from "./folder-lock.ts";
import { PidFile } from "./pid-file.ts";
import { rootlessSide } from "./rootless.ts";
import { SwarmNode } from "./swarm-node.ts";
import { BUILD, VERSION } from "./version.ts";

export interface DaemonDeps {
  readonly options: DaemonOptions;
  readonly log: Logger;
  /** A part broke in a way that must end the process. */
  readonly fatal: (error: ClusterError) => void;
}

export function nativeBinary(): string {
  return path.join(packageRoot(import.meta.dirname), "runtime/native/build/shoal-runtime");
}

export class Daemon implements Component {
  readonly #deps: DaemonDeps;
  #engine: (Engine & Component) | undefined;
  #swarm: SwarmNode | undefined;
  /** Of the membership of now, or the last one's, which has no networks any more. */
  #network: WorkerNetwork | undefined;
  #api: ApiServer | undefined;
  #pidFile: PidFile | undefined;
  readonly #locks: FolderLock[] = [];

  constructor(deps: DaemonDeps) {
    this.#deps = deps;
  }

  /** Rejects, with nothing left running, when a part can't be started. */
  async start(): Promise<void> {
    try {
      await this.#start();
    } catch (caught) {
      await this.stop();
      throw caught;
    }
  }

  /** Last in, first out: clients first, containers never. */
  async stop(): Promise<void> {
    await this.#api?.stop();
    this.#api = undefined;
    await this.#swarm?.stop();
    this.#swarm = undefined;
    await this.#engine?.stop();
    this.#engine = undefined;
    await this.#pidFile?.release();
    this.#pidFile = undefined;
    for (const lock of this.#locks.splice(0)) lock.release();
  }

  async #start(): Promise<void> {
    const { options, log, fatal } = this.#deps;
    this.#locks.push(await FolderLock.take(options.dataRoot, "data root"));
    if (path.resolve(options.execRoot) !== path.resolve(options.dataRoot))
      this.#locks.push(await FolderLock.take(options.execRoot, "exec root"));
    this.#pidFile = await PidFile.claim(options.pidFile);
    const instance = instanceTag(options.execRoot);
    const engine = await createEngine({
      env: realEnv,
      log: log.child({ part: "engine" }),
      dataRoot: options.dataRoot,
      execRoot: options.execRoot,
      nativeBinary: nativeBinary(),
      version: VERSION,
      favorDynamicCgroups: options.favorDynamicCgroups,
      usernsRemap: options.usernsRemap,
      isRootless: rootlessSide() === "inside",
      runtimes: options.runtimes,
      defaultRuntime: options.defaultRuntime,
      addressPools: options.defaultAddressPools,
      defaultLog: { Type: options.logDriver, Config: options.logOpts },
      registry: {
        ...DEFAULT_REGISTRY_CONFIG,
        insecure: options.insecureRegistries,
        mirrors: { [DEFAULT_DOMAIN]: options.registryMirrors },
      },
    });
    this.#engine = engine;
    await engine.start();
    this.#swarm = new SwarmNode({
      env: realEnv,
      log,
      engine,
      store: new NodeStateStore(realEnv.disk, options.dataRoot),
      daemon: options,
      description: () =>
        describeNode({
          version: VERSION,
          labels: options.labels,
          genericResources: options.nodeGenericResources,
          volumeDrivers: engine.volumes.driverNames(),
        }),
      createNetwork: async ({ nodeId, dataPathAddress }) => {
        this.#network = await createWorkerNetwork({
          env: realEnv,
          log: log.child({ part: "network" }),
          instance,
          nodeId,
          dataPathAddress,
          runFolder: path.join(options.execRoot, "network"),
        });
        return this.#network;
      },
      fatal,
    });
    await this.#swarm.start();
    await this.#listen(engine, this.#swarm);
    log.info("daemon is ready", { version: VERSION, hosts: options.hosts.join(" "), hostname: hostname() });
  }

  async #listen(engine: Engine, swarm: SwarmNode): Promise<void> {
    const { options, log } = this.#deps;
    const metrics = new MetricsRegistry();
    registerDaemonMetrics(metrics, { engine, swarm });
    this.#api = createApiServer({
      engine,
      swarm,
      env: realEnv,
      log: log.child({ part: "api" }),
      metrics,
      networksHere: () => this.#network?.networks() ?? [],
      version: {
        version: VERSION,
        ...BUILD,
        kernelVersion: release(),
        arch: arch() === "x64" ? "amd64" : arch(),
      },
    });
    for (const text of options.hosts) {
      const host = parseHost(text);
      if (host.kind === "unix") {
        const groupId = await groupIdOf(options.group);
        await this.#api.listen({ unix: host.path, ...(groupId === undefined ? {} : { groupId }) });
      } else {
        const port = host.port || (options.tls === undefined ? 2375 : 2376);
        if (options.tls === undefined) {
          log.warn("the API is served without TLS: whoever reaches it is root on this machine", {
            host: text,
          });
        }
        await this.#api.listen({
          tcp: { host: host.host, port },
          ...(options.tls === undefined ? {} : { tls: await readTlsFiles(options.tls) }),
        });
      }
    }
  }
}

/** With `verify`, only clients with a certificate of the given CA are served. */
async function readTlsFiles(files: TlsFiles): Promise<TlsOptions> {
  const read = async (field: string, file: string): Promise<Buffer> => {
    try {
      return await readFile(file);
    } catch (caught) {
      throw new ClusterError("invalid_argument", `${field} must be a readable file, got "${file}"`, {
        cause: caught,
      });
    }
  };
  return {
    cert: await read("tlscert", files.cert),
    key: await read("tlskey", files.key),
    ...(files.verify ? { ca: await read("tlscacert", files.caCert) } : {}),
  };
}

/** Undefined if there is no such group: the socket is root's alone then. */
async function groupIdOf(name: string): Promise<number | undefined> {
  // An ordinary user can give it to nobody else.
  if (rootlessSide() !== "none") return undefined;
  const groups = await readFile("/etc/group", "utf8").catch(() => "");
  const line = groups.split("\n").find((each) => each.startsWith(`${name}:`));
  return line === undefined ? undefined : Number(line.split(":")[2]);
}
