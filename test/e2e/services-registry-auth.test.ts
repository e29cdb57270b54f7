/**
 * Services of images behind a password: nodes pull with the credentials that came with the service, which nobody is shown.
 * Each host reaches the registry as its own loopback, so that nothing but the password stands between them.
 */
import assert from "node:assert/strict";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, before, describe, test } from "node:test";
import { ask } from "../../bench/docker-http.ts";
import { must } from "../../common/assert.ts";
import type { DevHost } from "../../dev/cluster.ts";
import { TestCluster } from "./support/test-cluster.ts";
import { until, WAIT_MS } from "./support/wait.ts";

const REGISTRY = "/usr/bin/docker-registry";
const PORT = 5000;
const USER = "somebody";
const PASSWORD = "s3cret";
/** bcrypt of it. */
const HTPASSWD = `${USER}:$2b$04$SKLUTRqj6FxTFj8ntA1l6O94JMyjm/CmEqCcM34NBf1uo92o6K8Fa\n`;
const APP = `127.0.0.1:${PORT}/team/app`;

const skip = existsSync(REGISTRY) ? false : "docker-registry is not installed";

describe("services of images behind a password", { skip }, () => {
  const folder = mkdtempSync(path.join(tmpdir(), "shoal-e2e-auth-"));
  let cluster: TestCluster;

  async function startRegistry(host: DevHost): Promise<void> {
    const file = path.join(folder, "registry.yml");
    writeFileSync(path.join(folder, "htpasswd"), HTPASSWD);
    writeFileSync(
      file,
      `version: 0.1\nlog: {level: error, accesslog: {disabled: true}}\nstorage: {filesystem: {rootdirectory: ${folder}/registry}}\n` +
        `http: {addr: "127.0.0.1:${PORT}"}\nauth: {htpasswd: {realm: registry, path: ${folder}/htpasswd}}\n`,
    );
    // Ends with the host.
    const serve = `OTEL_TRACES_EXPORTER=none exec setsid ${REGISTRY} serve ${file} </dev/null >/dev/null 2>&1`;
    await cluster.on(host.name, "sh", "-c", `(${serve}) &`);
  }

  /** The docker CLI with a configuration of its own. */
  function docker(...argv: readonly string[]): Promise<string> {
    return cluster.docker("--config", path.join(folder, "docker"), ...argv);
  }

  before(async () => {
    cluster = await TestCluster.start("e2eauth", { managers: 1, workers: 1 });
    for (const host of cluster.dev.hosts) await startRegistry(host);
    await until("the registry takes a login", WAIT_MS, async () => {
      const argv = [
        "--config",
        path.join(folder, "docker"),
        "login",
        "-u",
        USER,
        "-p",
        PASSWORD,
        `127.0.0.1:${PORT}`,
      ];
      return (await cluster.dev.docker(cluster.first.name, argv)).status === 0;
    });
    for (const version of ["1", "2"]) {
      await docker("tag", `web:${version}`, `${APP}:${version}`);
      await docker("push", `${APP}:${version}`);
      // Nodes could have it from the manager otherwise.
      await docker("rmi", `${APP}:${version}`, `web:${version}`);
    }
  });

  after(async () => {
    await cluster.stop();
    rmSync(folder, { recursive: true, force: true });
  });

  async function untilTask(service: string, what: string, matches: (err: string) => boolean): Promise<void> {
    await until(`a task of ${service} ${what}`, WAIT_MS, async () =>
      (await cluster.tasks(service)).some((task) => matches(task.Status.Err ?? "")),
    );
  }

  async function runsImage(service: string, version: string): Promise<void> {
    await until(`${service} runs version ${version}`, WAIT_MS, async () => {
      const running = await cluster.running(service);
      return (
        running.length === 1 && running.every((task) => task.Spec.ContainerSpec.Image.includes(`:${version}`))
      );
    });
  }

  const CREATE = ["service", "create", "-d", "--constraint", "node.role==worker", "--restart-delay", "200ms"];

  test("without credentials a task says what is missing; they come with an update", async () => {
    await docker(...CREATE, "--no-resolve-image", "--name", "late", `${APP}:1`);
    await untilTask("late", "is refused", (err) => err.endsWith(": no basic auth credentials"));
    await docker("service", "update", "-d", "--with-registry-auth", "--force", "late");
    await runsImage("late", "1");
    await docker("service", "rm", "late");
  });

  test("a worker pulls with the credentials of the service, which updates keep and roll-backs know", async () => {
    await docker(...CREATE, "--with-registry-auth", "--name", "web", `${APP}:1`);
    await runsImage("web", "1");
    // No credentials in this request: those of the service stay.
    await docker("service", "update", "-d", "--no-resolve-image", "--image", `${APP}:2`, "web");
    await runsImage("web", "2");
    const worker = must(cluster.dev.workers[0], "there is a worker");
    await docker("service", "scale", "-d", "web=0");
    await until("no task is left", WAIT_MS, async () => (await cluster.running("web")).length === 0);
    await until("the worker has no image any more", WAIT_MS, async () => {
      const removed = await cluster.dev.docker(worker.name, ["image", "prune", "-af"]);
      return removed.status === 0 && (await cluster.dev.docker(worker.name, ["images", "-q"])).stdout === "";
    });
    await docker("service", "scale", "-d", "web=1");
    await runsImage("web", "2");
    await docker("service", "rollback", "-d", "web");
    await docker("service", "scale", "-d", "web=1");
    await runsImage("web", "2");
  });

  test("credentials are in no answer and in no log", async () => {
    const header = JSON.stringify({ username: USER, password: PASSWORD });
    const secrets = [
      PASSWORD,
      Buffer.from(`${USER}:${PASSWORD}`).toString("base64"),
      Buffer.from(header).toString("base64url").slice(0, 30),
    ];
    const { socketPath } = cluster.first;
    const answers = await Promise.all(
      ["/services", "/services/web", "/tasks", "/nodes", "/events?since=1&until=2", "/info", "/swarm"].map(
        (target) => ask(socketPath, "GET", target),
      ),
    );
    const logs = cluster.dev.hosts.map((host) => readFileSync(host.logPath, "utf8"));
    const said = [...answers.map((answer) => JSON.stringify(answer)), ...logs].join("\n");
    assert.match(said, /team\/app/);
    for (const secret of secrets) assert.equal(said.includes(secret), false);
  });
});
