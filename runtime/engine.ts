/**
 * The machine's engine put together: containers on images, volumes and local networks, one event ring, one native launcher. Made once by
 * the daemon; two engines with different roots share nothing.
 */
import { createHash } from "node:crypto";
import * as fs from "node:fs/promises";
import path from "node:path";
import type { Component, Env } from "../common/env.ts";
import type { Logger } from "../common/log.ts";
import type { Engine, JsonObject } from "../model/engine.ts";
import { removeTornWrites } from "../common/torn-writes.ts";
import { AppArmor } from "./containers/apparmor.ts";
import {
  Cgroups,
  delegatedHierarchies,
  detectHierarchies,
  favorDynamicCgroups,
  leaveDelegatedGroup,
} from "./containers/cgroups.ts";
import { LocalContainerEngine } from "./containers/container-engine.ts";
import { resolveRemap } from "./containers/id-ranges.ts";
import type { LogConfig } from "./containers/log-options.ts";
import { NativeLauncher } from "./containers/native-launcher.ts";
import { OciRuntimes, type RuntimeConfig } from "./containers/oci-runtimes.ts";
import { EventRing } from "./events.ts";
import { createImageEngine } from "./images/image-engine.ts";
import { DEFAULT_REGISTRY_CONFIG, type RegistryConfig } from "./registry/registry-config.ts";
import { machineInfo } from "./info.ts";
import { SlirpPorts } from "./network/slirp-ports.ts";
import type { AddressPool } from "./network/address-pools.ts";
import { createLocalNetworks } from "./network/local-networks.ts";
import { ManagedPlugins } from "./plugins/plugin-engine.ts";
import { createVolumeEngine, type VolumeEngineParts } from "./volumes/volume-engine.ts";

export interface EngineOptions {
  readonly env: Env;
  readonly log: Logger;
  /** Everything that lasts: images, containers, volumes. */
  readonly dataRoot: string;
  /** Sockets and state of what runs; in memory (/run). */
  readonly execRoot: string;
  /** Path of shoal-runtime. */
  readonly nativeBinary: string;
  /** Path below the cgroup roots, with a leading slash; default: made from the exec root. */
  readonly cgroupParent?: string;
  /**
   * Remounts the cgroup tree with `favordynmods`: a process is moved into a cgroup in 0.3 ms instead of about 12 (the wait for an RCU grace
   * period). Our own program never waits so, other runtimes do. Forks and exits get slightly slower on kernels before 6.18, and it can't be
   * undone before a reboot. Default false.
   */
  readonly favorDynamicCgroups?: boolean;
  /** "default" or USER[:GROUP]: containers' ids are those that the user owns in /etc/subuid. Default "": the host's. */
  readonly usernsRemap?: string;
  /** The daemon is an ordinary user's, in namespaces of its own: cgroups as far as they were delegated, ports through slirp4netns. */
  readonly isRootless?: boolean;
  /** Other OCI runtimes by name. */
  readonly runtimes?: Readonly<Record<string, RuntimeConfig>>;
  /** Name of the one for containers that ask for none. Default "": ours. */
  readonly defaultRuntime?: string;
  /** Where subnets of local networks come from that users leave open. Default: Docker's own pools. */
  readonly addressPools?: readonly AddressPool[];
  /** Log driver of containers that ask for none. Default: json-file. */
  readonly defaultLog?: LogConfig;
  /** Of systemd's journal. Default: where systemd has it. */
  readonly journalSocket?: string;
  /** Shown as ServerVersion. */
  readonly version?: string;
  /** Mirrors and insecure registries. */
  readonly registry?: RegistryConfig;
}

/** A group of one's own for each exec root. */
function cgroupParentOf(execRoot: string): string {
  return `/shoal-${createHash("sha256").update(path.resolve(execRoot)).digest("hex").slice(0, 12)}`;
}

async function engineId(options: EngineOptions): Promise<string> {
  const file = path.join(options.dataRoot, "engine-id");
  const known = await fs.readFile(file, "utf8").catch(() => "");
  if (known !== "") return known;
  const hex = Buffer.from(options.env.random.bytes(16)).toString("hex");
  const id = [hex.slice(0, 8), hex.slice(8, 12), hex.slice(12, 16), hex.slice(16, 20), hex.slice(20)].join(
    "-",
  );
  await options.env.disk.writeFileAtomic(file, Buffer.from(id), 0o600);
  return id;
}

