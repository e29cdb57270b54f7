/**
 * Which node has which image, as the nodes say in their sessions. In the leader's memory only: a new leader starts with
 * nothing and hears it anew, so hundreds of nodes with a hundred images each cost the replicated state nothing. The
 * dispatcher writes it; the scheduler prefers nodes by it, and the image keeper counts copies by it.
 */
import { ClusterError } from "../common/errors.ts";
import { canonicalForm, tryParseReference, withDefaultTag } from "../model/image-reference.ts";
import type { shoal } from "../proto/messages.ts";
import { IMAGE_SOURCE_COUNT_MAX, NODE_IMAGE_CHARS_MAX, NODE_IMAGE_COUNT_MAX } from "./limits.ts";

type ImageReport = shoal.v1.ImageReport.$Properties;

/** What many nodes call by the same text is kept once. */
interface Entry {
  readonly text: string;
  readonly nodes: Set<string>;
}

const NO_NODES: ReadonlySet<string> = new Set();

export class NodeImages {
  readonly #entries = new Map<string, Entry>();
  readonly #byNode = new Map<string, Set<Entry>>();
  /** Where the next answer of someWith() begins. */
  #turn = 0;
  readonly #listeners = new Set<(nodeId: string) => void>();

  /** Takes in what the node says. Throws invalid_argument for more or longer names than a node may have. */
  report(nodeId: string, report: ImageReport): void {
    const added = report.added ?? [];
    const long = added.find((text) => text.length > NODE_IMAGE_CHARS_MAX);
    if (long !== undefined) {
      throw new ClusterError(
        "invalid_argument",
        `Image report must have names of at most ${NODE_IMAGE_CHARS_MAX} characters, got one of ${long.length}`,
      );
    }
    const present = this.#byNode.get(nodeId);
    // Differences are to a whole that this leader was told.
    if (report.full !== true && present === undefined) return;
    if (report.full === true) this.#clear(nodeId);
    const own = this.#byNode.get(nodeId) ?? new Set<Entry>();
    this.#byNode.set(nodeId, own);
    for (const text of report.removed ?? []) this.#drop(nodeId, own, this.#entries.get(text));
    for (const text of added) {
      const entry = this.#entries.get(text) ?? { text, nodes: new Set<string>() };
      if (!own.has(entry) && own.size >= NODE_IMAGE_COUNT_MAX) {
        throw new ClusterError(
          "invalid_argument",
          `Image report must have at most ${NODE_IMAGE_COUNT_MAX} names, got more`,
        );
      }
      this.#entries.set(text, entry);
      entry.nodes.add(nodeId);
      own.add(entry);
    }
    for (const listener of this.#listeners) listener(nodeId);
  }

  /** The node is no longer part of the cluster. */
  forget(nodeId: string): void {
    this.#clear(nodeId);
    this.#byNode.delete(nodeId);
  }

  /** What the node has, sorted; undefined while it has not said. */
  of(nodeId: string): readonly string[] | undefined {
    const own = this.#byNode.get(nodeId);
    return own === undefined ? undefined : [...own].map((entry) => entry.text).sort();
  }

  /** Whether the node has the image; undefined while it has not said. */
  has(nodeId: string, text: string): boolean | undefined {
    const own = this.#byNode.get(nodeId);
    if (own === undefined) return undefined;
    const entry = this.#entries.get(text);
    return entry !== undefined && own.has(entry);
  }

  /** Nodes that have what `reference` names, in whatever form a user writes it. Not to be changed. */
  nodesWith(reference: string): ReadonlySet<string> {
    const text = imageKey(reference);
    return (text === undefined ? undefined : this.#entries.get(text)?.nodes) ?? NO_NODES;
  }

  /** As nodesWith, but no more than are of use to one who looks for sources, and other ones each time. */
  someWith(reference: string): readonly string[] {
    const nodes = [...this.nodesWith(reference)];
    if (nodes.length <= IMAGE_SOURCE_COUNT_MAX) return nodes;
    this.#turn = (this.#turn + IMAGE_SOURCE_COUNT_MAX) % nodes.length;
    return [...nodes.slice(this.#turn), ...nodes.slice(0, this.#turn)].slice(0, IMAGE_SOURCE_COUNT_MAX);
  }

  /** `listener` is called after each report, in the same turn. Returns what ends that. */
  onReport(listener: (nodeId: string) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  #clear(nodeId: string): void {
    const own = this.#byNode.get(nodeId);
    if (own === undefined) return;
    for (const entry of own) this.#drop(nodeId, own, entry);
  }

  #drop(nodeId: string, own: Set<Entry>, entry: Entry | undefined): void {
    if (entry === undefined || !own.delete(entry)) return;
    entry.nodes.delete(nodeId);
    if (entry.nodes.size === 0) this.#entries.delete(entry.text);
  }
}

/** What an image is called in reports: its digest if the reference has one, else its name in full. */
function imageKey(reference: string): string | undefined {
  const parsed = tryParseReference(reference);
  if (parsed === undefined) return undefined;
  return parsed.digest ?? canonicalForm(withDefaultTag(parsed));
}
