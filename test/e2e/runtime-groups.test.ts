/** Which control groups a container's processes are in, from the first one on, and what that counts against its limits. */
import assert from "node:assert/strict";
import { existsSync, readFileSync, rmdirSync } from "node:fs";
import { after, before, describe, test } from "node:test";
import { detectHierarchies } from "../../runtime/containers/cgroups.ts";
import { assertInGroups } from "./support/groups.ts";
import { RuntimeLab } from "./support/runtime-lab.ts";

/** The first that this process may use: a machine's own limits may keep it off number 0. */
function firstAllowed(what: "Cpus" | "Mems"): string {
  const status = readFileSync("/proc/self/status", "utf8");
  return new RegExp(`^${what}_allowed_list:\\s+(\\d+)`, "m").exec(status)?.[1] ?? "0";
}

describe("control groups of processes", () => {
  const [cpu, node] = [firstAllowed("Cpus"), firstAllowed("Mems")];
  let lab: RuntimeLab;
  before(async () => {
    lab = await RuntimeLab.open();
  });
  after(() => lab.close());

  async function started(hostConfig = {}): Promise<{ id: string; pid: number }> {
    const id = await lab.create(["sleep", "100"], hostConfig);
    await lab.engine.containers.start(id);
    return { id, pid: lab.engine.containers.summary(id).state.pid };
  }

  async function execPid(id: string, command: readonly string[]): Promise<number> {
    const { Id } = await lab.engine.containers.createExec(id, { Cmd: command });
    await lab.engine.containers.startExec(Id, { detach: true, tty: false });
    return Number((await lab.engine.containers.inspectExec(Id))["Pid"]);
  }

  test("the first process and an exec are in the container's group of every hierarchy", async () => {
    const { id, pid } = await started();
    assertInGroups(pid, id);
    assertInGroups(await execPid(id, ["sleep", "100"]), id);
  });

  test("with the host's pid and cgroup namespaces too", async () => {
    const { id, pid } = await started({ PidMode: "host", CgroupnsMode: "host" });
    assertInGroups(pid, id);
    const exec = await execPid(id, ["sleep", "100"]);
    assertInGroups(exec, id);
    const seen = (await lab.exec(id, ["cat", "/proc/self/cgroup"])).output;
    assert.equal(seen, readFileSync(`/proc/${exec}/cgroup`, "utf8"));
  });

  test("below a parent group that was asked for", async () => {
    const parent = `/shoal-groups-test-${process.pid}`;
    const { id, pid } = await started({ CgroupParent: parent });
    assertInGroups(pid, id);
    assert.match(readFileSync(`/proc/${pid}/cgroup`, "utf8"), new RegExp(`:${parent}/${id}$`, "m"));
    await lab.engine.containers.remove(id, { force: true, volumes: true, link: false });
    const { v1, v2 } = detectHierarchies();
    for (const root of new Set([...v1.values(), ...(v2 === undefined ? [] : [v2])]))
      if (existsSync(root + parent)) rmdirSync(root + parent);
  });

  test("cpus without memory nodes, and nodes without cpus: the rest is as above the container", async () => {
    const ask = ["grep", "-E", "^(Cpus|Mems)_allowed_list", "/proc/self/status"];
    for (const limit of [{ CpusetCpus: cpu }, { CpusetMems: node }, { CpusetCpus: cpu, CpusetMems: node }]) {
      const run = await lab.run(ask, limit);
      assert.equal(run.exitCode, 0, run.stderr);
      assert.match(
        run.stdout,
        new RegExp(
          "CpusetCpus" in limit ? `^Cpus_allowed_list:\\s+${cpu}$` : `^Mems_allowed_list:\\s+${node}$`,
          "m",
        ),
      );
    }
  });

  test("cpus that are set while it runs hold for what runs and for an exec, and leave nothing behind", async () => {
    const { id, pid } = await started();
    await lab.engine.containers.update(id, { CpusetCpus: cpu });
    const own = readFileSync(`/proc/${pid}/status`, "utf8");
    assert.match(own, new RegExp(`^Cpus_allowed_list:\\s+${cpu}$`, "m"));
    const exec = await lab.exec(id, ["grep", "Cpus_allowed_list", "/proc/self/status"]);
    assert.deepEqual([exec.output, exec.exitCode], [`Cpus_allowed_list:\t${cpu}\n`, 0]);
    const group = /^\d+:cpuset:(.*)$/m.exec(readFileSync(`/proc/${pid}/cgroup`, "utf8"))?.[1];
    await lab.engine.containers.stop(id, { timeoutSeconds: 0 });
    const root = detectHierarchies().v1.get("cpuset");
    assert.equal(root !== undefined && existsSync(`${root}${group ?? ""}`), false);
  });
});