function usageJson(usage: Awaited<ReturnType<VolumeEngineParts["usage"]>>): readonly JsonObject[] {
  return usage.map(({ volume, sizeBytes, refCount }) => ({
    ...volume,
    UsageData: { Size: sizeBytes, RefCount: refCount },
  }));
}

async function openCgroups(options: EngineOptions): Promise<Cgroups> {
  const { execRoot, log } = options;
  const own = options.cgroupParent ?? cgroupParentOf(execRoot);
  if (options.isRootless !== true) {
    const cgroups = new Cgroups(detectHierarchies(), own);
    if (options.favorDynamicCgroups === true) await favorDynamicCgroups(cgroups.hierarchies, log);
    await cgroups.prepare();
    return cgroups;
  }
  const { hierarchies, parent } = delegatedHierarchies();
  if (hierarchies.v2 === undefined)
    log.warn("no cgroup was delegated to this user: containers can't be limited");
  else await leaveDelegatedGroup(hierarchies.v2, parent);
  const cgroups = new Cgroups(hierarchies, path.join(parent, own), parent);
  await cgroups.prepare();
  return cgroups;
}

/** What all parts stand on. */
interface Ground {
  readonly id: string;
  readonly appArmor: AppArmor;
  readonly runtimes: OciRuntimes;
  readonly idMaps: Awaited<ReturnType<typeof resolveRemap>>;
  readonly events: EventRing;
}

async function openGround(options: EngineOptions): Promise<Ground> {
  const { env, log, dataRoot, execRoot, nativeBinary } = options;
  await fs.mkdir(dataRoot, { recursive: true, mode: 0o711 });
  await fs.mkdir(execRoot, { recursive: true, mode: 0o711 });
  for (const folder of ["", "network", "images"]) removeTornWrites(path.join(dataRoot, folder));
  return {
    id: await engineId(options),
    appArmor: await AppArmor.open(log),
    runtimes: new OciRuntimes({
      configured: options.runtimes ?? {},
      defaultName: options.defaultRuntime ?? "",
      execRoot,
      nativeBinary,
    }),
    idMaps: await resolveRemap(options.usernsRemap ?? ""),
    events: new EventRing({ timers: env.timers, wallMs: () => env.clock.wallMs() }),
  };
}

/** Images, volumes and networks may be asked who uses them before there are containers and plugins. */
interface LateParts {
  containers?: LocalContainerEngine;
  plugins?: ManagedPlugins;
}

type Stores = Awaited<ReturnType<typeof openStores>>;

async function openStores(
  options: EngineOptions,
  { events }: Ground,
  { late, launcher }: { readonly late: LateParts; readonly launcher: NativeLauncher },
) {
  const { env, log, dataRoot, execRoot } = options;
  const images = await createImageEngine({
    env,
    log: log.child({ part: "images" }),
    events,
    dataRoot,
    containers: () => late.containers,
    removeTrees: (folders) => launcher.removeTrees(folders),
    ...(options.registry === undefined ? {} : { registry: options.registry }),
  });
  const volumes = await createVolumeEngine({
    env,
    log: log.child({ part: "volumes" }),
    events,
    dataRoot,
    managed: { find: (name) => late.plugins?.find(name), names: () => late.plugins?.names() ?? [] },
  });
  const networks = await createLocalNetworks({
    env,
    log: log.child({ part: "networks" }),
    dataRoot,
    execRoot,
    instance: path.resolve(dataRoot),
    events,
    addressPools: options.addressPools ?? [],
    ...(options.isRootless === true
      ? { outsidePorts: new SlirpPorts(path.join(execRoot, "slirp.sock")) }
      : {}),
  });
  return { images, volumes, networks };
}

