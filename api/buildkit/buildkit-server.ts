/**
 * BuildKit's protocol over connections that were upgraded at /grpc and /session: what buildx and Compose need of
 * moby.buildkit.v1.Control and of the bridge by which a client drives its build. The builder does the work. Made when the
 * first client comes.
 */
import type { Metadata } from "@grpc/grpc-js";
import type { Duplex, Readable } from "node:stream";
import { must } from "../../common/assert.ts";
import { ClusterError } from "../../common/errors.ts";
import type { JsonObject, ProgressLine } from "../../model/engine.ts";
import { HOST_PLATFORM } from "../../model/platforms.ts";
import { bk, type buildkit } from "../../proto/buildkit-messages.ts";
import type { ApiContext } from "../context.ts";
import { Arrivals } from "./arrivals.ts";
import { ClientSession } from "./client-session.ts";
import { pruneOptions, usageRecord } from "./disk-usage.ts";
import { checkExports, exportResult, type ExportParts, type WantedExport } from "./exports.ts";
import { type CallContext, GrpcSurface } from "./grpc-surface.ts";
import { BRIDGE_ANSWER, imageOfInput } from "./image-definition.ts";
import { holdUpload, httpBuildLines, parseHttpBuild, uploadedContext } from "./http-build.ts";
import {
  ARRIVAL_MS,
  BUILD_COUNT_MAX,
  READERS_MS,
  SESSION_COUNT_MAX,
  SESSION_METHOD_COUNT_MAX,
} from "./limits.ts";
import { DOCKERFILE_FRONTEND, OpenBuild, type OpenBuildOptions } from "./open-build.ts";
import { toRpcStatus } from "./rpc-status.ts";
import type { Inputs } from "./solve-request.ts";
import { SessionRpc } from "./session-rpc.ts";

const CONTROL = "/moby.buildkit.v1.Control/";
const BRIDGE = "/moby.buildkit.v1.frontend.LLBBridge/";
const TRACES = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
/** Names the build that a call of the bridge is for. */
const BUILD_HEADER = "buildkit-controlapi-buildid";
/** Abilities that a client asks for before it uses them. */
const BRIDGE_CAPS = [
  "solve.base",
  "readfile",
  "return",
  "returnmap",
  "reference.output",
  "frontend.caps",
  "gateway.solve.metadata",
  "gateway.evaluate",
  "gateway.solve.evaluate",
  "gateway.warnings",
  "proto.refarray",
];
/** Some of a client's checks are for steps, which it never sends. */
const STEP_CAPS = ["source.image", "source.local", "exec.meta.base", "file.base", "constraints", "platform"];

export class BuildkitServer {
  readonly #context: ApiContext;
  readonly #surface: GrpcSurface;
  readonly #sessions: Arrivals<ClientSession>;
  readonly #builds: Arrivals<OpenBuild>;
  /** Contexts that come as requests of their own. */
  readonly #uploads: Arrivals<Readable>;

