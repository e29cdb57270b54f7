/** A UNIX socket whose connections go to an SSH agent of the build's client, for as long as a step runs. */
import { once } from "node:events";
import { chmodSync, chownSync, mkdirSync, rmSync } from "node:fs";
import { createServer, type Server, type Socket } from "node:net";
import path from "node:path";
import { pipeline, type Duplex } from "node:stream";

/** At a time; an ssh holds one. */
const CONNECTION_COUNT_MAX = 64;

export class AgentSocket {
  readonly file: string;
  readonly #folder: string;
  readonly #server: Server;
  readonly #open = new Set<Duplex>();

  private constructor(folder: string, connect: () => Duplex) {
    this.#folder = folder;
    this.file = path.join(folder, "agent");
    this.#server = createServer({ allowHalfOpen: true }, (socket) => this.#serve(socket, connect));
    this.#server.maxConnections = CONNECTION_COUNT_MAX;
  }

  /** `folder` is made for it and goes away with it. */
  static async open(
    folder: string,
    access: { readonly mode: number; readonly uid: number; readonly gid: number },
    connect: () => Duplex,
  ): Promise<AgentSocket> {
    mkdirSync(folder, { mode: 0o700 });
    const socket = new AgentSocket(folder, connect);
    try {
      socket.#server.listen(socket.file);
      await once(socket.#server, "listening");
      chownSync(socket.file, access.uid, access.gid);
      chmodSync(socket.file, access.mode);
      return socket;
    } catch (caught) {
      socket.close();
      throw caught;
    }
  }

  #serve(socket: Socket, connect: () => Duplex): void {
    let agent: Duplex;
    try {
      agent = connect();
    } catch {
      // The client has left; the build is told on its own way.
      socket.destroy();
      return;
    }
    for (const each of [socket, agent]) {
      this.#open.add(each);
      each.once("close", () => this.#open.delete(each));
    }
    const end = (): void => {
      socket.destroy();
      agent.destroy();
    };
    // An agent or a command that went away ends its own connection only.
    pipeline(socket, agent, (error) => {
      if (error) end();
    });
    pipeline(agent, socket, end);
  }

  close(): void {
    this.#server.close();
    for (const each of this.#open) each.destroy();
    rmSync(this.#folder, { recursive: true, force: true });
  }
}
