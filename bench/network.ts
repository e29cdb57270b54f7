/**
 * What the cluster's network costs: virtual addresses against direct endpoints, published ports against haproxy in TCP mode
 * on the same node, changes of endpoints, attaching tasks, name queries. Hosts are network namespaces on this machine with
 * VXLAN between them; measured paths take turns in one run. Needs root, wrk and haproxy (of Debian); says what is missing.
 *
 *   node bench/network.ts      after `npm run build`; `--help` names its options
 */
import { execFile, execFileSync } from "node:child_process";
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import path from "node:path";
import { promisify } from "node:util";
import type { IngressPort, MeshAssignment, NetworkAssignment, RemoteEndpoint } from "../model/dispatch.ts";
import { count, toolOptions } from "../dev/tool-options.ts";
import { labNetwork, labTask, NetworkLab } from "./network-lab.ts";
import type { LabHost, LabProcess, LabProgram } from "./network-lab.ts";
import { median } from "./statistics.ts";

const run = promisify(execFile);
const CONNECTIONS = 64;
const VIP = "10.77.1.250";
const HAPROXY_TCP_PORT = 9001;
const INGRESS_PORT = 8080;
const CPU_NS_PER_US = 1_000;

interface Options {
  readonly rounds: number;
  readonly seconds: number;
  readonly services: number;
}

interface Sample {
  readonly requestsPerSecond: number;
  readonly cpuUsPerRequest: number;
}

interface Path {
  readonly name: string;
  readonly url: string;
  readonly client: LabHost | LabProgram;
  /** Programs whose CPU time counts, the client's apart. */
  readonly programs: readonly LabProgram[];
}

interface Backend {
  readonly node: BenchNode;
  readonly program: LabProgram;
  readonly endpoint: RemoteEndpoint;
  meshIp: string;
}

interface BenchNode {
  readonly host: LabHost;
  readonly agent: LabProcess;
  readonly nodeId: string;
  readonly meshSubnet: string;
}

function isInstalled(program: string): boolean {
  try {
    execFileSync("sh", ["-c", `command -v ${program}`], { stdio: "ignore" });
    return true;
  } catch {
    return false;
  }
}

/** CPU time of all threads of a process; work that the kernel does for its packets in its turn is in it. */
function cpuNs(pid: number): number {
  const threads = readdirSync(`/proc/${pid}/task`);
  return threads
    .map((thread) => Number(readFileSync(`/proc/${pid}/task/${thread}/schedstat`, "utf8").split(" ")[0]))
    .reduce((sum, each) => sum + each, 0);
}

class Bench {
  readonly #options: Options;
  readonly #lab = new NetworkLab();
  readonly #nodes: BenchNode[] = [];
  readonly #backends: Backend[] = [];

  constructor(options: Options) {
    this.#options = options;
  }

  async run(): Promise<void> {
    try {
      const [one, two, three] = [
        await this.#addNode("one"),
        await this.#addNode("two"),
        await this.#addNode("three"),
      ];
      const client = this.#lab.addHost("client");
      await this.#addBackend(two, "b2", "10.77.1.12");
      await this.#addBackend(three, "b3", "10.77.1.13");
      const inside = await this.#lab.program("unshare", ["--net", "sleep", "infinity"]);
      await this.#attach(one, inside, "c1", "10.77.1.11");
      await this.#tell();
      const proxy = await this.#haproxy(one);
      await this.#measurePaths(client, inside, proxy, one);
      await this.#measureChanges(one);
      await this.#measureAttach(one);
      await this.#measureNames(one);
    } finally {
      await this.#lab.close();
    }
  }

