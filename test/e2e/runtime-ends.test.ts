/**
 * The end of a process as its client hears of it: what it said last and its exit, whatever the client was doing
 * meanwhile.
 */
import assert from "node:assert/strict";
import { existsSync, mkdirSync, rmdirSync } from "node:fs";
import path from "node:path";
import { after, before, describe, test } from "node:test";
import { RuntimeLab } from "./support/runtime-lab.ts";
import { until, WAIT_MS } from "./support/wait.ts";

/** More than is read ahead of a client that doesn't read (256 KiB), less than that and the sockets' buffers on the way. */
const SAID_BYTES = 400_000;

describe("a process that ends before its client does", () => {
  let lab: RuntimeLab;
  before(async () => {
    lab = await RuntimeLab.open();
  });
  after(() => lab.close());

  test("exec: all output and the exit code come, though stdin is closed after the end", async () => {
    const { containers } = lab.engine;
    const id = await lab.create(["sleep", "100"]);
    await containers.start(id);
    const { Id } = await containers.createExec(id, {
      Cmd: ["sh", "-c", `head -c ${SAID_BYTES} /dev/zero; exit 7`],
      AttachStdin: true,
      AttachStdout: true,
      AttachStderr: true,
    });
    const streams = await containers.startExec(Id, { detach: false, tty: false });
    const pid = Number((await containers.inspectExec(Id))["Pid"]);
    await until("end of the program", WAIT_MS, () => !existsSync(`/proc/${pid}`));
    streams?.stdin?.end();
    let bytes = 0;
    for await (const { data } of streams?.output ?? []) bytes += data.byteLength;
    assert.equal(bytes, SAID_BYTES);
    assert.equal((await containers.inspectExec(Id))["ExitCode"], 7);
  });

  test("a start that fails leaves a container that ran before as ended, with its last exit code", async () => {
    const { containers } = lab.engine;
    const folder = path.join(lab.root, "bound");
    mkdirSync(folder);
    const run = await lab.run(["sh", "-c", "exit 3"], { Binds: [`${folder}:/x`] });
    rmdirSync(folder);
    await assert.rejects(containers.start(run.id), /bind source path does not exist|no such file/);
    const { status, exitCode, error } = containers.summary(run.id).state;
    assert.deepEqual([status, exitCode, error === ""], ["exited", 3, false]);
  });

  test("a container that runs or is paused is not removed, in Docker's words", async () => {
    const id = await lab.create(["sleep", "100"]);
    const { containers } = lab.engine;
    const name = containers.summary(id).name;
    const refused = async (reason: string): Promise<void> => {
      const message = `cannot remove container "${name}": ${reason}`;
      await assert.rejects(containers.remove(id, { force: false, volumes: false, link: false }), { message });
    };
    await containers.start(id);
    await refused("container is running: stop the container before removing or force remove");
    await containers.pause(id);
    await refused("container is paused and must be unpaused first");
  });
});
