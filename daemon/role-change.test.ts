/** What becomes of a role that could not be taken up at once. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { ClusterError } from "../common/errors.ts";
import { silentLogger } from "../common/log.ts";
import { FakeClock } from "../common/testing/fake-clock.ts";
import { SeededRandom } from "../common/testing/seeded-random.ts";
import type { NodeRole } from "../model/specs.ts";
import { hasRole, RoleChange } from "./role-change.ts";

interface Attempt {
  readonly role: NodeRole;
  readonly end: (outcome: boolean | Error) => void;
}

function setUp(): { readonly clock: FakeClock; readonly attempts: Attempt[]; readonly roles: RoleChange } {
  const clock = new FakeClock();
  const attempts: Attempt[] = [];
  const roles = new RoleChange({
    env: { timers: clock, random: new SeededRandom(1) },
    log: silentLogger,
    change: (role) =>
      new Promise((resolve, reject) => {
        attempts.push({
          role,
          end: (outcome) => (outcome instanceof Error ? reject(outcome) : resolve(outcome)),
        });
      }),
  });
  return { clock, attempts, roles };
}

test("a role that could not be taken up is tried again though nobody says it again, until it works", async () => {
  const { clock, attempts, roles } = setUp();
  roles.want("manager");
  for (const outcome of [
    new ClusterError("unimplemented", "not a manager"),
    false,
    new Error("gone"),
    true,
  ]) {
    attempts.at(-1)?.end(outcome);
    await clock.advanceAsync(20_000);
  }
  await clock.advanceAsync(60_000);
  assert.deepEqual(
    attempts.map(({ role }) => role),
    ["manager", "manager", "manager", "manager"],
  );
});

test("said again while it is tried, it is not tried twice; the last word counts", async () => {
  const { clock, attempts, roles } = setUp();
  roles.want("manager");
  roles.want("manager");
  roles.want("worker");
  assert.equal(attempts.length, 1);
  attempts[0]?.end(true);
  await clock.advanceAsync(20_000);
  assert.deepEqual(
    attempts.map(({ role }) => role),
    ["manager", "worker"],
  );
  attempts[1]?.end(true);
  await clock.advanceAsync(60_000);
  assert.equal(attempts.length, 2);
});

test("said again while it waits, it is tried at once, and only once; stopped, not at all", async () => {
  const { clock, attempts, roles } = setUp();
  roles.want("manager");
  attempts[0]?.end(false);
  await clock.advanceAsync(1);
  roles.want("manager");
  assert.equal(attempts.length, 2);
  await clock.advanceAsync(60_000);
  assert.equal(attempts.length, 2);
  roles.stop();
  attempts[1]?.end(false);
  await clock.advanceAsync(60_000);
  assert.equal(attempts.length, 2);
});

test("a role is had when certificate and manager half agree with it, not when the certificate alone does", () => {
  const cases = [
    [{ role: "worker", hasManager: false }, "worker", true],
    [{ role: "worker", hasManager: false }, "manager", false],
    [{ role: "worker", hasManager: true }, "worker", false],
    [{ role: "worker", hasManager: true }, "manager", false],
    [{ role: "manager", hasManager: false }, "manager", false],
    [{ role: "manager", hasManager: true }, "manager", true],
    [{ role: "manager", hasManager: true }, "worker", false],
  ] as const;
  for (const [{ role, hasManager }, wanted, isHad] of cases) {
    const node = { state: { role }, manager: hasManager ? {} : undefined };
    assert.equal(hasRole(node, wanted), isHad, `${wanted} of ${role}, ${hasManager}`);
  }
});
