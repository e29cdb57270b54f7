/**
 * Damage on the disk of a manager of a real cluster, and a disk without room. The cluster goes on serving through the others;
 * the member says what is wrong, keeps out of decisions, and is whole again by itself. Clients read and write all the while.
 */
import assert from "node:assert/strict";
import { readFileSync, rmSync } from "node:fs";
import path from "node:path";
import { after, before, describe, test, type TestContext } from "node:test";
import { SeededRandom } from "../../common/testing/seeded-random.ts";
import type { DevHost } from "../../dev/cluster.ts";
import { flipCheckpoint, flipLastEntry, flipOldEntry, tearTail, truncateTail } from "../chaos/disk-damage.ts";
import { Registers } from "../chaos/registers.ts";
import { request } from "../../bench/docker-http.ts";
import { TestCluster } from "./support/test-cluster.ts";
import { until, WAIT_MS } from "./support/wait.ts";

const CLIENTS = 4;
const DAMAGED = "raft log damaged, not voting until its content is fetched again";
const WHOLE = "raft log complete again, voting from now on";
const FULL = "raft disk full, not leading until there is room";
const ROOM = "raft disk has room again";
/** Room beside what is there already: two segments of the log and some. */
const DISK_BYTES = 180 * 1024 * 1024;
const CONFIG_BYTES = 700_000;
/** Together more than two segments. */
const LARGE_COUNT = 50;

