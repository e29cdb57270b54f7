import assert from "node:assert/strict";
import { test } from "node:test";
import { SeededRandom } from "../../common/testing/seeded-random.ts";
import { type ExecDeps, Execs } from "./execs.ts";
import type { LiveContainer } from "./live-container.ts";
import type { NativeConnection } from "./native-frames.ts";
import type { NativeLauncher } from "./native-launcher.ts";

const REASON = "unable to find user x: no matching entries in passwd file";

/** A process that says why it can't start, and is gone by the time that this is read. */
function failingConnection(): NativeConnection {
  const connection: Pick<NativeConnection, "ask" | "close" | "handle"> = {
    handle: (handlers) => handlers.closed?.(),
    ask: () => Promise.reject(new Error(REASON)),
    close: () => undefined,
  };
  return connection as NativeConnection;
}

test("Execs.start() shows why a program could not be started, however soon its process is gone", async () => {
  const connection = failingConnection();
  const launcher: Pick<NativeLauncher, "run"> = {
    run: (_verb, _job, options) => {
      options?.sent?.(connection);
      return Promise.resolve({ connection, pid: process.pid });
    },
  };
  const deps = {
    launcher,
    cgroups: { groups: () => [] },
    appArmor: { profileOf: () => "" },
    runtimes: { find: () => undefined },
    execRoot: "/nowhere",
    random: new SeededRandom(1),
    events: () => undefined,
  } as unknown as ExecDeps;
  const container = {
    id: "c".repeat(64),
    isRunning: true,
    record: { id: "c".repeat(64), name: "/web", config: {}, hostConfig: {}, state: { pid: process.pid } },
  } as unknown as LiveContainer;
  const execs = new Execs(deps);
  const { id } = execs.create(container, { Cmd: ["id"], User: "x" });
  const streams = await execs.start(id, { detach: false, tty: false });
  let output = "";
  for await (const { data } of streams?.output ?? []) output += Buffer.from(data).toString();
  assert.match(output, new RegExp(REASON));
  assert.equal(execs.get(id).exitCode, 126);
});
