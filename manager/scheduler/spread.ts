/**
 * Chooses nodes for the tasks of one spec, one after another: along the placement preferences the branch with the
 * fewest tasks of the service, in it the node with no recent failures, then the fewest tasks of the service, then the
 * fewest in all, then a node that has the image, then the lowest id. A heap for each branch makes a choice cost the
 * logarithm of its nodes. Pure.
 */
import { readerOf } from "../../model/constraints.ts";
import type { NodeInfo } from "./node-set.ts";

interface Candidate {
  readonly info: NodeInfo;
  readonly failureCount: number;
  readonly hasImage: boolean;
  serviceCount: number;
}

function isBetter(left: Candidate, right: Candidate): boolean {
  if (left.failureCount !== right.failureCount) return left.failureCount < right.failureCount;
  if (left.serviceCount !== right.serviceCount) return left.serviceCount < right.serviceCount;
  if (left.info.activeCount !== right.info.activeCount) return left.info.activeCount < right.info.activeCount;
  if (left.hasImage !== right.hasImage) return left.hasImage;
  return left.info.node.id < right.info.node.id;
}

/** A binary heap with the best candidate on top. */
class CandidateHeap {
  readonly #items: Candidate[];

  constructor(items: Candidate[]) {
    this.#items = items;
    for (let index = (items.length >> 1) - 1; index >= 0; index -= 1) this.#sink(index);
  }

  get top(): Candidate | undefined {
    return this.#items[0];
  }

  /** The top has become worse. */
  sinkTop(): void {
    this.#sink(0);
  }

  dropTop(): void {
    const last = this.#items.pop();
    if (last === undefined || this.#items.length === 0) return;
    this.#items[0] = last;
    this.#sink(0);
  }

  #sink(start: number): void {
    const items = this.#items;
    const moved = items[start];
    if (moved === undefined) return;
    let index = start;
    for (;;) {
      let child = 2 * index + 1;
      let best = items[child];
      if (best === undefined) break;
      const right = items[child + 1];
      if (right !== undefined && isBetter(right, best)) {
        child += 1;
        best = right;
      }
      if (!isBetter(best, moved)) break;
      items[index] = best;
      index = child;
    }
    items[index] = moved;
  }
}

/** Takes the top node of a leaf if it still fits; false if it does not and leaves. */
export type TryNode = (info: NodeInfo) => boolean;

class Branch {
  /** Tasks of the service under here. */
  count = 0;
  readonly #key: string;
  readonly #children: Branch[] = [];
  readonly #heap: CandidateHeap | undefined;

  constructor(key: string, candidates: Candidate[], preferences: readonly string[]) {
    this.#key = key;
    for (const candidate of candidates) this.count += candidate.serviceCount;
    const [descriptor, ...rest] = preferences;
    if (descriptor === undefined) {
      this.#heap = new CandidateHeap(candidates);
      return;
    }
    // Nodes without the label are a branch of their own.
    const groups = new Map<string, Candidate[]>();
    const read = readerOf(descriptor);
    for (const candidate of candidates) {
      const value = read(candidate.info.node) ?? "";
      const group = groups.get(value);
      if (group === undefined) groups.set(value, [candidate]);
      else group.push(candidate);
    }
    for (const [value, group] of groups) this.#children.push(new Branch(value, group, rest));
    this.#children.sort((left, right) => (left.#key < right.#key ? -1 : 1));
  }

  place(tryNode: TryNode): NodeInfo | undefined {
    const info = this.#heap === undefined ? this.#placeInChild(tryNode) : placeInHeap(this.#heap, tryNode);
    if (info !== undefined) this.count += 1;
    return info;
  }

  #placeInChild(tryNode: TryNode): NodeInfo | undefined {
    for (;;) {
      let least: Branch | undefined;
      for (const child of this.#children) if (least === undefined || child.count < least.count) least = child;
      if (least === undefined) return undefined;
      const info = least.place(tryNode);
      if (info !== undefined) return info;
      this.#children.splice(this.#children.indexOf(least), 1);
    }
  }
}

function placeInHeap(heap: CandidateHeap, tryNode: TryNode): NodeInfo | undefined {
  for (let top = heap.top; top !== undefined; top = heap.top) {
    if (tryNode(top.info)) {
      top.serviceCount += 1;
      heap.sinkTop();
      return top.info;
    }
    heap.dropTop();
  }
  return undefined;
}

export interface SpreadOptions {
  readonly serviceId: string;
  /** Labels to spread over, outermost first. */
  readonly preferences: readonly string[];
  readonly nowMs: number;
  /** Nodes that need not fetch the image. */
  readonly nodesWithImage?: ReadonlySet<string> | undefined;
}

export class Spread {
  readonly #root: Branch;

  constructor(infos: readonly NodeInfo[], options: SpreadOptions) {
    const candidates = infos.map((info) => ({
      info,
      failureCount: info.failureCount(options.serviceId, options.nowMs),
      serviceCount: info.serviceCount(options.serviceId),
      hasImage: options.nodesWithImage?.has(info.node.id) === true,
    }));
    this.#root = new Branch("", candidates, options.preferences);
  }

  /** The next node that `tryNode` accepts; it must have counted the task on it by then. Undefined: none is left. */
  place(tryNode: TryNode): NodeInfo | undefined {
    return this.#root.place(tryNode);
  }
}
