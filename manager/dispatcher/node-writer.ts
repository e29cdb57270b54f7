/** Writes what sessions say about nodes: here, gone, described. Bursts (a new leader, a rack that failed) go together. */
import { withoutMask } from "../../common/addresses.ts";
import type { Cancel, Timers } from "../../common/env.ts";
import { guestKey, guestsByKey } from "../../model/node-guests.ts";
import { type Node, type NodeGuest, NodeState } from "../../model/objects.ts";
import { deepEqual } from "../../model/up-to-date.ts";
import type { shoal } from "../../proto/messages.ts";
import type { Store } from "../store/store.ts";
import { parseAddresses, parseDescription, parseGuests, type ReportedGuest } from "./agent-reports.ts";
import { STATUS_COALESCE_MS } from "./limits.ts";

export interface NodeWriterDeps {
  readonly store: Store;
  readonly timers: Timers;
  readonly failed: (error: unknown) => void;
}

/** The node's guests as it reports them now, with the addresses that they have from us. */
export function mergeGuests(
  known: readonly NodeGuest[],
  reported: readonly ReportedGuest[],
): readonly NodeGuest[] {
  const formers = guestsByKey(known);
  return reported.map((guest) => {
    const address = formers.get(guestKey(guest))?.address ?? "";
    const keeps = guest.wanted === "" || withoutMask(address) === guest.wanted;
    return { ...guest, address: keeps ? address : "" };
  });
}

export class NodeWriter {
  readonly #deps: NodeWriterDeps;
  /** Newest change of each node; a later one replaces an earlier one only after applying on top of it. */
  readonly #changes = new Map<string, ((node: Node) => Node)[]>();
  #cancel: Cancel | undefined;
  #isStopped = false;

  constructor(deps: NodeWriterDeps) {
    this.#deps = deps;
  }

  stop(): void {
    this.#isStopped = true;
    this.#cancel?.();
    this.#changes.clear();
  }

  /** The node has a session. */
  register(nodeId: string, hello: shoal.v1.AgentHello.$Properties, remoteAddr: string): void {
    const description = parseDescription(hello.descriptionJson);
    const { addr = remoteAddr, ...addresses } = parseAddresses(hello);
    this.#change(nodeId, (node) => ({
      ...node,
      ...(description === undefined ? {} : { description: { ...node.description, ...description } }),
      status: { state: NodeState.ready, message: "", addr },
      ...addresses,
    }));
  }

  describe(nodeId: string, json: Uint8Array): void {
    const description = parseDescription(json);
    if (description === undefined) return;
    this.#change(nodeId, (node) => ({ ...node, description: { ...node.description, ...description } }));
  }

  setGuests(nodeId: string, reported: readonly shoal.v1.Guest.$Properties[]): void {
    const guests = parseGuests(reported);
    this.#change(nodeId, (node) =>
      node.guests === undefined && guests.length === 0
        ? node
        : { ...node, guests: mergeGuests(node.guests ?? [], guests) },
    );
  }

  markDown(nodeId: string, message: string): void {
    this.#change(nodeId, (node) =>
      node.status.state === NodeState.down
        ? node
        : { ...node, status: { ...node.status, state: NodeState.down, message } },
    );
  }

  #change(nodeId: string, change: (node: Node) => Node): void {
    if (this.#isStopped) return;
    this.#changes.set(nodeId, [...(this.#changes.get(nodeId) ?? []), change]);
    this.#cancel ??= this.#deps.timers.after(STATUS_COALESCE_MS, () => {
      this.#cancel = undefined;
      void this.#write();
    });
  }

  async #write(): Promise<void> {
    const changes = [...this.#changes];
    this.#changes.clear();
    try {
      await this.#deps.store.batch(changes, (tx, [nodeId, list]) => {
        const node = tx.get("node", nodeId);
        if (node === undefined) return;
        const next = list.reduce((current, change) => change(current), node);
        if (!deepEqual(next, node)) tx.update("node", next);
      });
    } catch (caught) {
      if (!this.#isStopped) this.#deps.failed(caught);
    }
  }
}
