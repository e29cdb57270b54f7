/**
 * Host ports of a daemon without root: they are outside of its network namespace, where slirp4netns listens and passes
 * on. One request for each connection to its socket, as slirp4netns(1) describes. Forwards of a former daemon are taken
 * over.
 */
import { createConnection } from "node:net";
import { ClusterError } from "../../common/errors.ts";
import type { HostProtocol } from "./local-ports.ts";

/** The namespace's address in slirp4netns' own network. */
const GUEST_ADDRESS = "10.0.2.100";
const ANSWER_BYTES_MAX = 1 << 20;
const ANSWER_TIMEOUT_MS = 5000;
const FIRST_OPEN_PORT = 1024;

interface Forward {
  readonly id: number;
  readonly proto: string;
  readonly host_addr: string;
  readonly host_port: number;
}

export interface OutsidePorts {
  /** Resolves with how to give it back; undefined if somebody else has it. */
  take(protocol: HostProtocol, hostIp: string, port: number): Promise<(() => Promise<void>) | undefined>;
  /** Gives back what a former daemon took and nobody has taken over. */
  sweep(): Promise<void>;
}

export class SlirpPorts implements OutsidePorts {
  readonly #socketPath: string;
  #former: Map<string, Forward> | undefined;

  constructor(socketPath: string) {
    this.#socketPath = socketPath;
  }

  async take(
    protocol: HostProtocol,
    hostIp: string,
    port: number,
  ): Promise<(() => Promise<void>) | undefined> {
    const former = await this.#formerForwards();
    const key = `${protocol} ${hostIp} ${port}`;
    const known = former.get(key);
    former.delete(key);
    const id = known?.id ?? (await this.#add(protocol, hostIp, port));
    if (id === undefined) return undefined;
    return async () => {
      await this.#ask("remove_hostfwd", { id });
    };
  }

  async sweep(): Promise<void> {
    const former = await this.#formerForwards();
    for (const [key, { id }] of former) {
      former.delete(key);
      await this.#ask("remove_hostfwd", { id });
    }
  }

  async #add(protocol: HostProtocol, hostIp: string, port: number): Promise<number | undefined> {
    const answer = (await this.#ask("add_hostfwd", {
      proto: protocol,
      host_addr: hostIp,
      host_port: port,
      guest_addr: GUEST_ADDRESS,
      guest_port: port,
    })) as { readonly id?: number } | undefined;
    if (answer?.id !== undefined) return answer.id;
    if (port < FIRST_OPEN_PORT) {
      throw new ClusterError(
        "permission_denied",
        `cannot expose privileged port ${port}: choose one from ${FIRST_OPEN_PORT} on, or let users have it by sysctl net.ipv4.ip_unprivileged_port_start`,
      );
    }
    return undefined;
  }

  async #formerForwards(): Promise<Map<string, Forward>> {
    if (this.#former !== undefined) return this.#former;
    const answer = (await this.#ask("list_hostfwd", {})) as
      | { readonly entries?: readonly Forward[] }
      | undefined;
    const entries = answer?.entries ?? [];
    this.#former ??= new Map(
      entries.map((each) => [`${each.proto} ${each.host_addr} ${each.host_port}`, each]),
    );
    return this.#former;
  }

  /** What it returned; undefined where it refused. */
  #ask(execute: string, arguments_: object): Promise<unknown> {
    return new Promise((resolve, reject) => {
      const unreachable = (why: string): void =>
        reject(new ClusterError("unavailable", `Cannot ask slirp4netns at "${this.#socketPath}": ${why}`));
      const socket = createConnection(this.#socketPath);
      let text = "";
      socket.setTimeout(ANSWER_TIMEOUT_MS, () => socket.destroy(new Error("no answer in time")));
      socket.once("error", (error) => unreachable(error.message));
      socket.on("data", (chunk: Buffer) => {
        text += chunk.toString();
        if (text.length > ANSWER_BYTES_MAX) socket.destroy(new Error("its answer is too long"));
      });
      socket.once("end", () => {
        socket.destroy();
        try {
          resolve((JSON.parse(text) as { readonly return?: unknown }).return);
        } catch {
          unreachable(`it answered "${text.slice(0, 100)}"`);
        }
      });
      socket.end(JSON.stringify({ execute, arguments: arguments_ }));
    });
  }
}
