/** A pull's lines as two steps: asking for the image's metadata, and bringing its layers with a bar for each. */
import { isObject } from "../../common/json.ts";
import type { ProgressLine } from "../../model/engine.ts";
import type { ShownVertex } from "./shown-build.ts";

const BARS: ReadonlyMap<unknown, string> = new Map([
  ["Downloading", "downloading"],
  ["Extracting", "extracting"],
]);
const ENDS: ReadonlyMap<unknown, string> = new Map([
  ["Download complete", "downloading"],
  ["Pull complete", "extracting"],
]);

export class PullShown {
  readonly #metadata: ShownVertex;
  readonly #layers: ShownVertex;
  #hasLayers = false;

  constructor(metadata: ShownVertex, layers: ShownVertex) {
    this.#metadata = metadata;
    this.#layers = layers;
    metadata.start();
  }

  readonly line = ({ status, id, progressDetail }: ProgressLine): void => {
    if (typeof id !== "string") return;
    const ended = ENDS.get(status);
    const bar = BARS.get(status);
    if (ended === undefined && bar === undefined) return;
    this.#begin();
    if (ended !== undefined) this.#layers.transfer(`${ended} ${id}`).done();
    else if (isObject(progressDetail)) {
      const { current, total } = progressDetail;
      this.#layers
        .transfer(`${bar} ${id}`)
        .moved(typeof current === "number" ? current : 0, typeof total === "number" ? total : 0);
    }
  };

  #begin(): void {
    if (this.#hasLayers) return;
    this.#hasLayers = true;
    this.#metadata.done();
    this.#layers.start();
  }

  done(): void {
    this.#begin();
    this.#layers.done();
  }

  fail(caught: unknown): void {
    if (this.#hasLayers) this.#layers.fail(caught);
    else this.#metadata.fail(caught);
  }
}
