/**
 * The process that waits for the next start with a network namespace made ahead: it is used, may be killed, and leaves
 * nothing.
 */
import assert from "node:assert/strict";
import { readdirSync, readFileSync, readlinkSync } from "node:fs";
import path from "node:path";
import { after, before, describe, test } from "node:test";
import { RuntimeLab } from "./support/runtime-lab.ts";
import { until, WAIT_MS } from "./support/wait.ts";

function networkOf(pid: number | string): string {
  return readlinkSync(`/proc/${pid}/ns/net`);
}

describe("the spare process", () => {
  let lab: RuntimeLab;
  before(async () => {
    lab = await RuntimeLab.open();
  });
  after(() => lab.close());

  /** Processes of the lab's launcher. They go while one looks. */
  function launchers(): readonly number[] {
    return readdirSync("/proc")
      .filter((name) => /^\d+$/.test(name))
      .filter((name) => {
        try {
          const isOurs = readlinkSync(`/proc/${name}/cwd`) === path.join(lab.root, "run");
          return isOurs && readFileSync(`/proc/${name}/comm`, "utf8") === "shoal-launcher\n";
        } catch {
          return false;
        }
      })
      .map(Number);
  }

  function spares(): readonly number[] {
    return launchers().filter((pid) => {
      try {
        return networkOf(pid) !== networkOf("self");
      } catch {
        return false;
      }
    });
  }

  /** After a start that makes the next one ready. */
  async function spare(): Promise<{ readonly pid: number; readonly network: string }> {
    if (spares().length === 0) await lab.run(["true"]);
    await until("a spare waits", WAIT_MS, () => spares().length === 1);
    const [pid = 0] = spares();
    return { pid, network: networkOf(pid) };
  }

  async function started(hostConfig = {}): Promise<{ id: string; pid: number }> {
    const id = await lab.create(["sleep", "100"], hostConfig);
    await lab.engine.containers.start(id);
    return { id, pid: lab.engine.containers.summary(id).state.pid };
  }

  function parentOf(pid: number): number {
    return Number(/^PPid:\s+(\d+)$/m.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1]);
  }

  test("one waits for the next exec once there was one, and may be killed", async () => {
    const { id } = await started();
    await until("a spare for the next start waits", WAIT_MS, () => spares().length === 1);
    const others = (): readonly number[] => launchers().filter((pid) => !spares().includes(pid));
    const without = others();
    for (const word of ["one", "two"]) {
      assert.equal((await lab.exec(id, ["echo", word])).output, `${word}\n`);
      await until("one more waits", WAIT_MS, () => others().length === without.length + 1);
      for (const pid of others()) if (!without.includes(pid)) process.kill(pid, "SIGKILL");
    }
    assert.equal((await lab.exec(id, ["echo", "three"])).output, "three\n");
  });

  test("its network namespace becomes the next container's, with the loopback up, and nobody else's", async () => {
    const { network } = await spare();
    const { id, pid } = await started();
    assert.equal(networkOf(pid), network);
    assert.equal(networkOf(parentOf(pid)), networkOf("self"), "the monitor holds no container's network");
    assert.match((await lab.exec(id, ["ifconfig", "lo"])).output, /UP LOOPBACK RUNNING/);
    const next = await spare();
    assert.notEqual(next.network, network);
  });

  test("a container of the host's network, and an exec in it, are there", async () => {
    await spare();
    const { id, pid } = await started({ NetworkMode: "host" });
    assert.equal(networkOf(pid), networkOf("self"));
    assert.equal((await lab.exec(id, ["readlink", "/proc/self/ns/net"])).output.trim(), networkOf("self"));
  });

  test("killed while it waits, it is missed by nobody", async () => {
    const { pid } = await spare();
    process.kill(pid, "SIGKILL");
    assert.equal((await lab.run(["echo", "ran"])).stdout, "ran\n");
    await spare();
  });

  test("one waits, however many starts there were at once", async () => {
    const runs = await Promise.all(Array.from({ length: 12 }, () => lab.run(["true"])));
    assert.ok(runs.every((each) => each.exitCode === 0));
    await spare();
    assert.equal(spares().length, 1);
  });

  test("it goes with the daemon", async () => {
    const { pid } = await spare();
    await lab.restart(async () => {
      await until("it is gone", WAIT_MS, () => !launchers().includes(pid));
    });
    assert.equal((await lab.run(["echo", "ran"])).stdout, "ran\n");
  });
});
