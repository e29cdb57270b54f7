/**
 * A process inside one network namespace of the network lab, told what to do over its IPC channel: it plays a container
 * (serves HTTP and UDP, asks names) or a host (runs the worker's network). Started by network-lab.ts; ends with its parent.
 */
import { createSocket } from "node:dgram";
import { existsSync } from "node:fs";
import { createServer, get } from "node:http";
import { connect } from "node:net";
import { Resolver } from "node:dns/promises";
import { realEnv } from "../common/real-env.ts";
import { createLogger } from "../common/log.ts";
import type { Logger } from "../common/log.ts";
import type { MeshAssignment, NetworkAssignment } from "../model/dispatch.ts";
import type { Task } from "../model/objects.ts";
import { createLocalNetworks } from "../runtime/network/local-networks.ts";
import type { LocalNetworks } from "../runtime/network/local-networks.ts";
import type { ContainerDirectory } from "../runtime/ports.ts";
import { createWorkerNetwork } from "../worker/network/worker-network.ts";
import type { WorkerNetwork } from "../worker/network/worker-network.ts";

export interface LoadResult {
  readonly ok: number;
  readonly failed: number;
  readonly errors: readonly string[];
  readonly byServer: Readonly<Record<string, number>>;
}

/** What an agent can be asked; the result of each is sent back. */
export interface AgentCalls {
  serve(options: { port: number; name: string }): Promise<void>;
  http(options: { url: string; timeoutMs?: number }): Promise<string>;
  udp(options: {
    host: string;
    port: number;
    text: string;
    localPort?: number;
    timeoutMs?: number;
  }): Promise<string>;
  resolve(options: { server: string; name: string; kind: "A" | "AAAA" | "PTR" | "SRV" }): Promise<string[]>;
  /** Connects to each host from the same port of its own, and asks them one after the other while all are open. */
  samePort(options: { hosts: readonly string[]; port: number; localPort: number }): Promise<string[]>;
  /** Requests one after the other in each of `parallel` lanes, until stopLoad(). */
  startLoad(options: { url: string; parallel: number }): Promise<void>;
  /** Resolves when as many more have been answered, or failed. */
  untilLoad(count: number): Promise<void>;
  stopLoad(): Promise<LoadResult>;
  hold(options: { host: string; port: number }): Promise<void>;
  /** What comes for one more request: the whole answer, or how the connection ended. */
  heldAnswers(): Promise<string>;
  startNetwork(options: {
    instance: string;
    nodeId: string;
    dataPathAddress: string;
    runFolder: string;
  }): Promise<void>;
  apply(state: { networks: readonly NetworkAssignment[]; mesh?: MeshAssignment }): Promise<readonly string[]>;
  attach(options: { task: Task; pid: number }): Promise<unknown>;
  adopt(options: { task: Task; pid: number; meshIp: string }): Promise<string>;
  /** Milliseconds that it took. */
  timedApply(state: Parameters<AgentCalls["apply"]>[0]): Promise<number>;
  timedAttach(options: { task: Task; pid: number }): Promise<number>;
  /** A container outside of any service joins an attachable network. */
  guest(options: { network: string; containerId: string; pid: number }): Promise<string>;
  guestGone(containerId: string): Promise<void>;
  drain(taskId: string): Promise<void>;
  detach(taskId: string): Promise<void>;
  removeAll(): Promise<void>;
  closeNetwork(): Promise<void>;
  startLocal(options: { instance: string; dataRoot: string; execRoot?: string }): Promise<void>;
  local(options: { method: LocalMethod; arguments: readonly unknown[] }): Promise<unknown>;
  connectTo(options: { host: string; port: number }): Promise<string>;
}

type LocalMethod =
  | "attach"
  | "detach"
  | "adopt"
  | "validate"
  | "create"
  | "remove"
  | "inspect"
  | "connect"
  | "disconnect"
  | "prune"
  | "close";

/** Long enough for a machine that does much else: who waits for silence says for how long. */
const DEFAULT_TIMEOUT_MS = 30_000;
let network: WorkerNetwork | undefined;
let held: { readonly socket: ReturnType<typeof connect>; text: string } | undefined;
let load: Load | undefined;

const containers = new Map<string, ReturnType<ContainerDirectory["find"]>>();
let local: LocalNetworks | undefined;

function stderrLog(name: string): Logger {
  return createLogger({
    level: process.env["LAB_LOG"] === undefined ? "warn" : "debug",
    format: "text",
    wallMs: () => Date.now(),
    write: (line) => process.stderr.write(`${name} ${line}\n`),
  });
}

function requireNetwork(): WorkerNetwork {
  if (network === undefined) throw new Error("the network is not started");
  return network;
}

function fetchText(url: string, timeoutMs: number): Promise<string> {
  return new Promise((resolve, reject) => {
    const request = get(url, { timeout: timeoutMs, agent: false }, (response) => {
      let text = "";
      response.setEncoding("utf8");
      response.on("data", (part: string) => (text += part));
      response.on("end", () => resolve(text));
      response.on("error", reject);
    });
    request.on("timeout", () => request.destroy(new Error("timeout")));
    request.on("error", reject);
  });
}

