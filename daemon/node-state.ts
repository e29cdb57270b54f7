/** What a node must remember of its place in a cluster: addresses, managers, certificate. Files under DATA-ROOT/swarm. */
import path from "node:path";
import type { Disk } from "../common/env.ts";
import { ClusterError } from "../common/errors.ts";
import type { NodeAvailability, NodeRole } from "../model/specs.ts";
import type { NodeIdentity } from "../proto/rpc.ts";

export interface NodeState {
  readonly nodeId: string;
  readonly clusterId: string;
  readonly role: NodeRole;
  /** "host:port". */
  readonly listenAddr: string;
  readonly advertiseAddr: string;
  readonly dataPathAddr: string;
  readonly availability: NodeAvailability;
  /** "host:port" of the managers as last heard. */
  readonly managers: readonly string[];
  /** The cluster is being made here, or restored: nobody was told yet that it is there, nor is it whole. */
  readonly isFounding?: boolean;
}

const FORMAT = 1;

export class NodeStateStore {
  readonly #disk: Disk;
  readonly #folder: string;
  /** Tail of the chain of changes to the files. */
  #tail: Promise<unknown> = Promise.resolve();

  constructor(disk: Disk, dataRoot: string) {
    this.#disk = disk;
    this.#folder = path.join(dataRoot, "swarm");
  }

  /** Folder of the manager's Raft log and state. */
  get managerFolder(): string {
    return path.join(this.#folder, "manager");
  }

  get workerFolder(): string {
    return path.join(this.#folder, "worker");
  }

  /** State and certificate of the last run, or undefined when this machine is in no cluster. */
  async load(): Promise<{ readonly state: NodeState; readonly identity: NodeIdentity } | undefined> {
    const file = this.#nodeFile;
    if (!(await this.#disk.exists(file))) return undefined;
    const parsed = JSON.parse(await this.#text("node.json")) as NodeState & { readonly format: number };
    if (parsed.format !== FORMAT) {
      throw new ClusterError(
        "failed_precondition",
        `Cannot read "${file}": format must be ${FORMAT}, got ${String(parsed.format)}`,
      );
    }
    const { format: _format, ...state } = parsed;
    const identity: NodeIdentity = {
      nodeId: state.nodeId,
      clusterId: state.clusterId,
      role: state.role,
      certificate: await this.#text("node.crt"),
      key: await this.#text("node.key"),
      rootCa: await this.#text("ca.crt"),
    };
    return { state, identity };
  }

  /**
   * What is saved last stays, though saves come from many sides: managers that are told, a role that changes. Two at
   * one time would write the same temporary file, of which one loses.
   */
  save(state: NodeState): Promise<void> {
    return this.#inTurn(async () => {
      await this.#disk.makeFolder(this.#folder);
      await this.#write("node.json", `${JSON.stringify({ format: FORMAT, ...state }, undefined, 2)}\n`);
    });
  }

  saveIdentity(identity: NodeIdentity): Promise<void> {
    return this.#inTurn(async () => {
      await this.#disk.makeFolder(this.#folder);
      await this.#write("ca.crt", identity.rootCa);
      await this.#write("node.key", identity.key);
      await this.#write("node.crt", identity.certificate);
    });
  }

  /** The machine has left: nothing of the cluster stays. */
  clear(): Promise<void> {
    return this.#inTurn(async () => {
      if (!(await this.#disk.exists(this.#folder))) return;
      // First what the rest hangs on: whatever a crash leaves of it then is in nobody's way.
      await this.#disk.remove(this.#nodeFile);
      await this.#disk.syncFolder(this.#folder);
      await this.#disk.removeTree(this.#folder);
    });
  }

  /** What a clear() that was cut off left. */
  async clearLeftovers(): Promise<void> {
    if (!(await this.#disk.exists(this.#nodeFile))) await this.clear();
  }

  /** False: a manager that has not joined Raft, or was taken out of it. */
  hasManagerState(): Promise<boolean> {
    return this.#disk.exists(path.join(this.managerFolder, "raft", "CURRENT"));
  }

  async clearManager(): Promise<void> {
    await this.#disk.removeTree(this.managerFolder);
  }

  #inTurn(change: () => Promise<void>): Promise<void> {
    const turn = this.#tail.then(change);
    this.#tail = turn.catch(() => undefined);
    return turn;
  }

  get #nodeFile(): string {
    return path.join(this.#folder, "node.json");
  }

  async #text(name: string): Promise<string> {
    return new TextDecoder().decode(await this.#disk.readFile(path.join(this.#folder, name)));
  }

  async #write(name: string, text: string): Promise<void> {
    await this.#disk.writeFileAtomic(path.join(this.#folder, name), new TextEncoder().encode(text));
  }
}
