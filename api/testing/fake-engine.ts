/**
 * An engine for tests of the API: containers are scripted by the test (`process(id)` writes output, reads stdin, exits),
 * everything else answers empty lists or is refused. Behaves as model/engine.ts says where it behaves at all.
 */
import { PassThrough } from "node:stream";
import { BoundedQueue } from "../../common/bounded-queue.ts";
import { ClusterError } from "../../common/errors.ts";
import { rfc3339 } from "../../common/time.ts";
import type {
  AttachOptions,
  AttachStreams,
  ContainerEngine,
  CreateContainerRequest,
  Engine,
  EngineEvent,
  ExecConfig,
  ExitStatus,
  ImageEngine,
  JsonObject,
  LocalNetworkEngine,
  LogLine,
  PluginEngine,
  ProgressLine,
  VolumeEngine,
} from "../../model/engine.ts";

type Chunk = { readonly stream: "stdout" | "stderr"; readonly data: Uint8Array };
const QUEUE_COUNT_MAX = 10_000;

/** The scripted program of a container or exec. */
class FakeProcess {
  readonly isTty: boolean;
  readonly stdin: PassThrough = new PassThrough();
  readonly #past: Chunk[] = [];
  readonly #readers = new Set<BoundedQueue<Chunk>>();
  readonly #exited: Promise<ExitStatus>;
  #resolveExit: (status: ExitStatus) => void = () => {};
  #exit: ExitStatus | undefined;

