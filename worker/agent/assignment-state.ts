/**
 * What the manager has told this worker so far, put together from one full message and the differences after it.
 * Pure data; the agent feeds it and hands the result on. It never guesses: a message out of sequence is refused, and the
 * agent opens a new session, which begins with a full set.
 */
import { ClusterError } from "../../common/errors.ts";
import type {
  AssignmentSet,
  ImageAssignment,
  IngressPort,
  MeshAssignment,
  NetworkAssignment,
  NetworkServiceRecord,
  PeerNode,
  RemoteEndpoint,
} from "../../model/dispatch.ts";
import type { Config, Secret, Task } from "../../model/objects.ts";
import type { shoal } from "../../proto/messages.ts";

type Assignments = shoal.v1.Assignments.$Properties;
type Document = shoal.v1.Document.$Properties;
type NetworkBase = Omit<NetworkAssignment, "endpoints" | "services">;
type MeshBase = Omit<MeshAssignment, "peers" | "ingressPorts">;

interface NetworkState {
  base: NetworkBase;
  readonly endpoints: Map<string, RemoteEndpoint>;
  readonly services: Map<string, NetworkServiceRecord>;
  /** The assembled form; dropped at each change. */
  assembled: NetworkAssignment | undefined;
}

const decoder = new TextDecoder();

/** Documents are written by managers of this cluster over mTLS; their shape is the store's. */
function parse<T>(json: Uint8Array | null | undefined): T {
  return JSON.parse(decoder.decode(json ?? new Uint8Array())) as T;
}

function byCodeUnits(left: string, right: string): number {
  return left < right ? -1 : left > right ? 1 : 0;
}

export class AssignmentState {
  #sequence = 0;
  #hasFullSet = false;
  readonly #tasks = new Map<string, Task>();
  readonly #secrets = new Map<string, Secret>();
  readonly #configs = new Map<string, Config>();
  readonly #networks = new Map<string, NetworkState>();
  readonly #images = new Map<string, ImageAssignment>();
  #mesh: MeshBase | undefined;
  readonly #peers = new Map<string, PeerNode>();
  readonly #ingressPorts = new Map<string, IngressPort>();

  /** Sequence number of the last message taken in; 0 before the first. */
  get sequence(): number {
    return this.#sequence;
  }

  /** Takes one message in. Throws failed_precondition when it doesn't follow the last one; then nothing has changed. */
  apply(message: Assignments): void {
    const sequence = message.sequence ?? 0;
    const isFull = message.full ?? false;
    if (!isFull && (!this.#hasFullSet || sequence !== this.#sequence + 1)) {
      throw new ClusterError(
        "failed_precondition",
        `Cannot apply assignments: sequence must be ${this.#sequence + 1} after a full set, got ${sequence}`,
      );
    }
    if (isFull) this.#clear();
    this.#hasFullSet = true;
    this.#sequence = sequence;
    upsert(this.#tasks, message.tasks, message.removedTasks);
    upsert(this.#secrets, message.secrets, message.removedSecrets);
    upsert(this.#configs, message.configs, message.removedConfigs);
    this.#applyNetworks(message);
    if (message.meshJson !== null && message.meshJson !== undefined) {
      this.#mesh = parse<MeshBase>(message.meshJson);
    }
    upsert(this.#peers, message.peers, message.removedPeers);
    upsert(this.#images, message.images, message.removedImages);
    upsert(this.#ingressPorts, message.ingressPorts, message.removedIngressPorts);
  }

  /** The whole assignment as of the last message. Maps are copies: later messages don't change them. */
  current(): AssignmentSet {
    const networks = new Map<string, NetworkAssignment>();
    for (const [id, network] of this.#networks) {
      network.assembled ??= {
        ...network.base,
        endpoints: [...network.endpoints.values()].sort((a, b) => byCodeUnits(a.taskId, b.taskId)),
        services: [...network.services.values()].sort((a, b) => byCodeUnits(a.serviceId, b.serviceId)),
      };
      networks.set(id, network.assembled);
    }
    return {
      tasks: new Map(this.#tasks),
      secrets: new Map(this.#secrets),
      configs: new Map(this.#configs),
      networks,
      mesh: this.#currentMesh(),
      images: new Map(this.#images),
    };
  }

  #currentMesh(): MeshAssignment | undefined {
    if (this.#mesh === undefined) return undefined;
    return {
      ...this.#mesh,
      peers: [...this.#peers.values()].sort((a, b) => byCodeUnits(a.nodeId, b.nodeId)),
      ingressPorts: [...this.#ingressPorts.values()].sort(
        (a, b) => byCodeUnits(a.protocol, b.protocol) || a.publishedPort - b.publishedPort,
      ),
    };
  }

  #clear(): void {
    this.#tasks.clear();
    this.#secrets.clear();
    this.#configs.clear();
    this.#networks.clear();
    this.#peers.clear();
    this.#ingressPorts.clear();
    this.#images.clear();
    this.#mesh = undefined;
  }

  #applyNetworks(message: Assignments): void {
    for (const id of message.removedNetworks ?? []) this.#networks.delete(id);
    for (const { id, json } of message.networks ?? []) {
      const base = parse<NetworkBase>(json);
      const known = this.#networks.get(id ?? "");
      if (known === undefined) {
        this.#networks.set(id ?? "", {
          base,
          endpoints: new Map(),
          services: new Map(),
          assembled: undefined,
        });
      } else {
        known.base = base;
        known.assembled = undefined;
      }
    }
    for (const change of message.networkChanges ?? []) {
      const network = this.#networks.get(change.networkId ?? "");
      if (network === undefined) continue;
      if (change.full ?? false) {
        network.endpoints.clear();
        network.services.clear();
      }
      upsert(network.endpoints, change.endpoints, change.removedEndpoints);
      upsert(network.services, change.services, change.removedServices);
      network.assembled = undefined;
    }
  }
}

function upsert<T>(
  into: Map<string, T>,
  documents: readonly Document[] | null | undefined,
  removed: readonly string[] | null | undefined,
): void {
  for (const id of removed ?? []) into.delete(id);
  for (const { id, json } of documents ?? []) into.set(id ?? "", parse<T>(json));
}
