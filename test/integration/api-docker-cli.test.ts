/** The unmodified docker CLI against the API over fakes: versions, swarm, services, errors. */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { test } from "node:test";
import { NodeState } from "../../model/objects.ts";
import { until } from "../../dev/until.ts";
import { docker, startApi, WAIT } from "./api-harness.ts";

function hasDocker(): boolean {
  try {
    execFileSync("docker", ["--version"], { stdio: "ignore" });
    return true;
  } catch {
    return false;
  }
}
const skip = hasDocker() ? false : "no docker CLI on PATH";

test("docker version and info agree on a version and print the swarm block", { skip }, async (context) => {
  const api = await startApi(context);
  const version = await docker(api, "version", "--format", "{{.Client.APIVersion}} {{.Server.APIVersion}}");
  assert.match(version.stdout, /^1\.\d+ 1\.50\n$/);
  await api.swarm.init();
  const info = await docker(api, "info");
  assert.match(info.stdout, /Swarm: active/);
  assert.match(info.stdout, /Task History Retention Limit: 5/);
  assert.doesNotMatch(info.stderr, /ERROR/);
});

test("docker run -i carries stdin, output and exit status", { skip }, async (context) => {
  const api = await startApi(context);
  const running = docker(api, "run", "--name", "c1", "x", "cmd");
  await until("the CLI started the container", WAIT, () =>
    Promise.resolve([...api.engine.containerMap.values()].some((each) => each.isRunning)),
  );
  api.engine.process("c1").write("hello\n");
  api.engine.process("c1").write("oops\n", "stderr");
  api.engine.process("c1").end(7);
  assert.deepEqual(await running, { code: 7, stdout: "hello\n", stderr: "oops\n" });
});

test("docker swarm init, service create, ls, ps, scale, rm", { skip }, async (context) => {
  const api = await startApi(context);
  const init = await docker(api, "swarm", "init");
  assert.match(init.stdout, /docker swarm join --token SWMTKN-1-w 127\.0\.0\.1:2377/);
  const again = await docker(api, "swarm", "init");
  assert.match(again.stderr, /already part of a swarm/);
  const created = await docker(api, "service", "create", "-d", "--name", "web", "--replicas", "2", "x:1");
  assert.equal(created.code, 0, created.stderr);
  const [service] = api.swarm.store.list("service");
  assert.ok(service !== undefined);
  api.swarm.putTask(service, { slot: 1 });
  const list = await docker(api, "service", "ls", "--format", "{{.Name}} {{.Mode}} {{.Replicas}}");
  assert.equal(list.stdout, "web replicated 1/2\n");
  const tasks = await docker(
    api,
    "service",
    "ps",
    "--format",
    "{{.Name}} {{.Node}} {{.DesiredState}}",
    "web",
  );
  assert.equal(tasks.stdout, "web.1 host-a Running\n");
  assert.equal((await docker(api, "service", "scale", "-d", "web=3")).code, 0);
  assert.equal(api.swarm.store.get("service", service.id)?.spec.Mode?.Replicated?.Replicas, 3);
  const duplicate = await docker(api, "service", "create", "-d", "--name", "web", "x:1");
  assert.match(duplicate.stderr, /service web already exists/);
  assert.equal((await docker(api, "service", "rm", "web")).stdout, "web\n");
});

test(
  "docker node ls shows leader, state and TLS; inspect of an unknown node fails",
  { skip },
  async (context) => {
    const api = await startApi(context);
    await api.swarm.init();
    api.swarm.putNode("host-b", { status: { state: NodeState.down, message: "", addr: "10.0.0.2" } });
    const list = await docker(
      api,
      "node",
      "ls",
      "--format",
      "{{.Self}} {{.Hostname}} {{.Status}} {{.ManagerStatus}} {{.TLSStatus}}",
    );
    assert.equal(
      list.stdout,
      "true host-a Ready Leader Unknown\nfalse host-b Down  Unknown\n".replaceAll("Unknown", "Ready"),
    );
    const missing = await docker(api, "node", "inspect", "nosuch");
    assert.match(missing.stderr, /node nosuch not found|No such node/);
  },
);

test("docker service logs prints task and node in front of each line", { skip }, async (context) => {
  const api = await startApi(context);
  await api.swarm.init();
  await docker(api, "service", "create", "-d", "--name", "web", "x:1");
  const [service] = api.swarm.store.list("service");
  assert.ok(service !== undefined);
  const task = api.swarm.putTask(service);
  const where = { taskId: task.id, serviceId: service.id, nodeId: task.nodeId };
  api.swarm.logLines = [
    { ...where, stream: "stdout", timestamp: "2026-01-01T00:00:00.000000000Z", data: Buffer.from("line\n") },
  ];
  const logs = await docker(api, "service", "logs", "web");
  assert.match(logs.stdout, /^web\.1\.\S+@host-a +\| line\n$/);
});

test(
  "docker network, secret, config, plugin and stack commands read what is there",
  { skip },
  async (context) => {
    const api = await startApi(context);
    await api.swarm.init();
    const network = await docker(api, "network", "create", "-d", "overlay", "--label", "k=v", "net");
    assert.match(network.stdout, /^[0-9a-z]{25}\n$/);
    const names = await docker(api, "network", "ls", "--format", "{{.Name}} {{.Scope}}");
    assert.equal(names.stdout, "bridge local\nnet swarm\n");
    // Clients before 23.0 have words of their own.
    assert.match(
      (await docker(api, "network", "inspect", "nosuch")).stderr,
      /network nosuch not found|No such network: nosuch/,
    );
    assert.match((await docker(api, "plugin", "ls")).stdout, /^ID +NAME +DESCRIPTION +ENABLED/);
    assert.match((await docker(api, "stack", "ls")).stdout, /^NAME +SERVICES/);
    assert.equal((await docker(api, "secret", "ls", "-q")).code, 0);
    assert.match(
      (await docker(api, "config", "inspect", "nosuch")).stderr,
      /config nosuch not found|no such config/i,
    );
  },
);
