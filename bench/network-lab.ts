/**
 * A few "hosts" on one machine for network tests: a network namespace each, joined by a bridge in a namespace of its own,
 * and processes in them. Needs root. Everything is under one temporary folder and gone after close(), also half-made.
 */
import { spawn } from "node:child_process";
import type { ChildProcess } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import type { NetworkAssignment, RemoteEndpoint } from "../model/dispatch.ts";
import type { Task } from "../model/objects.ts";
import { NetworkNamespace } from "../runtime/network/namespace.ts";
import {
  addAddress,
  addBridge,
  addVeth,
  findLink,
  listLinks,
  replaceRoute,
  setLink,
} from "../runtime/network/routing.ts";
import type { AgentCalls } from "./network-agent.ts";

const AGENT = path.join(import.meta.dirname, `network-agent${path.extname(import.meta.filename)}`);
/** Long enough for a machine that does much else: it costs time only where something is wrong. */
const CALL_TIMEOUT_MS = 120_000;

/** One process in a namespace. */
export class LabProcess {
  readonly #child: ChildProcess;
  readonly #waiting = new Map<
    number,
    { resolve: (value: unknown) => void; reject: (error: Error) => void }
  >();
  #next = 0;

  constructor(child: ChildProcess) {
    this.#child = child;
    child.on("message", (message: { id: number; result?: unknown; error?: string }) => {
      const waiting = this.#waiting.get(message.id);
      this.#waiting.delete(message.id);
      if (message.error === undefined) waiting?.resolve(message.result);
      else waiting?.reject(new Error(message.error));
    });
    child.on("exit", () => {
      for (const { reject } of this.#waiting.values()) reject(new Error("the process ended"));
    });
  }

  get pid(): number {
    return this.#child.pid ?? 0;
  }

  ready(): Promise<unknown> {
    return new Promise((resolve, reject) => this.#waiting.set(0, { resolve, reject }));
  }

  call<K extends keyof AgentCalls>(
    call: K,
    ...[argument]: Parameters<AgentCalls[K]>
  ): Promise<Awaited<ReturnType<AgentCalls[K]>>> {
    this.#next += 1;
    const id = this.#next;
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => reject(new Error(`${call} took too long`)), CALL_TIMEOUT_MS);
      this.#waiting.set(id, {
        resolve: (value) => {
          clearTimeout(timer);
          resolve(value as Awaited<ReturnType<AgentCalls[K]>>);
        },
        reject: (error) => {
          clearTimeout(timer);
          reject(error);
        },
      });
      this.#child.send({ id, call, argument });
    });
  }

  kill(): Promise<void> {
    return killChild(this.#child);
  }
}

async function killChild(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const ended = new Promise((resolve) => child.once("exit", resolve));
  child.kill("SIGKILL");
  await ended;
}

/** Between fork and exec the child has our own name. */
function isStillNode(pid: number): boolean {
  return readFileSync(`/proc/${pid}/comm`, "utf8") === readFileSync("/proc/self/comm", "utf8");
}

/** Any other program in a namespace. */
export interface LabProgram {
  readonly pid: number;
}

export interface LabHost {
  readonly name: string;
  readonly address: string;
  readonly namespace: NetworkNamespace;
  readonly file: string;
  readonly folder: string;
  /** Names of its links as they are before anything runs on it: the kernel may add some of its own. */
  readonly linksBefore: readonly string[];
}

export class NetworkLab {
  readonly folder: string = mkdtempSync(path.join(tmpdir(), "shoal-network-lab-"));
  readonly #switch: NetworkNamespace;
  readonly #hosts: LabHost[] = [];
  readonly #processes: LabProcess[] = [];
  readonly #programs: ChildProcess[] = [];

  constructor() {
    this.#switch = NetworkNamespace.createPinned(this.#file("switch"));
    this.#switch.setSysctls({ "bridge/bridge-nf-call-iptables": "0" });
    this.#switch.route.send([addBridge("br0"), setLink("br0", { isUp: true })]);
  }

