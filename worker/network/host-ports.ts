/**
 * The ports of this node that tasks have for themselves (published in host mode), each held by a socket of the daemon: no
 * other program can take one, and a task that wants one that is taken fails with the reason. Packets go by the packet filter
 * of the mesh; what comes to an IPv6 address of the node is relayed.
 */
import { ClusterError } from "../../common/errors.ts";
import type { Logger } from "../../common/log.ts";
import {
  type HostProtocol,
  PortReservations,
  type PublishedPort,
} from "../../runtime/network/local-ports.ts";
import type { MeshTask } from "./mesh.ts";

const ALL_ADDRESSES = "0.0.0.0";

interface WantedPort {
  readonly protocol: HostProtocol;
  readonly number: number;
  readonly containerPort: number;
}

function wantedPorts(task: MeshTask): WantedPort[] {
  return task.ports.flatMap(({ Protocol: protocol, PublishMode, PublishedPort: number, TargetPort }) =>
    PublishMode === "host" && number > 0 && (protocol === "tcp" || protocol === "udp")
      ? [{ protocol, number, containerPort: TargetPort }]
      : [],
  );
}

export class HostPorts {
  readonly #log: Logger;
  readonly #reservations = new PortReservations();
  readonly #held = new Map<string, PublishedPort[]>();

  constructor(log: Logger) {
    this.#log = log;
  }

  /** Holds all ports of the task, or none and rejects. Fine if it holds them already. */
  async take(task: MeshTask, meshIp: string): Promise<void> {
    if (this.#held.has(task.id)) return;
    const held: PublishedPort[] = [];
    this.#held.set(task.id, held);
    try {
      for (const wanted of wantedPorts(task)) held.push(await this.#hold(wanted, meshIp));
    } catch (caught) {
      await this.release(task.id);
      throw caught;
    }
  }

  /** For a task that runs already: it keeps its ports in any case, held or not. */
  async adopt(task: MeshTask, meshIp: string): Promise<void> {
    try {
      await this.take(task, meshIp);
    } catch (caught) {
      const error = ClusterError.from(caught);
      this.#log.warn("port of a running task could not be held", { taskId: task.id, error });
    }
  }

  async release(taskId: string): Promise<void> {
    const held = this.#held.get(taskId) ?? [];
    this.#held.delete(taskId);
    for (const port of held) await this.#reservations.release(port);
  }

  async close(): Promise<void> {
    this.#held.clear();
    await this.#reservations.close();
  }

  async #hold({ protocol, number, containerPort }: WantedPort, meshIp: string): Promise<PublishedPort> {
    const range = { hostIp: ALL_ADDRESSES, isDual: true, first: number, last: number };
    try {
      const address = (): { host: string; port: number } => ({ host: meshIp, port: containerPort });
      return await this.#reservations.take({ protocol, containerPort, ...range }, { address });
    } catch (caught) {
      const text = `Cannot publish port ${number}/${protocol} of this node: something else on it listens there`;
      throw new ClusterError("failed_precondition", text, { cause: caught });
    }
  }
}
