/** A dev cluster for one test file, with the test image on its first manager, and helpers that read like the docker CLI. */
import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { busyboxTar } from "../../../bench/test-image.ts";
import { ask } from "../../../bench/docker-http.ts";
import { type DevCluster, type DevHost, removeCluster, startDevCluster } from "../../../dev/cluster.ts";
import { until, WAIT_MS } from "./wait.ts";

export const IMAGE_V1 = "web:1";
export const IMAGE_V2 = "web:2";

/** A web server that answers its version and host name, and on SIGTERM goes on for a moment for requests under way. */
function webCommand(version: string): string {
  const script = [
    "mkdir -p /www",
    `echo "version ${version} host $(hostname)" > /www/index.html`,
    "trap 'sleep 0.2; exit 0' TERM",
    "busybox httpd -f -p 80 -h /www & wait",
  ].join("; ");
  return JSON.stringify(["/bin/sh", "-c", script]);
}

export interface TaskRow {
  readonly ID: string;
  readonly NodeID: string;
  readonly Slot: number;
  readonly DesiredState: string;
  readonly Status: {
    readonly State: string;
    readonly Err?: string;
    readonly Message?: string;
    readonly ContainerStatus?: { readonly ContainerID: string; readonly PID: number };
  };
  readonly Spec: { readonly ContainerSpec: { readonly Image: string } };
}

export class TestCluster {
  readonly dev: DevCluster;
  readonly #folder: string;

  private constructor(dev: DevCluster, folder: string) {
    this.dev = dev;
    this.#folder = folder;
  }

  /** Under a name of its own that begins with `prefix` (at most 10 letters and digits): runs side by side don't meet. */
  static async start(
    prefix: string,
    size: { readonly managers: number; readonly workers: number },
  ): Promise<TestCluster> {
    const folder = mkdtempSync(path.join(tmpdir(), `shoal-e2e-${prefix}-`));
    const name = `${prefix}${folder.slice(-6).toLowerCase()}`;
    try {
      const dev = await startDevCluster({ name, stateFolder: folder, ...size });
      const cluster = new TestCluster(dev, folder);
      await cluster.importImages();
      return cluster;
    } catch (caught) {
      // Nobody gets it, so that nobody could stop what there is of it.
      await removeCluster({ name, stateFolder: folder });
      rmSync(folder, { recursive: true, force: true, maxRetries: 5 });
      throw caught;
    }
  }

  /** Takes everything down. Named in the after() hook of every file, also when start() or a test failed. */
  async stop(): Promise<void> {
    await this.dev.down();
    rmSync(this.#folder, { recursive: true, force: true, maxRetries: 5 });
  }

  get first(): DevHost {
    const [host] = this.dev.managers;
    assert.ok(host, "the cluster has a manager");
    return host;
  }

  /** web:1 and web:2, on the first manager; again, where a test has pruned them. */
  async importImages(): Promise<void> {
    for (const version of ["1", "2"]) {
      const changes = encodeURIComponent(`CMD ${webCommand(version)}`);
      await ask(
        this.first.socketPath,
        "POST",
        `/images/create?fromSrc=-&repo=web&tag=${version}&changes=${changes}`,
        busyboxTar(),
      );
    }
  }

  /** The docker CLI against a manager; rejects with its output unless it exits 0. */
  async docker(...argv: readonly string[]): Promise<string> {
    return this.dockerOn(this.first.name, ...argv);
  }

  /** Returns before the tasks run; `rest`: flags, the image, its command. */
  createService(name: string, ...rest: readonly string[]): Promise<string> {
    return this.docker("service", "create", "--quiet", "--detach", "--name", name, ...rest);
  }

  async dockerOn(host: string, ...argv: readonly string[]): Promise<string> {
    const result = await this.dev.docker(host, argv, { timeoutMs: WAIT_MS });
    assert.equal(result.status, 0, `docker ${argv.join(" ")}\n${result.stdout}${result.stderr}`);
    return result.stdout;
  }

  async tasks(service: string, host: DevHost = this.first): Promise<readonly TaskRow[]> {
    const filters = encodeURIComponent(JSON.stringify({ service: [service] }));
    return (await ask(host.socketPath, "GET", `/tasks?filters=${filters}`)) as readonly TaskRow[];
  }

  async running(service: string, host: DevHost = this.first): Promise<readonly TaskRow[]> {
    const all = await this.tasks(service, host);
    return all.filter((task) => task.DesiredState === "running" && task.Status.State === "running");
  }

  async untilRunning(
    service: string,
    count: number,
    timeoutMs: number = WAIT_MS,
    host?: DevHost,
  ): Promise<readonly TaskRow[]> {
    return until(`${count} running tasks of ${service}`, timeoutMs, async () => {
      const running = await this.running(service, host);
      return running.length === count ? running : undefined;
    });
  }

  /** Host names by node id. */
  async nodeNames(host: DevHost = this.first): Promise<ReadonlyMap<string, string>> {
    const nodes = (await ask(host.socketPath, "GET", "/nodes")) as readonly {
      readonly ID: string;
      readonly Description: { readonly Hostname: string };
    }[];
    return new Map(nodes.map((node) => [node.ID, node.Description.Hostname]));
  }

  /** Body of GET / at address:port, asked from inside a host; rejects unless it answers 200. */
  async get(host: string, address: string, port: number): Promise<string> {
    const script = `exec 3<>/dev/tcp/${address}/${port} && printf 'GET / HTTP/1.0\\r\\n\\r\\n' >&3 && timeout 5 cat <&3`;
    const answer = await this.on(host, "timeout", "6", "bash", "-c", script);
    assert.match(answer, /^HTTP\/1\.[01] 200 /);
    return answer.slice(answer.indexOf("\r\n\r\n") + 4);
  }

  /** Runs a command in a host's namespace and returns its standard output; rejects unless it exits 0. */
  async on(host: string, ...argv: readonly string[]): Promise<string> {
    const result = await this.dev.exec(host, argv, { timeoutMs: WAIT_MS });
    assert.equal(result.status, 0, `${host}: ${argv.join(" ")}\n${result.stdout}${result.stderr}`);
    return result.stdout;
  }
}