  addHost(name: string): LabHost {
    const file = this.#file(name);
    const namespace = NetworkNamespace.createPinned(file);
    const address = `192.168.77.${this.#hosts.length + 1}`;
    const bridge = findLink(this.#switch.route, "br0");
    this.#switch.route.send([
      addVeth(`p-${name}`, {}, { name: "eth0", namespace: namespace.fd }),
      setLink(`p-${name}`, { master: bridge?.index ?? 0, isUp: true }),
    ]);
    const link = findLink(namespace.route, "eth0");
    namespace.route.send([
      setLink("lo", { isUp: true }),
      setLink("eth0", { isUp: true }),
      addAddress(link?.index ?? 0, { address, prefixLength: 24 }),
    ]);
    const linksBefore = listLinks(namespace.route).map((each) => each.name);
    const folder = path.join(this.folder, `${name}-run`);
    const host = { name, address, namespace, file, folder, linksBefore };
    this.#hosts.push(host);
    return host;
  }

  /** A machine beyond the hosts: they reach it, and it them, through the bridge. */
  routeVia(host: LabHost, destination: string, prefixLength: number, via: string): void {
    const link = findLink(host.namespace.route, "eth0");
    host.namespace.route.send([replaceRoute({ destination, prefixLength, via, device: link?.index ?? 0 })]);
  }

  /** A process in the host's own namespace. */
  async processOn(host: LabHost): Promise<LabProcess> {
    return this.#start("nsenter", [`--net=${host.file}`]);
  }

  /** A process in a new, empty namespace, as a container has before it is connected. */
  async container(): Promise<LabProcess> {
    return this.#start("unshare", ["--net"]);
  }

  /** A program of another kind, under `unshare --net` or `nsenter`; waits until that has become it. */
  async program(command: string, list: readonly string[]): Promise<LabProgram> {
    const child = spawn(command, list, { stdio: ["ignore", "ignore", "inherit"] });
    this.#programs.push(child);
    const pid = child.pid ?? 0;
    while (readFileSync(`/proc/${pid}/comm`, "utf8").trim() === command || isStillNode(pid))
      await new Promise((resolve) => setTimeout(resolve, 5));
    return { pid };
  }

  /** Nothing passes between this host and the others until heal(). */
  async partition(host: LabHost): Promise<void> {
    await this.#switch.nft.run(
      `table netdev cut_${host.name} { chain in { type filter hook ingress device "p-${host.name}" priority 0; policy drop; }\n}`,
    );
  }

  async heal(host: LabHost): Promise<void> {
    await this.#switch.nft.run(`delete table netdev cut_${host.name}`);
  }

  async close(): Promise<void> {
    for (const process of this.#processes) await process.kill();
    for (const program of this.#programs) await killChild(program);
    for (const host of this.#hosts) {
      host.namespace.close();
      for (const name of NetworkNamespace.listPinned(path.join(host.folder, "netns")))
        NetworkNamespace.removePinned(path.join(host.folder, "netns", name));
      NetworkNamespace.removePinned(host.file);
    }
    this.#switch.close();
    NetworkNamespace.removePinned(this.#file("switch"));
    rmSync(this.folder, { recursive: true, force: true });
  }

  #file(name: string): string {
    return path.join(this.folder, "netns", name);
  }

  async #start(command: string, prefix: readonly string[]): Promise<LabProcess> {
    const child = spawn(command, [...prefix, process.execPath, AGENT], {
      stdio: ["ignore", "inherit", "inherit", "ipc"],
      serialization: "advanced",
    });
    const started = new LabProcess(child);
    this.#processes.push(started);
    await started.ready();
    return started;
  }
}

/** A task as far as the network looks at one. */
export function labTask(
  id: string,
  options: {
    readonly serviceId?: string;
    readonly networks?: readonly { readonly networkId: string; readonly address: string }[];
    readonly ports?: Task["ports"];
  } = {},
): Task {
  return {
    id,
    version: 1,
    createdAt: "2026-01-01T00:00:00.000000000Z",
    updatedAt: "2026-01-01T00:00:00.000000000Z",
    serviceId: options.serviceId ?? "",
    slot: 1,
    nodeId: "",
    name: `${id}.1`,
    serviceLabels: {},
    serviceName: options.serviceId ?? "",
    spec: { ContainerSpec: { Image: "none" } },
    specVersion: 1,
    desiredState: 512,
    status: { state: 512, timestamp: "2026-01-01T00:00:00.000000000Z", message: "", err: "" },
    networks: (options.networks ?? []).map(({ networkId, address }) => ({
      networkId,
      addresses: [address],
      aliases: [],
    })),
    ports: options.ports ?? [],
  };
}

export function labNetwork(
  endpoints: readonly RemoteEndpoint[],
  services: NetworkAssignment["services"],
): NetworkAssignment {
  return {
    networkId: "net1",
    name: "backnet",
    vni: 4097,
    subnets: [{ subnet: "10.77.1.0/24", gateway: "10.77.1.1" }],
    isInternal: false,
    isAttachable: true,
    options: {},
    endpoints,
    services,
  };
}