async function openPlugins(
  options: EngineOptions,
  { appArmor, events, runtimes }: Ground,
  { cgroups, stores }: { readonly cgroups: Cgroups; readonly stores: Stores },
): Promise<ManagedPlugins> {
  const { env, log, dataRoot, execRoot, nativeBinary } = options;
  return ManagedPlugins.open({
    env,
    log: log.child({ part: "plugins" }),
    dataRoot,
    events,
    registry: options.registry ?? DEFAULT_REGISTRY_CONFIG,
    volumeCount: stores.volumes.countOf,
    runner: {
      execRoot: path.join(execRoot, "managed"),
      nativeBinary,
      cgroups,
      volumes: stores.volumes.source,
      networks: stores.networks.containers,
      appArmor,
      runtimes,
    },
  });
}

interface EngineParts {
  readonly ground: Ground;
  readonly stores: Stores;
  readonly cgroups: Cgroups;
  readonly containers: LocalContainerEngine;
}

async function engineInfo(
  options: EngineOptions,
  { ground, stores, cgroups, containers }: EngineParts,
): Promise<JsonObject> {
  const images = await stores.images.images.list({
    all: false,
    digests: false,
    sharedSize: false,
    manifests: false,
    filters: new Map(),
  });
  return machineInfo({
    id: ground.id,
    version: options.version ?? "0.1.0",
    dataRoot: options.dataRoot,
    counts: containers.counts,
    imageCount: images.length,
    hierarchies: cgroups.hierarchies,
    isRemapped: ground.idMaps !== undefined,
    hasAppArmor: ground.appArmor.isEnabled,
    isRootless: options.isRootless === true,
    runtimes: ground.runtimes,
    logDriver: options.defaultLog?.Type || "json-file",
    volumeDrivers: stores.volumes.driverNames(),
    nowIso: new Date(options.env.clock.wallMs()).toISOString(),
    registry: options.registry ?? DEFAULT_REGISTRY_CONFIG,
  });
}

/** `types`: of Docker's disk usage; none means all. */
async function engineDiskUsage(
  { stores, containers }: EngineParts,
  types: readonly string[],
): Promise<JsonObject> {
  const wants = (type: string): boolean => types.length === 0 || types.includes(type);
  return {
    ...(await stores.images.diskUsage({ images: wants("image"), buildCache: wants("build-cache") })),
    Containers: wants("container")
      ? [...(await containers.list({ all: true, size: true, filters: new Map() }))]
      : [],
    Volumes: wants("volume") ? [...usageJson(await stores.volumes.usage())] : [],
  };
}

export async function createEngine(options: EngineOptions): Promise<Engine & Component> {
  const { env, log, dataRoot, execRoot, nativeBinary } = options;
  const ground = await openGround(options);
  const { appArmor, events, idMaps, runtimes } = ground;
  const late: LateParts = {};
  const launcher = new NativeLauncher({ execRoot, nativeBinary, log: log.child({ part: "launcher" }) });
  const stores = await openStores(options, ground, { late, launcher });
  const cgroups = await openCgroups(options);
  await launcher.start();
  const containers = new LocalContainerEngine({
    env,
    log: log.child({ part: "containers" }),
    dataRoot,
    execRoot,
    nativeBinary,
    launcher,
    cgroups,
    rootfs: stores.images.rootfs,
    volumes: stores.volumes.source,
    networks: stores.networks.containers,
    events,
    idMaps,
    appArmor,
    runtimes,
    ...(options.defaultLog === undefined ? {} : { defaultLog: options.defaultLog }),
    ...(options.journalSocket === undefined ? {} : { journalSocket: options.journalSocket }),
  });
  late.containers = containers;
  stores.networks.setContainers(containers.directory());
  const plugins = await openPlugins(options, ground, { cgroups, stores });
  late.plugins = plugins;
  const parts: EngineParts = { ground, stores, cgroups, containers };
  return {
    containers,
    images: stores.images.images,
    networks: stores.networks.networks,
    volumes: stores.volumes.volumes,
    plugins,
    events: (range, signal) => events.read(range, signal),
    info: () => engineInfo(options, parts),
    diskUsage: (types) => engineDiskUsage(parts, types),
    /** Takes over what a former daemon left running. */
    start: async () => {
      // Containers may use volumes of theirs.
      await plugins.start();
      await containers.open();
    },
    /** Containers go on running; the launcher and the monitors stay for them. */
    stop: async () => {
      await containers.close();
      await plugins.stop();
      await stores.networks.close();
      await stores.images.stop();
      launcher.stop();
      await cgroups.removeParent();
    },
  };
}