class Load {
  readonly #byServer: Record<string, number> = {};
  readonly #errors = new Set<string>();
  readonly #lanes: Promise<unknown>;
  #ok = 0;
  #failed = 0;
  #isStopped = false;
  #told: () => void = () => {};

  constructor(url: string, parallel: number) {
    this.#lanes = Promise.all(Array.from({ length: parallel }, () => this.#lane(url)));
  }

  async #lane(url: string): Promise<void> {
    while (!this.#isStopped) {
      try {
        const [server = ""] = (await fetchText(url, DEFAULT_TIMEOUT_MS)).split(" ");
        this.#byServer[server] = (this.#byServer[server] ?? 0) + 1;
        this.#ok += 1;
      } catch (caught) {
        this.#failed += 1;
        this.#errors.add(String(caught));
      }
      this.#told();
    }
  }

  async until(count: number): Promise<void> {
    const wanted = this.#ok + this.#failed + count;
    while (this.#ok + this.#failed < wanted)
      await new Promise<void>((resolve) => {
        this.#told = resolve;
      });
  }

  async stop(): Promise<LoadResult> {
    this.#isStopped = true;
    await this.#lanes;
    const errors = [...this.#errors].slice(0, 5);
    return { ok: this.#ok, failed: this.#failed, errors, byServer: this.#byServer };
  }
}

function requireLoad(): Load {
  if (load === undefined) throw new Error("no load is started");
  return load;
}

/** Whether `text` holds all of an HTTP answer that names its length. */
function isWhole(text: string): boolean {
  const [head = "", body] = text.split("\r\n\r\n");
  return body !== undefined && body.length >= Number(/content-length: (\d+)/i.exec(head)?.[1] ?? 0);
}

const calls: AgentCalls = {
  async serve({ port, name }) {
    const server = createServer((request, response) => {
      const from = (request.socket.remoteAddress ?? "").replace("::ffff:", "");
      response.end(`${name} ${from}`);
    });
    server.keepAliveTimeout = 30_000;
    const hasIpv6 = existsSync("/proc/net/if_inet6");
    await new Promise<void>((resolve) => server.listen(port, hasIpv6 ? "::" : "0.0.0.0", resolve));
    for (const type of hasIpv6 ? (["udp4", "udp6"] as const) : (["udp4"] as const)) {
      const udp = createSocket({ type, ipv6Only: type === "udp6" });
      udp.on("message", (message, from) =>
        udp.send(`${name} ${from.address} ${message.toString()}`, from.port, from.address),
      );
      await new Promise<void>((resolve) => udp.bind(port, resolve));
    }
  },
  http: ({ url, timeoutMs }) => fetchText(url, timeoutMs ?? DEFAULT_TIMEOUT_MS),
  udp: ({ host, port, text, localPort, timeoutMs }) =>
    new Promise((resolve, reject) => {
      const socket = createSocket(host.includes(":") ? "udp6" : "udp4");
      const timer = setTimeout(() => {
        socket.close();
        reject(new Error("timeout"));
      }, timeoutMs ?? DEFAULT_TIMEOUT_MS);
      socket.on("message", (message) => {
        clearTimeout(timer);
        socket.close();
        resolve(message.toString());
      });
      socket.bind(localPort ?? 0, () => socket.send(text, port, host));
    }),
  async resolve({ server, name, kind }) {
    const resolver = new Resolver({ timeout: 15_000, tries: 2 });
    resolver.setServers([server]);
    if (kind === "A") return (await resolver.resolve4(name)).toSorted();
    if (kind === "AAAA") return resolver.resolve6(name);
    if (kind === "PTR") return resolver.reverse(name);
    return (await resolver.resolveSrv(name)).map((record) => `${record.name}:${record.port}`);
  },
  async samePort({ hosts, port, localPort }) {
    const sockets = hosts.map((host) => connect({ host, port, localPort }));
    const answers = sockets.map(
      (socket, index) =>
        new Promise<string>((resolve) => {
          const timer = setTimeout(() => resolve(`${hosts[index]}: timeout`), DEFAULT_TIMEOUT_MS);
          const settle = (answer: string): void => {
            clearTimeout(timer);
            resolve(answer);
          };
          socket.once("data", (bytes) => settle(bytes.toString().split("\r\n\r\n")[1] ?? ""));
          socket.once("error", (error) => settle(`${hosts[index]}: ${error.message}`));
        }),
    );
    for (const socket of sockets) socket.write("GET / HTTP/1.1\r\nHost: held\r\n\r\n");
    const all = await Promise.all(answers);
    for (const socket of sockets) socket.destroy();
    return all;
  },
  startLoad({ url, parallel }) {
    load = new Load(url, parallel);
    return Promise.resolve();
  },
  untilLoad: (count) => requireLoad().until(count),
  stopLoad: () => requireLoad().stop(),
  async hold({ host, port }) {
    const socket = connect(port, host);
    held = { socket, text: "" };
    socket.on("data", (bytes) => {
      if (held !== undefined) held.text += bytes.toString();
    });
    socket.on("error", (error) => {
      if (held !== undefined) held.text += `ERROR ${error.message}`;
    });
    await new Promise<void>((resolve, reject) => {
      socket.once("connect", resolve);
      socket.once("error", reject);
    });
  },
  async heldAnswers() {
    if (held === undefined) throw new Error("no connection is held");
    // A connection that has ended already stays so.
    if (!held.text.includes("ERROR")) held.text = "";
    held.socket.write("GET / HTTP/1.1\r\nHost: held\r\n\r\n");
    const { socket } = held;
    await new Promise<void>((resolve) => {
      const look = (): void => {
        const text = held?.text ?? "";
        if (isWhole(text) || text.includes("ERROR") || socket.closed) resolve();
      };
      for (const event of ["data", "error", "close"]) socket.on(event, look);
      look();
    });
    return held.text;
  },
  async startNetwork(options) {
    const log = stderrLog(options.nodeId);
    network = await createWorkerNetwork({ ...options, env: realEnv, log, resolvConf: "/nonexistent" });
  },
  async apply({ networks, mesh }) {
    const map = new Map(networks.map((each) => [each.networkId, each]));
    return (await requireNetwork().apply({ networks: map, mesh })).errors;
  },
  async timedApply(state) {
    const startMs = performance.now();
    await calls.apply(state);
    return performance.now() - startMs;
  },
  async timedAttach(options) {
    const startMs = performance.now();
    await calls.attach(options);
    return performance.now() - startMs;
  },
  attach: ({ task, pid }) => requireNetwork().attach(task, { containerId: task.id, pid }),
  adopt: ({ task, pid, meshIp }) => requireNetwork().adopt(task, { containerId: task.id, pid }, meshIp),
  async guest({ network: reference, containerId, pid }) {
    const { guests } = requireNetwork();
    const found = await guests.open(reference);
    if (found === undefined) throw new Error(`network ${reference} not found`);
    const target = { containerId, pid };
    const places = [{ networkId: found.id, names: [containerId], address: "" }];
    const attached = await guests.attach({ target, places, nameservers: [], ports: [] });
    return attached.endpoints[found.name]?.IPAddress ?? "";
  },
  guestGone: (containerId) => requireNetwork().guests.detach(containerId),
  drain: (taskId) => requireNetwork().drain(taskId),
  detach: (taskId) => requireNetwork().detach(taskId),
  removeAll: () => requireNetwork().removeAll(),
  closeNetwork: () => requireNetwork().close(),
  async startLocal(options) {
    local = await createLocalNetworks({
      ...options,
      env: realEnv,
      log: stderrLog("local"),
      events: { emit: () => {} },
      resolvConf: "/nonexistent",
    });
    local.setContainers({
      find: (reference) => {
        const found = containers.get(reference);
        if (found === undefined) throw new Error(`No such container: ${reference}`);
        return found;
      },
      networksChanged: () => {},
    });
  },
  async local({ method, arguments: list }) {
    if (local === undefined) throw new Error("local networks are not started");
    if (method === "attach") {
      const { target } = list[0] as { target: { containerId: string; pid: number } };
      const { containerId: id, pid } = target;
      const rest = { hostname: "", dns: [], mode: "bridge", isNetworked: true, endpoints: {} };
      containers.set(id, { id, name: id, pid, ...rest });
    }
    if (method === "close") return local.close();
    const faces = { ...bound(local.containers), ...bound(local.networks) };
    return faces[method]?.(...list);
  },
  connectTo: ({ host, port }) =>
    new Promise((resolve) => {
      const socket = connect({ host, port, timeout: DEFAULT_TIMEOUT_MS });
      socket.once("connect", () => {
        socket.destroy();
        resolve("connected");
      });
      socket.once("timeout", () => {
        socket.destroy();
        resolve("timeout");
      });
      socket.once("error", (error) => resolve(error.message));
    }),
};

function bound(face: object): Record<string, (...list: readonly unknown[]) => unknown> {
  const methods = Object.getOwnPropertyNames(Object.getPrototypeOf(face)).filter(
    (name) => name !== "constructor",
  );
  return Object.fromEntries(
    methods.flatMap((name) => {
      const descriptor = Object.getOwnPropertyDescriptor(Object.getPrototypeOf(face), name);
      const method: unknown = descriptor?.value;
      return typeof method === "function" ? [[name, method.bind(face) as () => unknown]] : [];
    }),
  );
}

interface CallMessage {
  readonly id: number;
  readonly call: keyof AgentCalls;
  readonly argument: unknown;
}

async function serveCall(message: CallMessage): Promise<void> {
  const send = (reply: object): void => {
    process.send?.({ id: message.id, ...reply });
  };
  try {
    const call = calls[message.call] as (argument: unknown) => Promise<unknown>;
    send({ result: await call(message.argument) });
  } catch (caught) {
    send({ error: caught instanceof Error ? (caught.stack ?? caught.message) : String(caught) });
  }
}

process.on("message", (message: CallMessage) => void serveCall(message));
process.on("disconnect", () => process.exit(0));
process.send?.({ id: 0, result: "ready" });
