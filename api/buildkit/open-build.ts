/**
 * One build of a client, from its Control.Solve to the answer. In between the client may drive it through the bridge: it
 * solves, gets references to what was made, and returns one of them. Ends, with all that it holds, when the client leaves.
 */
import { randomBytes } from "node:crypto";
import type { Readable } from "node:stream";
import { ClusterError } from "../../common/errors.ts";
import type { BuildEvent, BuildSource, SolvedBuild } from "../../model/build.ts";
import type { ImageEngine } from "../../model/engine.ts";
import type { ClientSession } from "./client-session.ts";
import { type Attributes, type Inputs, solveRequest } from "./solve-request.ts";
import { StatusFeed } from "./status-feed.ts";

/** The only frontend: the Dockerfile builder of this engine, whatever "# syntax=" names. */
export const DOCKERFILE_FRONTEND = "dockerfile.v0";

/** Where in the Dockerfile a build failed. */
export interface FailurePlace {
  readonly vertex: string;
  readonly source: BuildSource;
}

export interface OpenBuildOptions {
  readonly ref: string;
  readonly images: Pick<ImageEngine, "solve">;
  /** The client's session; waits for it. */
  readonly session: (signal: AbortSignal) => Promise<ClientSession>;
  readonly nowMs: () => number;
  /** The context, where the client uploads it by a request of its own. */
  readonly uploaded?: (signal: AbortSignal) => Readable;
}

/** What a client returned: one of its references, or none. */
export type Returned = { readonly solved: SolvedBuild | undefined };

export class OpenBuild {
  readonly status: StatusFeed;
  readonly #options: OpenBuildOptions;
  readonly #abort = new AbortController();
  readonly #solved = new Map<string, SolvedBuild>();
  readonly #returned: Promise<Returned>;
  #resolve: (returned: Returned) => void = () => undefined;
  #reject: (error: unknown) => void = () => undefined;
  #failure: FailurePlace | undefined;
  #lastError: ClusterError | undefined;

  constructor(options: OpenBuildOptions) {
    this.#options = options;
    this.status = new StatusFeed(options.nowMs);
    this.#returned = new Promise((resolve, reject) => {
      this.#resolve = resolve;
      this.#reject = reject;
    });
    // A client that leaves returns nothing.
    this.#returned.catch(() => undefined);
  }

  get ref(): string {
    return this.#options.ref;
  }

  get signal(): AbortSignal {
    return this.#abort.signal;
  }

  get failure(): FailurePlace | undefined {
    return this.#failure;
  }

  readonly report = (event: BuildEvent): void => {
    if (event.kind === "failure") this.#failure ??= { vertex: event.vertex, source: event.source };
    else this.status.push(event);
  };

  session(): Promise<ClientSession> {
    return this.#options.session(this.signal);
  }

  /** Builds, and returns a reference to what was made: "" if there is nothing to build. */
  async solve(frontend: string, attributes: Attributes, inputs: Inputs = new Map()): Promise<string> {
    if (frontend === "") return "";
    if (frontend !== DOCKERFILE_FRONTEND) {
      throw new ClusterError(
        "unimplemented",
        `Cannot build with frontend "${frontend}": want "${DOCKERFILE_FRONTEND}", others are not run`,
      );
    }
    const subrequest = attributes["requestid"] ?? "";
    if (subrequest !== "")
      throw new ClusterError(
        "unimplemented",
        `Cannot answer "${subrequest}": --check and --call are not served, only builds are`,
      );
    const { context, ...request } = solveRequest(attributes, inputs);
    const { uploaded } = this.#options;
    const session = await this.session();
    try {
      const solved = await this.#options.images.solve(
        {
          ...request,
          client: session,
          ...(uploaded === undefined ? {} : { dockerfile: { ...request.dockerfile, folder: undefined } }),
          context:
            uploaded !== undefined
              ? { kind: "tar", open: uploaded }
              : "folder" in context
                ? { kind: "folder", name: context.folder }
                : { kind: "tar", open: (signal) => session.upload(context.upload, signal) },
          report: this.report,
        },
        this.signal,
      );
      const ref = randomBytes(16).toString("hex");
      if (this.signal.aborted) solved.release();
      this.signal.throwIfAborted();
      this.#solved.set(ref, solved);
      return ref;
    } catch (caught) {
      this.#lastError = this.signal.aborted ? cancelled() : ClusterError.from(caught);
      throw this.#lastError;
    }
  }

  solved(ref: string): SolvedBuild | undefined {
    if (ref === "") return undefined;
    const found = this.#solved.get(ref);
    if (found === undefined) throw new ClusterError("not_found", `no such reference: ${ref.slice(0, 100)}`);
    return found;
  }

  /** The client has decided: the build's result, by its reference. */
  accept(ref: string): void {
    this.#resolve({ solved: this.solved(ref) });
  }

  /** The client has decided that it failed, mostly because solve() did. */
  refuse(message: string): void {
    const known = this.#lastError;
    const isKnown = known !== undefined && message.includes(known.message);
    this.#reject(isKnown ? known : new ClusterError("failed_precondition", message));
  }

  /** Rejects when the client returned an error, or left. */
  returned(): Promise<Returned> {
    return this.#returned;
  }

  cancel(): void {
    this.#reject(cancelled());
    this.#abort.abort();
  }

  /** Lets go of all that was made. */
  close(): void {
    this.status.end();
    this.#abort.abort();
    for (const solved of this.#solved.values()) solved.release();
    this.#solved.clear();
  }
}

/** In the words by which clients know it. */
function cancelled(): ClusterError {
  return new ClusterError("cancelled", "context canceled");
}
