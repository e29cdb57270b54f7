/** Writes what sessions say about nodes: here, gone, described. Bursts (a new leader, a rack that failed) are one transaction. */
import { withoutMask } from "../../common/addresses.ts";
import type { Cancel, Timers } from "../../common/env.ts";
import { guestKey, guestsByKey } from "../../model/node-guests.ts";
import { type Node, type NodeDescription, type NodeGuest, NodeState } from "../../model/objects.ts";
import { deepEqual } from "../../model/up-to-date.ts";
import type { shoal } from "../../proto/messages.ts";
import type { Store } from "../store/store.ts";
import { GUEST_COUNT_MAX, GUEST_NAME_COUNT_MAX, STATUS_COALESCE_MS } from "./limits.ts";

export interface NodeWriterDeps {
  readonly store: Store;
  readonly timers: Timers;
  readonly failed: (error: unknown) => void;
}

const decoder = new TextDecoder();

function parseDescription(json: Uint8Array | null | undefined): NodeDescription | undefined {
  if (json === null || json === undefined || json.byteLength === 0) return undefined;
  return JSON.parse(decoder.decode(json)) as NodeDescription;
}

/** The node's guests as it reports them now, with the addresses that they have from us. */
export function mergeGuests(
  known: readonly NodeGuest[],
  reported: readonly shoal.v1.Guest.$Properties[],
): readonly NodeGuest[] {
  const formers = guestsByKey(known);
  return reported.slice(0, GUEST_COUNT_MAX).map((each) => {
    const identity = { containerId: each.containerId ?? "", networkId: each.networkId ?? "" };
    const names = (each.names ?? []).slice(0, GUEST_NAME_COUNT_MAX);
    const wanted = each.address ?? "";
    const address = formers.get(guestKey(identity))?.address ?? "";
    const keeps = wanted === "" || withoutMask(address) === wanted;
    return { ...identity, names, wanted, address: keeps ? address : "" };
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
  register(nodeId: string, hello: shoal.v1.AgentHello.$Properties, addr: string): void {
    const description = parseDescription(hello.descriptionJson);
    this.#change(nodeId, (node) => ({
      ...node,
      ...(description === undefined ? {} : { description: { ...node.description, ...description } }),
      status: { state: NodeState.ready, message: "", addr },
      rpcAddress: hello.rpcAddress ?? node.rpcAddress,
      dataPathAddress: hello.dataPathAddress ?? node.dataPathAddress,
    }));
  }

  describe(nodeId: string, json: Uint8Array): void {
    const description = parseDescription(json);
    if (description === undefined) return;
    this.#change(nodeId, (node) => ({ ...node, description: { ...node.description, ...description } }));
  }

  setGuests(nodeId: string, reported: readonly shoal.v1.Guest.$Properties[]): void {
    this.#change(nodeId, (node) =>
      node.guests === undefined && reported.length === 0
        ? node
        : { ...node, guests: mergeGuests(node.guests ?? [], reported) },
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
      await this.#deps.store.update((tx) => {
        for (const [nodeId, list] of changes) {
          const node = tx.get("node", nodeId);
          if (node === undefined) continue;
          const next = list.reduce((current, change) => change(current), node);
          if (!deepEqual(next, node)) tx.update("node", next);
        }
      });
    } catch (caught) {
      if (!this.#isStopped) this.#deps.failed(caught);
    }
  }
}
