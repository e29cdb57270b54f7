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

function execsOf(run: NativeLauncher["run"]): Execs {
  const launcher: Pick<NativeLauncher, "run" | "prepareSpare"> = {
    run,
    prepareSpare: () => Promise.resolve(),
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
  return new Execs(deps);
}

const CONTAINER = {
  id: "c".repeat(64),
  isRunning: true,
  record: { id: "c".repeat(64), name: "/web", config: {}, hostConfig: {}, state: { pid: process.pid } },
} as unknown as LiveContainer;

test("Execs.start() shows why a program could not be started, however soon its process is gone", async () => {
  const connection = failingConnection();
  const execs = execsOf((_verb, _job, options) => {
    options?.sent?.(connection);
    return Promise.resolve({ connection, pid: process.pid });
  });
  const { id } = execs.create(CONTAINER, { Cmd: ["id"], User: "x" });
  const streams = await execs.start(id, { detach: false, tty: false });
  let output = "";
  for await (const { data } of streams?.output ?? []) output += Buffer.from(data).toString();
  assert.match(output, new RegExp(REASON));
  assert.equal(execs.get(id).exitCode, 126);
});

test("an exec that ran for long has its exit code still when hundreds came after it", async () => {
  let end: (exitCode: number) => void = () => undefined;
  const connection = {
    handle: ({ exit }: { readonly exit?: (exit: object) => void }) => {
      end = (exitCode) => exit?.({ isStarted: true, exitCode });
    },
    ask: () => Promise.resolve(),
    close: () => undefined,
  } as unknown as NativeConnection;
  const execs = execsOf((_verb, _job, options) => {
    options?.sent?.(connection);
    return Promise.resolve({ connection, pid: process.pid });
  });
  const { id } = execs.create(CONTAINER, { Cmd: ["sleep", "100"] });
  await execs.start(id, { detach: true, tty: false });
  const first = execs.create(CONTAINER, { Cmd: ["id"] });
  for (let count = 0; count < 498; count += 1) execs.create(CONTAINER, { Cmd: ["id"] });
  end(3);
  await new Promise((resolve) => setImmediate(resolve));
  execs.create(CONTAINER, { Cmd: ["id"] });
  assert.equal(execs.get(id).exitCode, 3);
  assert.throws(() => execs.get(first.id), /No such exec instance/);
});
