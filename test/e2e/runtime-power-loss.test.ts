/** What is left of containers after a loss of power: as much as with dockerd. Needs root and loop devices. */
import assert from "node:assert/strict";
import * as fs from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, before, describe, test } from "node:test";
import { forgetBoot, PowerDisk } from "./support/power-disk.ts";
import { RuntimeLab } from "./support/runtime-lab.ts";
import { until, WAIT_MS } from "./support/wait.ts";

describe("containers after a loss of power", () => {
  let root = "";
  let disk: PowerDisk;
  let lab: RuntimeLab;
  before(async () => {
    root = await fs.mkdtemp(path.join(tmpdir(), "shoal-power-"));
    disk = new PowerDisk(root);
    lab = await RuntimeLab.open({ dataRoot: path.join(disk.folder, "data") });
  });
  after(async () => {
    await lab.close();
    disk.unmount();
    await fs.rm(root, { recursive: true, force: true });
  });

  /** The power goes and comes back: the disk as it was, nothing that ran, nothing that was in memory. */
  async function cutPower(pids: readonly number[]): Promise<void> {
    disk.powerOff();
    await lab.restart(async () => {
      for (const pid of pids) process.kill(pid, "SIGKILL");
      await until("the disk is let go", WAIT_MS, () => {
        disk.unmount();
        return true;
      });
      disk.mount();
      forgetBoot(path.join(disk.folder, "data/images"));
      for (const name of ["c", "m"])
        await fs.rm(path.join(lab.root, "run", name), { recursive: true, force: true });
    });
  }

  const isRunning = (id: string): boolean => lab.engine.containers.summary(id).state.isRunning;
  const sleeper = (restart: string): Promise<string> =>
    lab.create(["sleep", "1000"], { RestartPolicy: { Name: restart } });

  test("what was created is there and starts", async () => {
    const id = await lab.create(["true"]);
    await cutPower([]);
    await lab.engine.containers.start(id);
    assert.equal((await lab.engine.containers.wait(id, "not-running", {})).exitCode, 0);
  });

  test("what was started and shall always run runs again", async () => {
    const id = await sleeper("always");
    await lab.engine.containers.start(id);
    await cutPower([lab.engine.containers.summary(id).state.pid]);
    await until("it runs again", WAIT_MS, () => isRunning(id));
    await lab.engine.containers.remove(id, { force: true, volumes: true, link: false });
  });

  test("what was told to stop does not start again", async () => {
    const id = await sleeper("unless-stopped");
    await lab.engine.containers.start(id);
    // Ignored by a first process that has no handler. The end of a container syncs the disk, so it must not come before
    // the power's.
    await lab.engine.containers.kill(id, "TERM");
    await cutPower([lab.engine.containers.summary(id).state.pid]);
    assert.equal(lab.engine.containers.summary(id).state.status, "exited");
  });
});