  constructor(isTty: boolean) {
    this.isTty = isTty;
    this.#exited = new Promise((resolve) => {
      this.#resolveExit = resolve;
    });
  }

  get exit(): ExitStatus | undefined {
    return this.#exit;
  }

  get past(): readonly Chunk[] {
    return this.#past;
  }

  get readerCount(): number {
    return this.#readers.size;
  }

  exited(): Promise<ExitStatus> {
    return this.#exited;
  }

  write(text: string | Uint8Array, stream: "stdout" | "stderr" = "stdout"): void {
    const chunk = { stream, data: typeof text === "string" ? Buffer.from(text, "utf8") : text };
    this.#past.push(chunk);
    for (const reader of this.#readers) reader.push(chunk);
  }

  end(exitCode: number): void {
    this.#exit = { exitCode, isOomKilled: false, error: "" };
    for (const reader of this.#readers) reader.close();
    this.#resolveExit(this.#exit);
  }

  attach(options: Pick<AttachOptions, "stdin" | "logs" | "stream">): AttachStreams {
    const queue = new BoundedQueue<Chunk>(QUEUE_COUNT_MAX);
    if (options.logs) for (const chunk of this.#past) queue.push(chunk);
    if (!options.stream || this.#exit !== undefined) queue.close();
    else this.#readers.add(queue);
    return {
      isTty: this.isTty,
      output: queue,
      ...(options.stdin ? { stdin: this.stdin } : {}),
      close: () => {
        this.#readers.delete(queue);
        queue.close();
      },
    };
  }
}

interface FakeContainer {
  readonly id: string;
  readonly request: CreateContainerRequest;
  readonly process: FakeProcess;
  isRunning: boolean;
}

function refuse(what: string): never {
  throw new ClusterError("unimplemented", `${what} is not part of the fake engine`);
}

export class FakeEngine implements Engine {
  readonly containerMap: Map<string, FakeContainer> = new Map();
  readonly execMap: Map<string, { readonly config: ExecConfig; readonly process: FakeProcess }> = new Map();
  readonly resizes: string[] = [];
  readonly pastEvents: EngineEvent[] = [];
  /** What pulls and builds answer; a ClusterError is thrown at its place. */
  progress: readonly (ProgressLine | ClusterError)[] = [];
  readonly #liveEvents = new Set<BoundedQueue<EngineEvent>>();
  #count = 0;

  readonly containers: ContainerEngine = this.#containerEngine();
  readonly images: ImageEngine = this.#imageEngine();
  readonly networks: LocalNetworkEngine = {
    list: async () => [{ Name: "bridge", Id: "b".repeat(64), Scope: "local", Driver: "bridge", Labels: {} }],
    inspect: async (id) => ({ Name: id, Id: "b".repeat(64), Scope: "local", Driver: "bridge" }),
    find: (id) =>
      id === "bridge" || id === "b".repeat(64) ? { Id: "b".repeat(64), Name: "bridge" } : undefined,
    create: async () => ({ Id: "c".repeat(64), Warning: "" }),
    remove: async () => {},
    connect: async () => {},
    disconnect: async () => {},
    prune: async () => ({ NetworksDeleted: [] }),
  };
  readonly volumes: VolumeEngine = {
    list: async () => ({ Volumes: [], Warnings: null }),
    inspect: async (name) => {
      throw new ClusterError("not_found", `get ${name}: no such volume`);
    },
    create: async (request) => request,
    remove: async () => {},
    prune: async () => ({ VolumesDeleted: [], SpaceReclaimed: 0 }),
    driverNames: () => ["local"],
  };
  readonly plugins: PluginEngine = {
    list: async () => [],
    inspect: async (name: string): Promise<JsonObject> => {
      throw new ClusterError("not_found", `plugin ${JSON.stringify(name)} not found`);
    },
    create: async () => refuse("plugin create"),
    enable: async () => refuse("plugin enable"),
    disable: async () => refuse("plugin disable"),
    remove: async () => refuse("plugin rm"),
    set: async () => refuse("plugin set"),
    privileges: async () => refuse("plugin privileges"),
    pull: () => refuse("plugin pull"),
    upgrade: () => refuse("plugin upgrade"),
    push: () => refuse("plugin push"),
  };

  /** The scripted program behind a container's name or id, or an exec's id. */
  process(id: string): FakeProcess {
    return this.execMap.get(id)?.process ?? this.#container(id).process;
  }

  emit(event: EngineEvent): void {
    this.pastEvents.push(event);
    for (const reader of this.#liveEvents) reader.push(event);
  }

  async *events(
    options: { readonly sinceMs?: number; readonly untilMs?: number },
    signal: AbortSignal,
  ): AsyncGenerator<EngineEvent, void> {
    const queue = new BoundedQueue<EngineEvent>(QUEUE_COUNT_MAX);
    if (options.sinceMs !== undefined) for (const event of this.pastEvents) queue.push(event);
    signal.addEventListener("abort", () => queue.close(), { once: true });
    this.#liveEvents.add(queue);
    yield* queue;
    this.#liveEvents.delete(queue);
  }

  async info(): Promise<JsonObject> {
    return { ID: "fake", Name: "fake-host", Containers: this.containerMap.size, OSType: "linux", NCPU: 2 };
  }

  async diskUsage(): Promise<JsonObject> {
    return { LayersSize: 0, Images: [], Containers: [], Volumes: [], BuildCache: [] };
  }

  #container(id: string): FakeContainer {
    const found = [...this.containerMap.values()].find((each) => each.id === id || each.request.name === id);
    if (found === undefined) throw new ClusterError("not_found", `No such container: ${id}`);
    return found;
  }

  #nextId(): string {
    this.#count += 1;
    return this.#count.toString(16).padStart(64, "0");
  }

  #create(request: CreateContainerRequest): { readonly Id: string; readonly Warnings: readonly string[] } {
    if (request.config.Image === "missing:1") throw new ClusterError("not_found", "No such image: missing:1");
    const id = this.#nextId();
    const container = {
      id,
      request,
      process: new FakeProcess(request.config.Tty ?? false),
      isRunning: false,
    };
    this.containerMap.set(id, container);
    return { Id: id, Warnings: [] };
  }

  #start(id: string): boolean {
    const container = this.#container(id);
    const wasRunning = container.isRunning;
    container.isRunning = true;
    return !wasRunning;
  }

  #inspect(id: string): JsonObject {
    const { id: fullId, request, isRunning, process } = this.#container(id);
    return {
      Id: fullId,
      Name: `/${request.name ?? fullId.slice(-12)}`,
      Image: "sha256:fake",
      Config: { Tty: process.isTty, Image: request.config.Image ?? "", AttachStdin: false, OpenStdin: true },
      HostConfig: { AutoRemove: false },
      State: {
        Running: isRunning,
        Status: isRunning ? "running" : "created",
        ExitCode: process.exit?.exitCode ?? 0,
      },
    };
  }

  async *#logs(id: string): AsyncGenerator<LogLine, void> {
    for (const { stream, data } of this.#container(id).process.past) {
      yield { stream, data, timestamp: rfc3339(0), attrs: { a: "b c" } };
    }
  }

  #containerEngine(): ContainerEngine {
    return {
      create: async (request) => this.#create(request),
      start: async (id) => this.#start(id),
      stop: async (id) => this.#container(id).isRunning,
      restart: async () => refuse("restart"),
      kill: async (id) => void this.#container(id),
      pause: async () => refuse("pause"),
      unpause: async () => refuse("unpause"),
      rename: async () => refuse("rename"),
      update: async () => refuse("update"),
      remove: async (id) => void this.containerMap.delete(this.#container(id).id),
      wait: async (id, _condition, { registered, signal }) => {
        const { process } = this.#container(id);
        registered?.();
        const aborted = new Promise<never>((_resolve, reject) => {
          signal?.addEventListener("abort", () => reject(new ClusterError("cancelled", "gone")), {
            once: true,
          });
        });
        return await Promise.race([process.exited(), aborted]);
      },
      inspect: async (id) => this.#inspect(id),
      list: async () => [],
      summaries: () => [],
      summary: () => refuse("summary"),
      isTty: (id) => this.#container(id).process.isTty,
      logs: (id) => this.#logs(id),
      attach: async (id, options) => this.#container(id).process.attach(options),
      resize: async (id, height, width) => void this.resizes.push(`${id} ${height}x${width}`),
      top: async () => refuse("top"),
      stats: () => refuse("stats"),
      changes: async () => refuse("changes"),
      export: async () => refuse("export"),
      statPath: async () => refuse("statPath"),
      getArchive: async () => refuse("getArchive"),
      putArchive: async () => refuse("putArchive"),
      commit: async () => refuse("commit"),
      prune: async () => ({ ContainersDeleted: [], SpaceReclaimed: 0 }),
      createExec: async (id, config) => {
        this.#container(id);
        const execId = this.#nextId();
        this.execMap.set(execId, { config, process: new FakeProcess(config.Tty ?? false) });
        return { Id: execId };
      },
      startExec: async (id, { detach }) => {
        const exec = this.#exec(id);
        return detach ? undefined : exec.process.attach({ stdin: true, logs: true, stream: true });
      },
      resizeExec: async () => refuse("resizeExec"),
      inspectExec: async (id) => ({
        ID: id,
        ExitCode: this.#exec(id).process.exit?.exitCode ?? null,
        Running: false,
      }),
    };
  }

  #exec(id: string): { readonly process: FakeProcess } {
    const exec = this.execMap.get(id);
    if (exec === undefined) throw new ClusterError("not_found", `No such exec instance: ${id}`);
    return exec;
  }

  async *#progress(): AsyncGenerator<ProgressLine, void> {
    for (const line of this.progress) {
      if (line instanceof ClusterError) throw line;
      yield line;
    }
  }

  #imageEngine(): ImageEngine {
    return {
      list: async () => [],
      inspect: async (reference) => {
        throw new ClusterError("not_found", `No such image: ${reference}`);
      },
      history: async () => [],
      tag: async () => {},
      remove: async (reference) => [{ Untagged: reference }],
      prune: async () => ({ ImagesDeleted: null, SpaceReclaimed: 0 }),
      pull: () => this.#progress(),
      push: () => this.#progress(),
      load: () => this.#progress(),
      import: () => this.#progress(),
      save: async () => refuse("save"),
      build: () => this.#progress(),
      solve: async () => refuse("solve"),
      pruneBuildCache: async () => ({ CachesDeleted: null, SpaceReclaimed: 0 }),
      distribution: async () => {
        throw new ClusterError("unavailable", "no registry");
      },
      search: async () => [],
      login: async () => ({ Status: "Login Succeeded", IdentityToken: "" }),
      resolve: () => undefined,
      ensure: async () => refuse("ensure"),
      setPeers: () => {},
      inventory: () => new Set(),
      onChange: () => () => {},
      setKept: () => {},
      describe: () => undefined,
      openBlob: async () => refuse("openBlob"),
      hasBlob: () => false,
    };
  }
}
