/**
 * Where the parts of the runtime meet: containers use images (as root filesystems), volumes, local networks and the event
 * ring through these, so that each part is built and tested alone. engine.ts puts them together.
 */
import type {
  AttachedNetworks,
  ContainerConfig,
  EndpointSettings,
  EngineEvent,
  HostConfig,
  CreateContainerRequest,
  NetworkNamespaceTarget,
} from "../model/engine.ts";
import type { Labels } from "../model/specs.ts";

/** The parts of an OCI image config (image-spec config.md) that the runtime acts on; others are kept with the blob. */
export interface ImageConfig {
  readonly imageId: string;
  readonly architecture: string;
  readonly os: string;
  readonly created: string;
  /** In Docker's shape: Env, Cmd, Entrypoint, User, WorkingDir, Volumes, ExposedPorts, Labels, StopSignal, Healthcheck, Shell, OnBuild. */
  readonly config: ContainerConfig;
  readonly diffIds: readonly string[];
}

/** What a container's overlay is mounted from. All absolute paths; lower is newest first. Without lower ones `upper` is the root itself. */
export interface RootfsLayers {
  readonly lower: readonly string[];
  readonly upper: string;
  readonly work: string;
}

export interface CommitOptions {
  /** Config of the new image. */
  readonly config: ContainerConfig;
  readonly comment: string;
  readonly author: string;
  /** Container that made it, for history. */
  readonly containerId: string;
  /** History line, e.g. the RUN command. */
  readonly createdBy: string;
}

/** Writable layers for containers on top of images. Implemented by runtime/images. */
const DEPENDENT_SEPARATOR = "-";

/** Key of a writable layer that goes with the one of `key`. */
export function dependentKey(key: string, name: string): string {
  return `${key}${DEPENDENT_SEPARATOR}${name}`;
}

/** Whether the layer of `key` goes with that of `owner`. */
export function isDependentKey(key: string, owner: string): boolean {
  return key.startsWith(`${owner}${DEPENDENT_SEPARATOR}`);
}

export interface RootfsSource {
  /** Config of the image that `reference` names here; not_found ("No such image: NAME:TAG") otherwise. */
  imageConfig(reference: string): Promise<ImageConfig>;
  /** Makes the writable layer `key` on `imageId` and keeps that image in use until remove(). Fine if it exists already. */
  prepare(key: string, imageId: string): Promise<RootfsLayers>;
  /** Layers of an existing key, after a restart of the daemon. */
  layers(key: string): Promise<RootfsLayers>;
  /** Resolves when a loss of power does not take the writable layer any more. */
  synced(key: string): Promise<void>;
  /** With those that depend on it. */
  remove(key: string): Promise<void>;
  /** Bytes in the writable layer, and in all of it. */
  usage(key: string): Promise<{ readonly writable: number; readonly total: number }>;
  /** Paths changed against the image: 0 modified, 1 added, 2 deleted; sorted by path. */
  changes(key: string): Promise<readonly { readonly Path: string; readonly Kind: 0 | 1 | 2 }[]>;
  /** A new image: that of `key` with its writable layer on top. Returns the image id. */
  commit(key: string, options: CommitOptions): Promise<string>;
  tagImage(imageId: string, repo: string, tag: string): Promise<void>;
}

export interface VolumeMount {
  readonly name: string;
  readonly driver: string;
  /** Folder on the host. */
  readonly mountpoint: string;
}

/** Implemented by runtime/volumes. */
export interface VolumeSource {
  /** Finds or creates; a null name makes an anonymous volume. */
  ensure(request: {
    readonly name: string | null;
    /** Container that it is for: referenced from the first moment on. */
    readonly madeFor?: string;
    readonly driver?: string;
    readonly options?: Readonly<Record<string, string>>;
    readonly labels?: Labels;
  }): Promise<VolumeMount>;
  /** Mounts for one user; the volume is in use until unmount with the same id. `attributes`: more of the event, of what it is for. */
  mount(name: string, userId: string, attributes?: Readonly<Record<string, string>>): Promise<VolumeMount>;
  unmount(name: string, userId: string): Promise<void>;
  /** Marks the volume as used by a container (running or not), for `rm` and `prune`. */
  reference(name: string, containerId: string): void;
  unreference(name: string, containerId: string): void;
  removeAnonymous(name: string): Promise<void>;
  /** For a container that never came to be, or whose removal was cut short: its references and anonymous volumes go. */
  removeMadeFor(containerId: string): Promise<void>;
}

export interface ContainerNetworkRequest {
  readonly target: NetworkNamespaceTarget;
  readonly name: string;
  readonly hostname: string;
  readonly hostConfig: HostConfig;
  readonly config: ContainerConfig;
  readonly networkingConfig: CreateContainerRequest["networkingConfig"];
}

/** `meshIp` where it changed as well. */
export type NameServers = Pick<AttachedNetworks, "nameservers" | "nameService" | "meshIp">;

export interface ContainerNetworkResult extends AttachedNetworks {
  /** Docker's NetworkSettings.Ports: "80/tcp" to what it is bound to on the host. */
  readonly ports: Readonly<
    Record<string, readonly { readonly HostIp: string; readonly HostPort: string }[] | null>
  >;
  /** Lines for /etc/hosts: own names, links, extra hosts with host-gateway resolved. */
  readonly hosts: readonly { readonly ip: string; readonly names: readonly string[] }[];
  readonly sandboxId: string;
}

/**
 * Local networks (bridge and user bridges) for containers. Implemented by runtime/network. Modes none, host and
 * container:ID never come here.
 */
export interface ContainerNetworks {
  /** Throws as `docker create` would (unknown network: not_found, bad port: invalid_argument), changing nothing. */
  validate(request: Omit<ContainerNetworkRequest, "target">): Promise<void>;
  /** Between create and start. Idempotent for the same container. */
  attach(request: ContainerNetworkRequest): Promise<ContainerNetworkResult>;
  /** Unpublishes ports and gives addresses back; the namespace goes with the container. */
  detach(containerId: string): Promise<void>;
  /** After a restart of the daemon: containers that still run with what they had, so that addresses and ports are known. */
  adopt(
    container: NetworkNamespaceTarget & {
      /** Name servers of its own. */
      readonly dns: readonly string[];
    },
    result: ContainerNetworkResult,
  ): Promise<void>;
}

export interface EventSink {
  emit(event: Omit<EngineEvent, "time" | "timeNano" | "scope">): void;
}

/** What local networks ask about containers, and tell when a container's networks change beside attach(). */
export interface ContainerDirectory {
  /** By name, id or unambiguous prefix; throws not_found ("No such container: NAME"). `pid` is 0 unless it runs. */
  find(reference: string): {
    readonly id: string;
    readonly name: string;
    readonly pid: number;
    readonly hostname: string;
    /** Name servers of its own. */
    readonly dns: readonly string[];
    /** Docker's NetworkMode. */
    readonly mode: string;
    /** It runs in a network namespace that networks can be added to. */
    readonly isNetworked: boolean;
    /** Networks it will be connected to at its next start, by name. */
    readonly endpoints: Readonly<Record<string, EndpointSettings>>;
  };
  /** The container keeps these for inspect and for its next start. `names` if it runs: whom it asks from now on. */
  networksChanged(
    containerId: string,
    endpoints: Readonly<Record<string, EndpointSettings>>,
    names: NameServers | undefined,
  ): Promise<void> | void;
}