  constructor(context: ApiContext) {
    this.#context = context;
    const { timers } = context.env;
    const waitMs = ARRIVAL_MS;
    this.#sessions = new Arrivals({ noun: "session", countMax: SESSION_COUNT_MAX, waitMs, timers });
    this.#builds = new Arrivals({ noun: "build", countMax: BUILD_COUNT_MAX, waitMs, timers });
    this.#uploads = new Arrivals({ noun: "upload", countMax: BUILD_COUNT_MAX, waitMs, timers });
    this.#surface = new GrpcSurface((caught, metadata) => {
      const failed = this.#builds.values().find(({ ref }) => ref === buildId(metadata));
      return toRpcStatus(caught, failed?.failure ?? failureOf(caught));
    });
    this.#serveControl();
    this.#serveBridge();
  }

  /** A connection on which the client calls. */
  acceptControl(socket: Duplex): void {
    this.#surface.accept(socket);
  }

  /** Throws if it may not be opened; then the connection is still the caller's. */
  checkSession(id: string, methods: readonly string[]): void {
    if (!/^[\w.-]{1,200}$/.test(id)) {
      throw new ClusterError(
        "invalid_argument",
        `Cannot open a session: X-Docker-Expose-Session-Uuid must be a name of up to 200 letters and digits, got ${JSON.stringify(id.slice(0, 100))}`,
      );
    }
    if (methods.length > SESSION_METHOD_COUNT_MAX) {
      throw new ClusterError(
        "invalid_argument",
        `Cannot open a session: want at most ${SESSION_METHOD_COUNT_MAX} methods, got ${methods.length}`,
      );
    }
    if (this.#sessions.values().some((session) => session.id === id))
      throw new ClusterError("already_exists", `Cannot open session "${id}": it is open already`);
    if (this.#sessions.count >= SESSION_COUNT_MAX)
      throw new ClusterError("resource_exhausted", `Cannot open a session: ${SESSION_COUNT_MAX} are open`);
  }

  /** A connection on which the engine calls, after checkSession(). */
  acceptSession(socket: Duplex, id: string, methods: readonly string[]): void {
    const session = new ClientSession(id, new SessionRpc(socket), new Set(methods));
    try {
      this.#sessions.add(id, session);
    } catch (caught) {
      // Another one came while this one was being switched.
      session.close();
      throw caught;
    }
    session.onClose(() => this.#sessions.remove(id));
  }

  #serveControl(): void {
    const surface = this.#surface;
    surface.unary({
      path: `${CONTROL}ListWorkers`,
      request: bk.Empty,
      answer: bk.ListWorkersResponse,
      run: () => ({ record: [this.#worker()] }),
    });
    surface.unary({
      path: `${CONTROL}Info`,
      request: bk.Empty,
      answer: bk.InfoResponse,
      run: () => ({ buildkitVersion: this.#worker().buildkitVersion }),
    });
    surface.unary({
      path: `${CONTROL}Solve`,
      request: bk.ControlSolveRequest,
      answer: bk.ControlSolveResponse,
      run: (request, context) => this.#solve(request, context),
    });
    surface.stream({
      path: `${CONTROL}Status`,
      request: bk.StatusRequest,
      answer: bk.StatusResponse,
      run: async ({ ref }, { signal }) => (await this.#builds.get(ref, signal)).status.read(signal),
    });
    surface.unary({
      path: `${CONTROL}DiskUsage`,
      request: bk.DiskUsageRequest,
      answer: bk.DiskUsageResponse,
      run: async () => ({ record: (await this.#cache()).map(usageRecord) }),
    });
    surface.stream({
      path: `${CONTROL}Prune`,
      request: bk.PruneRequest,
      answer: bk.UsageRecord,
      run: (request) => this.#prune(request),
    });
    surface.stream({
      path: `${CONTROL}ListenBuildHistory`,
      request: bk.BuildHistoryRequest,
      answer: bk.BuildHistoryEvent,
      // Past builds are not kept.
      run: () => nothing(),
    });
    surface.unary({ path: TRACES, request: bk.Empty, answer: bk.Empty, run: () => ({}) });
  }

  #serveBridge(): void {
    const surface = this.#surface;
    surface.unary({
      path: `${BRIDGE}Ping`,
      request: bk.Empty,
      answer: bk.PongResponse,
      run: async (_request, context) => {
        await this.#buildOf(context);
        const caps = (ids: readonly string[]): buildkit.IApiCap[] => ids.map((id) => ({ id, enabled: true }));
        return { frontendCaps: caps(BRIDGE_CAPS), llbCaps: caps(STEP_CAPS), workers: [this.#worker()] };
      },
    });
    surface.unary({
      path: `${BRIDGE}Solve`,
      request: bk.BridgeSolveRequest,
      answer: BRIDGE_ANSWER,
      run: async (request, context) => {
        const build = await this.#buildOf(context);
        const ref = await build.solve(request.frontend, request.frontendOpt, inputsOf(request));
        return { ref, imageId: build.solved(ref)?.imageId };
      },
    });
    surface.unary({
      path: `${BRIDGE}Evaluate`,
      request: bk.Empty,
      answer: bk.Empty,
      run: async (_request, context) => {
        // Solve has done all there is to do.
        await this.#buildOf(context);
        return {};
      },
    });
    surface.unary({
      path: `${BRIDGE}Inputs`,
      request: bk.Empty,
      answer: bk.InputsResponse,
      run: async (_request, context) => {
        await this.#buildOf(context);
        return { definitions: {} };
      },
    });
    surface.unary({
      path: `${BRIDGE}Return`,
      request: bk.ReturnRequest,
      answer: bk.Empty,
      run: async ({ result, error }, context) => {
        const build = await this.#buildOf(context);
        if (error !== null && error !== undefined) build.refuse(error.message ?? "");
        else build.accept(result?.ref?.id ?? onlyRef(result) ?? "");
        return {};
      },
    });
  }

  #worker(): buildkit.IWorkerRecord {
    const { os, architecture, variant } = HOST_PLATFORM;
    return {
      id: "shoal",
      labels: {},
      platforms: [{ os, architecture, variant }],
      buildkitVersion: { package: "shoal", version: `v${this.#context.version.version}`, revision: "" },
    };
  }

  #buildOf({ metadata, signal }: CallContext): Promise<OpenBuild> {
    return this.#builds.get(buildId(metadata), signal);
  }

  async #solve(
    request: buildkit.ControlSolveRequest,
    { signal }: CallContext,
  ): Promise<buildkit.IControlSolveResponse> {
    const inputs = inputsOf(request);
    const exports = wantedExports(request);
    checkExports(exports);
    const build = this.#open(request, signal);
    try {
      if (request.frontend !== "")
        build.accept(await build.solve(request.frontend, request.frontendAttrs, inputs));
      const { solved } = await build.returned();
      if (solved === undefined) return { exporterResponse: {} };
      return { exporterResponse: await exportResult(build, solved, { exports, parts: this.#exportParts }) };
    } catch (caught) {
      throw keepFailure(caught, build);
    } finally {
      build.status.end();
      if (!signal.aborted) await build.status.drained(this.#context.env.timers, READERS_MS);
      this.#close(build);
    }
  }

  get #exportParts(): ExportParts {
    const { engine, env } = this.#context;
    return { images: engine.images, nowMs: () => env.clock.wallMs() };
  }

  /** A build that ends when `signal` is aborted. Whoever opens it closes it. */
  #open(
    { ref, session, uploaded }: Pick<OpenBuildOptions, "ref" | "uploaded"> & { readonly session: string },
    signal: AbortSignal,
  ): OpenBuild {
    const { nowMs } = this.#exportParts;
    const build = new OpenBuild({
      ref,
      images: this.#context.engine.images,
      session: (waiting) => this.#sessions.get(session, waiting),
      nowMs,
      ...(uploaded === undefined ? {} : { uploaded }),
    });
    this.#builds.add(ref, build);
    const cancel = (): void => build.cancel();
    signal.addEventListener("abort", cancel, { once: true });
    build.signal.addEventListener("abort", () => signal.removeEventListener("abort", cancel), { once: true });
    if (signal.aborted) cancel();
    return build;
  }

  #close(build: OpenBuild): void {
    this.#builds.remove(build.ref);
    build.close();
  }

  /** POST /build with version=2, of clients that drive no build themselves. */
  async *httpBuild(query: URLSearchParams, signal: AbortSignal): AsyncGenerator<ProgressLine> {
    const wanted = parseHttpBuild(query);
    const { ref, session, exports, isUploaded } = wanted;
    checkExports(exports);
    const uploaded = (waiting: AbortSignal): Readable => uploadedContext(this.#uploads, ref, waiting);
    const build = this.#open({ ref, session, ...(isUploaded ? { uploaded } : {}) }, signal);
    try {
      const finish = async (made: string): Promise<Readonly<Record<string, string>>> => {
        const solved = must(build.solved(made), "the Dockerfile frontend makes something");
        return exportResult(build, solved, { exports, parts: this.#exportParts });
      };
      yield* httpBuildLines(build, wanted, finish);
    } finally {
      this.#close(build);
    }
  }

  /** A request whose body is the context of another one's build. Resolves when that has read it. */
  holdUpload(id: string, body: Readable): Promise<void> {
    return holdUpload(this.#uploads, id, body);
  }

  /** Ends a build by its id, if it is open. */
  cancel(ref: string): void {
    this.#builds
      .values()
      .find((build) => build.ref === ref)
      ?.cancel();
  }

  async #cache(): Promise<readonly JsonObject[]> {
    const { BuildCache } = await this.#context.engine.diskUsage(["build-cache"]);
    return Array.isArray(BuildCache) ? (BuildCache as readonly JsonObject[]) : [];
  }

  async *#prune(request: buildkit.PruneRequest): AsyncGenerator<buildkit.IUsageRecord> {
    const before = await this.#cache();
    const { CachesDeleted } = await this.#context.engine.images.pruneBuildCache(pruneOptions(request));
    const gone = new Set((Array.isArray(CachesDeleted) ? CachesDeleted : []).map(plainId));
    for (const record of before) if (gone.has(plainId(record["ID"]))) yield usageRecord(record);
  }
}

/** Lists name images without their algorithm, removals with it. */
function plainId(id: unknown): string {
  return String(id).replace(/^sha256:/, "");
}

function buildId(metadata: Metadata): string {
  return String(metadata.get(BUILD_HEADER)[0] ?? "");
}

/** A client that was told of one reference for each platform returns it by the platform's name. */
function onlyRef(result: buildkit.IBridgeResult | null | undefined): string | undefined {
  const refs = Object.values(result?.refs?.refs ?? {});
  if (refs.length > 1)
    throw new ClusterError("invalid_argument", `Cannot return ${refs.length} results: want one platform`);
  return refs[0]?.id ?? undefined;
}

function wantedExports(request: buildkit.ControlSolveRequest): readonly WantedExport[] {
  if (request.exporters.length > 0)
    return request.exporters.map(({ type, attrs }) => ({ type: type ?? "", attrs: attrs ?? {} }));
  return request.exporterType === "" ? [] : [{ type: request.exporterType, attrs: request.exporterAttrs }];
}

/** Graphs of steps are for BuildKit's own solver. Only what another build here has made may be an input. */
function inputsOf(request: Pick<buildkit.ControlSolveRequest, "definition" | "frontendInputs">): Inputs {
  const inputs = new Map<string, string>();
  for (const [name, definition] of Object.entries(request.frontendInputs)) {
    const made = imageOfInput(definition.def ?? []);
    if (made !== undefined) inputs.set(name, made);
  }
  const hasSteps = (request.definition?.def ?? []).length > 0;
  if (!hasSteps && inputs.size === Object.keys(request.frontendInputs).length) return inputs;
  throw new ClusterError(
    "unimplemented",
    `Cannot build a graph of steps: want a Dockerfile (frontend "${DOCKERFILE_FRONTEND}") whose contexts are folders, images or other builds`,
  );
}

/** A Control.Solve names its build in no header: its place in the Dockerfile goes with the error. */
const FAILURES = new WeakMap<Error, OpenBuild["failure"]>();

function keepFailure(caught: unknown, build: OpenBuild): Error {
  const error = caught instanceof Error ? caught : ClusterError.from(caught);
  FAILURES.set(error, build.failure);
  return error;
}

function failureOf(caught: unknown): OpenBuild["failure"] {
  return caught instanceof Error ? FAILURES.get(caught) : undefined;
}

async function* nothing(): AsyncGenerator<never> {}