  async #addNode(nodeId: string): Promise<BenchNode> {
    const host = this.#lab.addHost(nodeId);
    const agent = await this.#lab.processOn(host);
    const node = { host, agent, nodeId, meshSubnet: `10.210.${2 * this.#nodes.length}.0/23` };
    this.#nodes.push(node);
    await agent.call("startNetwork", {
      instance: nodeId,
      nodeId,
      dataPathAddress: host.address,
      runFolder: host.folder,
    });
    return node;
  }

  /** haproxy that answers by itself: the cheapest HTTP server that is always at hand. */
  async #addBackend(node: BenchNode, id: string, ip: string): Promise<void> {
    const file = this.#configuration(
      id,
      "frontend f\n  mode http\n  bind :80\n  http-request return status 200 content-type text/plain string ok\n",
    );
    const program = await this.#lab.program("unshare", ["--net", "haproxy", "-db", "-f", file]);
    await this.#attach(node, program, id, ip);
  }

  async #attach(node: BenchNode, program: LabProgram, id: string, ip: string): Promise<void> {
    const endpoint: RemoteEndpoint = {
      taskId: id,
      serviceId: id.startsWith("b") ? "web" : "client",
      nodeId: node.nodeId,
      ip,
      state: "ready",
      names: [id],
    };
    const backend = { node, program, endpoint, meshIp: "" };
    this.#backends.push(backend);
    await this.#tell();
    const task = labTask(id, { networks: [{ networkId: "net1", address: `${ip}/24` }] });
    const attached = await node.agent.call("attach", { task, pid: program.pid });
    backend.meshIp = (attached as { readonly meshIp: string }).meshIp;
  }

  async #tell(extra: Partial<MeshAssignment> = {}): Promise<void> {
    for (const node of this.#nodes)
      await node.agent.call("apply", {
        networks: [this.#network()],
        mesh: { ...this.#mesh(node), ...extra },
      });
  }

  #network(): NetworkAssignment {
    const endpoints = this.#backends.map((backend) => backend.endpoint);
    return labNetwork(endpoints, [{ serviceId: "web", name: "web", aliases: [], vip: VIP }]);
  }

  #mesh(node: BenchNode): MeshAssignment {
    const serving = this.#backends.filter((each) => each.endpoint.serviceId === "web" && each.meshIp !== "");
    const port: IngressPort = {
      serviceId: "web",
      protocol: "tcp",
      publishedPort: INGRESS_PORT,
      targetPort: 80,
      backends: serving.map(({ endpoint, meshIp }) => ({
        taskId: endpoint.taskId,
        nodeId: endpoint.nodeId,
        meshIp,
      })),
    };
    return {
      pool: "10.210.0.0/16",
      subnet: node.meshSubnet,
      vni: 4096,
      dataPathPort: 4789,
      peers: this.#nodes
        .filter((each) => each !== node)
        .map(({ nodeId, host, meshSubnet }) => ({
          nodeId,
          dataPathAddress: host.address,
          rpcAddress: "",
          meshSubnet,
        })),
      ingressPorts: [port],
    };
  }

  #configuration(name: string, sections: string): string {
    const folder = path.join(this.#lab.folder, "haproxy");
    mkdirSync(folder, { recursive: true });
    const file = path.join(folder, `${name}.cfg`);
    const base =
      "global\n  nbthread 1\n  maxconn 4000\ndefaults\n  timeout connect 5s\n  timeout client 30s\n  timeout server 30s\n  timeout http-keep-alive 30s\n";
    writeFileSync(file, base + sections);
    return file;
  }

  #haproxy(node: BenchNode): Promise<LabProgram> {
    const servers = this.#backends
      .filter((each) => each.endpoint.serviceId === "web")
      .map((each) => `  server ${each.endpoint.taskId} ${each.meshIp}:80`)
      .join("\n");
    const file = this.#configuration(
      "proxy",
      `listen tcp\n  mode tcp\n  bind :${HAPROXY_TCP_PORT}\n  balance roundrobin\n${servers}\n`,
    );
    return this.#lab.program("nsenter", [`--net=${node.host.file}`, "haproxy", "-db", "-f", file]);
  }

  async #measurePaths(client: LabHost, inside: LabProgram, proxy: LabProgram, one: BenchNode): Promise<void> {
    const backends = this.#backends.filter((each) => each.endpoint.serviceId === "web");
    const programs = backends.map((backend) => backend.program);
    const address = one.host.address;
    const paths: Path[] = [
      { name: "endpoint, other node", url: `http://${backends[0]?.endpoint.ip}/`, client: inside, programs },
      { name: "virtual address", url: `http://${VIP}/`, client: inside, programs },
      { name: "published port", url: `http://${address}:${INGRESS_PORT}/`, client, programs },
      {
        name: "haproxy, TCP mode",
        url: `http://${address}:${HAPROXY_TCP_PORT}/`,
        client,
        programs: [...programs, proxy],
      },
    ];
    for (const isClosing of [false, true]) {
      const samples = new Map<string, Sample[]>(paths.map(({ name }) => [name, []]));
      for (let round = 0; round < this.#options.rounds; round += 1)
        for (const each of paths) samples.get(each.name)?.push(await this.#load(each, isClosing));
      printPaths(isClosing ? "one connection per request" : "keep-alive", paths, samples);
    }
  }

  async #load(each: Path, isClosing: boolean): Promise<Sample> {
    const before = each.programs.map(({ pid }) => cpuNs(pid));
    const target =
      "file" in each.client ? `--net=${each.client.file}` : `--net=/proc/${each.client.pid}/ns/net`;
    const header = isClosing ? ["-H", "Connection: close"] : [];
    const childrenBefore = childrenCpuMs();
    const wrk = ["wrk", "-t1", `-c${CONNECTIONS}`, `-d${this.#options.seconds}s`, ...header, each.url];
    const { stdout } = await run("nsenter", [target, ...wrk]);
    const clientUs = (childrenCpuMs() - childrenBefore) * 1_000;
    const serverNs = each.programs
      .map(({ pid }, index) => cpuNs(pid) - (before[index] ?? 0))
      .reduce((sum, ns) => sum + ns, 0);
    const count = Number(/(\d+) requests in/.exec(stdout)?.[1] ?? "0");
    return {
      requestsPerSecond: Number(/Requests\/sec:\s+([\d.]+)/.exec(stdout)?.[1] ?? "0"),
      cpuUsPerRequest: (clientUs + serverNs / CPU_NS_PER_US) / Math.max(count, 1),
    };
  }

  /** One endpoint more or less: from the assignment in the daemon to the kernel, with few and with many services. */
  async #measureChanges(one: BenchNode): Promise<void> {
    for (const count of [1, this.#options.services]) {
      const ports = manyPorts(count);
      const mesh = this.#mesh(one);
      const networks = [this.#network()];
      await one.agent.call("apply", { networks, mesh: { ...mesh, ingressPorts: ports } });
      const times: number[] = [];
      for (let round = 0; round < 100; round += 1) {
        const [first, ...rest] = ports;
        if (first === undefined) continue;
        const backends = round % 2 === 0 ? first.backends.slice(1) : first.backends;
        const changed = { ...mesh, ingressPorts: [{ ...first, backends }, ...rest] };
        times.push(await one.agent.call("timedApply", { networks, mesh: changed }));
      }
      const sorted = times.toSorted((a, b) => a - b);
      console.log(
        `one endpoint changes among ${count} services: median ${median(times).toFixed(2)} ms, 99 of 100 within ${(sorted[98] ?? 0).toFixed(2)} ms`,
      );
    }
    await this.#tell();
  }

  async #measureAttach(one: BenchNode): Promise<void> {
    const times: number[] = [];
    for (let index = 0; index < 30; index += 1) {
      const program = await this.#lab.program("unshare", ["--net", "sleep", "infinity"]);
      const networks = [{ networkId: "net1", address: `10.77.1.${100 + index}/24` }];
      const task = labTask(`a${index}`, { networks });
      times.push(await one.agent.call("timedAttach", { task, pid: program.pid }));
    }
    console.log(
      `attaching a task (mesh and one overlay): median ${median(times).toFixed(2)} ms, longest ${Math.max(...times).toFixed(2)} ms`,
    );
  }

  async #measureNames(one: BenchNode): Promise<void> {
    const asker = this.#backends.find((each) => each.node === one);
    if (asker === undefined) return;
    const file = path.join(import.meta.dirname, `name-load${path.extname(import.meta.filename)}`);
    const before = cpuNs(one.agent.pid);
    const { stdout } = await run("nsenter", [
      `--net=/proc/${asker.program.pid}/ns/net`,
      process.execPath,
      file,
      "10.210.0.1",
      "web",
      String(this.#options.seconds),
    ]);
    const { answers, p99Ms } = JSON.parse(stdout) as { answers: number; p99Ms: number };
    const cpuUs = (cpuNs(one.agent.pid) - before) / CPU_NS_PER_US;
    console.log(
      `name queries: ${Math.round(answers / this.#options.seconds)} answers/s, 99 of 100 within ${p99Ms.toFixed(2)} ms, ${(cpuUs / answers).toFixed(1)} us of CPU each (${Math.round(1e6 / (cpuUs / answers))}/s per core)`,
    );
  }
}