describe("disks of managers", () => {
  let cluster: TestCluster;
  let registers: Registers;

  before(async () => {
    cluster = await TestCluster.start("e2edisk", { managers: 3, workers: 0 });
    registers = new Registers(cluster.dev.managers, new SeededRandom(7));
    registers.start(CLIENTS);
  });

  after(async () => {
    await registers.stop();
    await cluster.stop();
  });

  async function followers(): Promise<readonly DevHost[]> {
    const leader = await until("there is a leader", WAIT_MS, () => cluster.dev.leader());
    return cluster.dev.managers.filter((host) => host.name !== leader.name);
  }

  async function someAnswers(): Promise<void> {
    const count = registers.okCount + 5 * CLIENTS;
    await until("clients are answered", WAIT_MS, () => registers.okCount >= count);
  }

  /** What the daemon has logged since `offset`. */
  function logSince(host: DevHost, offset: number): string {
    return readFileSync(host.logPath).subarray(offset).toString();
  }

  async function untilReachable(host: DevHost, by: DevHost): Promise<void> {
    await until(`${host.name} is back`, WAIT_MS, async () => {
      const line = await cluster.dockerOn(
        by.name,
        "node",
        "inspect",
        host.name,
        "--format",
        "{{.ManagerStatus.Reachability}}",
      );
      return line.trim() === "reachable";
    });
  }

  async function damage(
    context: TestContext,
    how: (host: DevHost) => string,
    said: readonly (string | RegExp)[],
  ): Promise<string> {
    const [victim, other] = await followers();
    assert.ok(victim && other);
    await someAnswers();
    await cluster.dev.killDaemon(victim.name);
    context.diagnostic(`${victim.name}: ${how(victim)}`);
    const offset = readFileSync(victim.logPath).byteLength;
    await someAnswers();
    await cluster.dev.startDaemon(victim.name);
    await untilReachable(victim, other);
    for (const words of said) {
      await until(`${victim.name} says "${String(words)}"`, WAIT_MS, () => {
        const log = logSince(victim, offset);
        return typeof words === "string" ? log.includes(words) : words.test(log);
      });
    }
    await someAnswers();
    const log = logSince(victim, offset);
    for (const line of log.split("\n").filter((each) => /raft (log|disk|snapshot)/.test(each)))
      context.diagnostic(line.replace(/^\S+ /, "").slice(0, 200));
    return log;
  }

  test("a torn tail of the log is cut, and the member goes on at once", async (context) => {
    const log = await damage(context, tearTail, ["raft log had an unfinished write at its end, dropped"]);
    assert.ok(!log.includes(DAMAGED), "a tear is no damage");
  });

  test("a truncated log is damage: the member fetches what it lost before it votes", async (context) => {
    await damage(context, truncateTail, [DAMAGED, /has \d+ of \d+ bytes/, WHOLE]);
  });

  test("a flipped byte in an old entry is never cut away: the member fetches from its peers", async (context) => {
    await damage(context, flipOldEntry, [DAMAGED, /is damaged at byte \d+ and goes on at \d+/, WHOLE]);
  });

  test("a flipped byte in the last entry is told from a tear by the seal behind it", async (context) => {
    await damage(context, flipLastEntry, [DAMAGED, /is damaged at byte \d+ and goes on at \d+/, WHOLE]);
  });

  test("a flipped byte in the checkpoint is found, and the state fetched from peers or the log", async (context) => {
    // An orderly stop leaves a checkpoint. All of them, since it may be another's turn to lead by now.
    const { managers } = cluster.dev;
    for (const [index, host] of managers.entries()) {
      const by = managers[(index + 1) % managers.length];
      assert.ok(by);
      await cluster.dev.stopDaemon(host.name);
      await cluster.dev.startDaemon(host.name);
      await untilReachable(host, by);
    }
    await damage(context, flipCheckpoint, [DAMAGED, /it was put aside as/, WHOLE]);
  });

  test("a manager that lost its whole Raft folder asks to be taken in again, and is another member then", async () => {
    const [victim, other] = await followers();
    assert.ok(victim && other);
    const raftIds = (log: string): readonly string[] =>
      Array.from(log.matchAll(/raftId=(\d+)/g), ([, id]) => id ?? "");
    const before = raftIds(logSince(victim, 0)).at(-1);
    assert.ok(before);
    await cluster.dev.killDaemon(victim.name);
    rmSync(path.join(victim.folder, "data/swarm/manager"), { recursive: true });
    const offset = readFileSync(victim.logPath).byteLength;
    await cluster.dev.startDaemon(victim.name);
    await untilReachable(victim, other);
    assert.ok(logSince(victim, offset).includes("this manager has no state of the cluster yet"));
    const after = await until("it is a member", WAIT_MS, () => raftIds(logSince(victim, offset)).at(-1));
    assert.notEqual(after, before);
    const ls = await cluster.dockerOn(
      other.name,
      "node",
      "ls",
      "--format",
      "{{.Hostname}} {{.ManagerStatus}}",
    );
    assert.deepEqual(
      ls
        .trim()
        .split("\n")
        .map((line) => line.replace(/ (Leader|Reachable)$/, ""))
        .toSorted(),
      cluster.dev.managers.map((host) => host.name).toSorted(),
    );
    await someAnswers();
  });

  test("a full disk makes the leader step down, and it recovers by itself when there is room", async (context) => {
    const leader = await until("there is a leader", WAIT_MS, () => cluster.dev.leader());
    const [other] = await followers();
    assert.ok(other);
    const data = path.join(leader.folder, "data");
    await cluster.dev.stopDaemon(leader.name);
    await cluster.on(
      leader.name,
      "sh",
      "-ec",
      `mkdir ${data}.small; mount -t tmpfs -o size=${DISK_BYTES} tmpfs ${data}.small; cp -a ${data}/. ${data}.small/; mount --move ${data}.small ${data}`,
    );
    await cluster.dev.startDaemon(leader.name);
    await untilReachable(leader, other);
    await until("it leads again", WAIT_MS, async () => {
      if ((await cluster.dev.leader())?.name === leader.name) return true;
      // Others are restarted until it is its turn.
      const now = await cluster.dev.leader();
      if (now !== undefined) {
        await cluster.dev.stopDaemon(now.name);
        await cluster.dev.startDaemon(now.name);
      }
      return false;
    });
    const offset = readFileSync(leader.logPath).byteLength;
    await cluster.dev.exec(leader.name, ["sh", "-c", `cat /dev/zero > ${data}/fill`], { timeoutMs: WAIT_MS });
    await until("it says so", WAIT_MS, () => logSince(leader, offset).includes(FULL));
    await until("another leads", WAIT_MS, async () => {
      const now = await cluster.dev.leader();
      return now !== undefined && now.name !== leader.name;
    });
    await someAnswers();
    // More than the log's prepared segments can hold.
    for (let number = 0; number < LARGE_COUNT; number += 1) {
      const body = {
        Name: `large-${number}`,
        Data: Buffer.alloc(CONFIG_BYTES, number).toString("base64"),
      };
      await until(`large config ${number} is taken`, WAIT_MS, async () => {
        const { status } = await request(other.socketPath, "POST", "/configs/create", body);
        return status === 201 || status === 409;
      });
    }
    await until("its log is full too", WAIT_MS, () => /what=log/.test(logSince(leader, offset)));
    await someAnswers();
    assert.ok(cluster.dev.daemonPid(leader.name) !== undefined, "the daemon goes on");
    await cluster.on(leader.name, "rm", `${data}/fill`);
    await until("there is room again", WAIT_MS, () => logSince(leader, offset).includes(ROOM));
    await untilReachable(leader, other);
    await until("it has what was written meanwhile", WAIT_MS, async () =>
      (await cluster.dockerOn(leader.name, "config", "ls")).includes(`large-${LARGE_COUNT - 1}`),
    );
    for (const line of logSince(leader, offset)
      .split("\n")
      .filter((each) => /raft (log|disk|snapshot|leader)/.test(each)))
      context.diagnostic(line.replace(/^\S+ /, "").slice(0, 200));
  });

  test("no acknowledged write was lost in all this, and what clients saw is linearizable", async (context) => {
    await registers.stop();
    const report = await registers.check();
    context.diagnostic(
      `${report.ok} operations answered, ${report.refused} refused, ${report.unknown} unknown`,
    );
    assert.deepEqual([report.lost, report.notLinearizable, report.undecided], [[], [], []]);
  });
});
