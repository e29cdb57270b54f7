/** Image engines on real stores in temporary folders, for one test file: what it opened is stopped and removed together. */
import * as fs from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { silentLogger } from "../../../common/log.ts";
import { realEnv } from "../../../common/real-env.ts";
import type { JsonObject } from "../../../model/engine.ts";
import {
  createImageEngine,
  type ImageEngineOptions,
  type ImageEngineParts,
} from "../../../runtime/images/image-engine.ts";

export type LabEngine = ImageEngineParts & { readonly dataRoot: string };

export class ImageLab {
  readonly #folders: string[] = [];
  readonly #engines: ImageEngineParts[] = [];

  newFolder(): string {
    const folder = fs.mkdtempSync(path.join(tmpdir(), "shoal-images-"));
    this.#folders.push(folder);
    return folder;
  }

  /** In a folder of its own unless `dataRoot` is given; without containers unless they are. */
  async open(options: Partial<Omit<ImageEngineOptions, "env" | "log">> = {}): Promise<LabEngine> {
    const dataRoot = options.dataRoot ?? this.newFolder();
    const engine = await createImageEngine({
      events: { emit: () => {} },
      containers: () => undefined,
      ...options,
      env: realEnv,
      log: silentLogger,
      dataRoot,
    });
    this.#engines.push(engine);
    return { ...engine, dataRoot };
  }

  async close(): Promise<void> {
    for (const engine of this.#engines) await engine.stop();
    for (const folder of this.#folders) fs.rmSync(folder, { recursive: true, force: true });
  }
}

/** All lines of progress. */
export async function linesOf(lines: AsyncIterable<JsonObject>): Promise<JsonObject[]> {
  const all: JsonObject[] = [];
  for await (const line of lines) all.push(line);
  return all;
}