/** CPU time of this process's children that have ended, in milliseconds. */
function childrenCpuMs(): number {
  const fields = readFileSync("/proc/self/stat", "utf8")
    .replace(/^.*\) /, "")
    .split(" ");
  const TICK_MS = 10;
  return (Number(fields[13]) + Number(fields[14])) * TICK_MS;
}

function manyPorts(count: number): IngressPort[] {
  return Array.from({ length: count }, (_unused, index) => ({
    serviceId: `s${index}`,
    protocol: "tcp" as const,
    publishedPort: 10_000 + index,
    targetPort: 80,
    backends: [1, 2, 3].map((each) => ({
      taskId: `s${index}t${each}`,
      nodeId: "two",
      meshIp: `10.210.2.${1 + ((index * 3 + each) % 250)}`,
    })),
  }));
}

function printPaths(
  title: string,
  paths: readonly Path[],
  samples: ReadonlyMap<string, readonly Sample[]>,
): void {
  const rate = (name: string): number =>
    median((samples.get(name) ?? []).map((each) => each.requestsPerSecond));
  const cpu = (name: string): number => median((samples.get(name) ?? []).map((each) => each.cpuUsPerRequest));
  console.log(`\n${title}, ${CONNECTIONS} connections`);
  for (const { name } of paths)
    console.log(
      `  ${name.padEnd(22)} ${rate(name).toFixed(0).padStart(7)} requests/s   ${cpu(name).toFixed(1).padStart(6)} us of CPU each`,
    );
  const [direct = "", virtual = "", published = "", proxy = ""] = paths.map((each) => each.name);
  console.log(`  virtual address / endpoint: CPU ${(cpu(virtual) / cpu(direct)).toFixed(2)}`);
  console.log(
    `  published port / haproxy: rate ${(rate(published) / rate(proxy)).toFixed(2)}, CPU ${(cpu(published) / cpu(proxy)).toFixed(2)}`,
  );
}

const { rounds, seconds, services } = toolOptions(
  {
    run: "node bench/network.ts",
    about:
      "Measures what the cluster's network costs beside direct endpoints and haproxy. Needs root, wrk and haproxy.",
  },
  {
    rounds: count("rounds of all measurements", { fallback: 3 }),
    seconds: count("seconds that a load lasts", { fallback: 3 }),
    services: count("services whose endpoints change", { fallback: 1000 }),
  },
);
const missing = ["wrk", "haproxy"].filter((program) => !isInstalled(program));
if (process.getuid?.() !== 0) console.log("bench/network needs root: not run");
else if (missing.length > 0) console.log(`bench/network needs ${missing.join(" and ")}: not run`);
else await new Bench({ rounds, seconds, services }).run();
