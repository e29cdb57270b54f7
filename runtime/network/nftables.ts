/**
 * nftables of one network namespace through libnftables, in this process: each run is one atomic transaction (all of it or
 * nothing), some tenths of a millisecond. Opened by namespace.ts inside the namespace, whose it stays.
 * Callers write nft's own language; they put nothing into it that came from users unchecked.
 */
import koffi from "koffi";
import type { KoffiFunc, LibraryHandle } from "koffi";
import { ClusterError } from "../../common/errors.ts";

type Context = unknown;

interface Library {
  readonly create: (flags: number) => Context;
  readonly release: (context: Context) => void;
  readonly run: KoffiFunc<(context: Context, commands: string) => number>;
  readonly bufferOutput: (context: Context) => number;
  readonly bufferError: (context: Context) => number;
  readonly output: (context: Context) => string;
  readonly error: (context: Context) => string;
  readonly setOutputFlags: (context: Context, flags: number) => void;
}

let loaded: Library | undefined;

function load(): Library {
  const library = openLibrary();
  return {
    create: library.func("void *nft_ctx_new(uint32_t)") as Library["create"],
    release: library.func("void nft_ctx_free(void *)") as Library["release"],
    run: library.func("int nft_run_cmd_from_buffer(void *, const char *)") as Library["run"],
    bufferOutput: library.func("int nft_ctx_buffer_output(void *)") as Library["bufferOutput"],
    bufferError: library.func("int nft_ctx_buffer_error(void *)") as Library["bufferError"],
    output: library.func("const char *nft_ctx_get_output_buffer(void *)") as Library["output"],
    error: library.func("const char *nft_ctx_get_error_buffer(void *)") as Library["error"],
    setOutputFlags: library.func("void nft_ctx_output_set_flags(void *, unsigned int)") as (
      context: Context,
      flags: number,
    ) => void,
  };
}

function openLibrary(): LibraryHandle {
  try {
    return koffi.load("libnftables.so.1");
  } catch (caught) {
    throw new ClusterError(
      "unavailable",
      `Cannot use nftables: libnftables.so.1 must be installed (package "nftables")`,
      { cause: caught },
    );
  }
}

/** Transactions larger than this run on another thread, so that the event loop goes on. */
const LARGE_BYTES = 64 * 1024;

export class Nftables {
  readonly #library: Library;
  #context: Context;
  /** Runs one after the other: a context is not made for two threads. */
  #tail: Promise<unknown> = Promise.resolve();
  #waiting = 0;

  /** Opens in the calling thread's present namespace. */
  constructor() {
    loaded ??= load();
    this.#library = loaded;
    this.#context = this.#library.create(0);
    this.#library.bufferOutput(this.#context);
    this.#library.bufferError(this.#context);
  }

  /** Runs the commands as one transaction. Small ones take effect before this returns its promise. */
  run(commands: string): Promise<string> {
    if (this.#waiting === 0 && commands.length < LARGE_BYTES)
      return new Promise((resolve) => resolve(this.runNow(commands)));
    return this.runElsewhere(commands);
  }

  /** On another thread, after what runs there already: for large changes and for listings. */
  runElsewhere(commands: string): Promise<string> {
    this.#waiting += 1;
    const turn = this.#tail.then(() => this.#onThread(commands));
    this.#tail = turn.then(
      () => this.#leave(),
      () => this.#leave(),
    );
    return turn;
  }

  /** Like run, at once and on this thread, for short stretches that must not yield. */
  runNow(commands: string): string {
    if (this.#waiting > 0)
      throw new ClusterError("unavailable", "Cannot change nftables now: a large change is under way", {
        retryable: true,
      });
    return this.#finish(this.#library.run(this.#open(), commands), commands);
  }

  /** Frees the context once nothing runs any more. */
  async close(): Promise<void> {
    await this.#tail;
    if (this.#context === null) return;
    this.#library.release(this.#context);
    this.#context = null;
  }

  #open(): Context {
    if (this.#context === null) throw new ClusterError("internal", "Cannot use nftables after close");
    return this.#context;
  }

  #leave(): void {
    this.#waiting -= 1;
  }

  #onThread(commands: string): Promise<string> {
    return new Promise((resolve, reject) => {
      this.#library.run.async(this.#open(), commands, (failure: unknown, result: number) => {
        if (failure instanceof Error) return reject(failure);
        try {
          resolve(this.#finish(result, commands));
        } catch (caught) {
          reject(ClusterError.from(caught));
        }
      });
    });
  }

  #finish(result: number, commands: string): string {
    const output = this.#library.output(this.#context);
    const error = this.#library.error(this.#context);
    if (result === 0) return output;
    const errno = /No such file or directory/.test(error)
      ? "ENOENT"
      : /File exists/.test(error)
        ? "EEXIST"
        : "";
    throw new ClusterError(
      "internal",
      `Cannot change nftables: ${error.trim().split("\n")[0] ?? "refused"}`,
      {
        details: { errno, commands: commands.slice(0, 2_000), output: error.slice(0, 2_000) },
      },
    );
  }
}
