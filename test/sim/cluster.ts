/**
 * One run: a cluster, its clients and its nemesis, from a seed. Two phases: anything may fail, then everything is mended
 * (or a minority stays dead) and the rest must come together within bounded virtual time. Checks run all along.
 */
import { hasCode } from "../../common/errors.ts";
import { SeededRandom } from "../../common/testing/seeded-random.ts";
import { Clients } from "./clients.ts";
import { ClusterRun, type RunBounds, type RunOptions, type RunResult } from "./cluster-run.ts";
import { KvState } from "./kv.ts";
import { Machine } from "./machine.ts";
import { Nemesis } from "./nemesis.ts";
import { type Profile, profileOf } from "./profiles.ts";
import { Violation } from "./world.ts";

const BOUNDS: RunBounds = { convergeMs: 60_000, deepCheckEvents: 200, afterlifeMs: 20_000 };
const MEMBER_COUNT_MAX = 7;

/** A cluster of the consensus layer with key-value clients. run.ts chooses between this and the whole cluster. */
export async function runCluster(options: RunOptions): Promise<RunResult> {
  const profile = profileOf(options.profile, new SeededRandom(options.seed ^ 0x5eed));
  const run = new Run(options, profile);
  return run.go();
}

class Run extends ClusterRun {
  readonly #profile: Profile;
  readonly #clients: Clients;
  readonly #nemesis: Nemesis;
  readonly #encryptionKey: Uint8Array | undefined;
  #isChanging = false;

  constructor(options: RunOptions, profile: Profile) {
    super(options, BOUNDS);
    this.#profile = profile;
    this.#encryptionKey = profile.isEncrypted ? this.world.random.bytes(32) : undefined;
    this.#clients = new Clients({
      world: this.world,
      machines: () => this.live(),
      clientCount: profile.clientCount,
      keyCount: profile.keyCount,
      thinkMs: profile.thinkMs,
    });
    this.#nemesis = new Nemesis({
      world: this.world,
      network: this.network,
      profile,
      checks: this.checks,
      machines: () => this.live(),
      changeMembership: () => this.#changeMembership(),
    });
  }

  async go(): Promise<RunResult> {
    let checked = { operations: 0, undecided: 0 };
    try {
      this.found(this.#profile.memberCount);
      await this.advance(3_000);
      this.#clients.start();
      this.#nemesis.start();
      await this.advance(this.options.faultyMs);
      this.#checkCalm();
      const core = this.#mend();
      await this.#comeTogether(core);
      await this.#converge("after mending", core);
      this.#clients.stop();
      await this.until("clients end", () => this.#clients.isIdle);
      await this.#restartAll();
      checked = this.#clients.check();
    } catch (caught) {
      this.world.fail(caught);
    }
    return this.#end(checked);
  }

  protected override addMachine(raftId: number, mode: Machine["mode"]): Machine {
    const world = this.world;
    const machine = new Machine(
      {
        world,
        network: this.network,
        raftId,
        limits: this.#profile.limits,
        encryptionKey: this.#encryptionKey,
        makeState: () =>
          new KvState(
            (entry, chain) => {
              world.note(3, entry.index, () => `${raftId} applies ${entry.index}`);
              this.checks.applied(raftId, entry, chain);
            },
            (request, outcome) => this.#clients.effect(request, outcome),
          ),
        onStarted: (started) => this.#onStarted(started),
        onDied: () => undefined,
      },
      mode,
    );
    this.machines.push(machine);
    return machine;
  }

  #onStarted(machine: Machine): void {
    const { node, raftId } = machine;
    if (node === undefined) return;
    const { lastIndex, term } = node.core.status;
    this.world.note(2, raftId, () => `${raftId} starts in term ${term} with ${lastIndex} entries`);
    this.checks.restarted({ raftId, core: node.core });
    this.follow(machine);
  }

  #views(): {
    readonly raftId: number;
    readonly core: NonNullable<Machine["node"]>["core"];
    readonly walBytes: number;
  }[] {
    const views = [];
    for (const { node, raftId } of this.machines) {
      if (node !== undefined) views.push({ raftId, core: node.core, walBytes: node.walBytes });
    }
    return views;
  }

  protected override deepCheck(): void {
    const views = this.#views();
    const down = new Set(this.machines.filter((each) => each.node === undefined).map((each) => each.raftId));
    for (const view of views) {
      if (!view.core.status.isRecovering && this.checks.isDamaged(view.raftId))
        this.checks.recovered(view.raftId);
      this.checks.bounds(view, {
        inflightCountMax: this.#profile.limits.inflightCountMax ?? 256,
        logCountMax: 3_000,
        walBytesMax: 512 * 1024,
      });
      if (view.core.leadership !== undefined) this.checks.committedIsDurable(view, views, down);
    }
    this.checks.logsMatch(views);
    this.checks.configs(views);
  }

  /** O16: the leader never failed, so nobody had a reason to elect again. */
  #checkCalm(): void {
    const isCalm = this.options.profile === "calm" || this.options.profile === "quiet";
    if (isCalm && this.leaderChanges !== 1) {
      throw new Violation("O16", `${this.leaderChanges} elections although nothing failed`);
    }
  }

  /** Ends all faults. Returns the members that must come together. */
  #mend(): readonly Machine[] {
    this.#nemesis.stop();
    const live = this.live();
    // Where members changed or lost data, which of them can be spared isn't known beforehand.
    const { every, weather } = this.#profile;
    const needsAll = weather === "promotion" || weather === "witness" || weather === "relapse";
    const isIntact = every.membership === 0 && every.rot === 0 && !needsAll;
    const mayLeaveDead = isIntact && this.random.float() < 0.4;
    const deadCount = mayLeaveDead ? this.random.below(Math.ceil(live.length / 2)) : 0;
    const dead = live.slice(0, deadCount);
    this.world.note(6, deadCount, () => `all is mended, ${deadCount} stay dead`);
    for (const machine of dead) machine.kill();
    const core = live.filter((machine) => !dead.includes(machine));
    for (const machine of core) machine.start();
    return core;
  }

  /** In some runs nobody writes at first: what was lost must be noticed without a new entry that shows it. */
  async #comeTogether(core: readonly Machine[]): Promise<void> {
    if (this.random.float() < 0.6) return;
    this.#clients.setPaused(true);
    await this.until("without new entries: equal states", () => this.#isQuiet(core));
    this.#clients.setPaused(false);
  }

  async #converge(when: string, core: readonly Machine[]): Promise<void> {
    const doneBefore = this.#clients.doneCount;
    await this.until(`${when}: a leader`, () => this.#leader(core) !== undefined);
    await this.until(`${when}: clients are served`, () => this.#clients.doneCount >= doneBefore + 5);
    // Machines that a committed configuration doesn't name have no part any more.
    // Clients still write, so that a slow member is never quite there: it must reach what the leader had applied by now.
    const goal = this.#leader(core)?.node?.appliedIndex ?? 0;
    await this.until(`${when}: equal states`, () => this.#isEqual(core, goal));
  }

  #leader(core: readonly Machine[]): Machine | undefined {
    return core.find((machine) => machine.node?.isLeader === true);
  }

  /** That members are the same at each index is for the ledger to check. */
  #isEqual(core: readonly Machine[], goal: number): boolean {
    const leader = this.#leader(core)?.node;
    if (leader === undefined) return false;
    const config = new Set(leader.members.map((member) => member.raftId));
    const members = core.filter((machine) => config.has(machine.raftId));
    const states = members.map((machine) => machine.state).filter((state) => state instanceof KvState);
    if (states.length !== members.length || members.some((machine) => machine.isRetired)) return false;
    return members.every((machine) => (machine.node?.appliedIndex ?? 0) >= goal);
  }

  /** O8: power loss everywhere; what comes back from the disks is the same state. */
  async #restartAll(): Promise<void> {
    const members = this.live().filter((machine) => machine.node !== undefined);
    await this.until("equal states before the last restart", () => this.#isQuiet(members));
    const before = this.#leader(members);
    const digest = before?.state instanceof KvState ? before.state.digest() : "";
    const config = new Set(before?.node?.members.map((member) => member.raftId));
    for (const machine of members) machine.kill();
    const again = members.filter((machine) => config.has(machine.raftId));
    for (const machine of again) machine.start();
    await this.until("a leader after the last restart", () => this.#leader(again) !== undefined);
    await this.until("equal states after the last restart", () => this.#isQuiet(again));
    for (const machine of again) {
      if (machine.state instanceof KvState && machine.state.digest() !== digest) {
        throw new Violation("O8", `member ${machine.raftId} has another state after a restart`);
      }
    }
  }

  /** All members of the configuration have applied the same. */
  #isQuiet(machines: readonly Machine[]): boolean {
    const leader = this.#leader(machines)?.node;
    if (leader === undefined) return false;
    const config = new Set(leader.members.map((member) => member.raftId));
    const applied = machines
      .filter((machine) => config.has(machine.raftId))
      .map((machine) => machine.node?.appliedIndex ?? 0);
    return applied.every((index) => index === leader.appliedIndex && index === leader.core.log.lastIndex);
  }

  #changeMembership(): void {
    const leader = this.live().find((machine) => machine.node?.isLeader === true)?.node;
    if (leader === undefined || this.#isChanging) return;
    this.#isChanging = true;
    const done = (): void => {
      this.#isChanging = false;
    };
    const ended = (caught: unknown): void => {
      const known = hasCode(
        caught,
        "unavailable",
        "cancelled",
        "failed_precondition",
        "not_found",
        "already_exists",
      );
      if (!known) this.world.fail(caught);
    };
    const { members } = leader;
    const mayAdd = this.live().length < MEMBER_COUNT_MAX;
    if (mayAdd && (members.length <= 3 || this.random.float() < 0.5)) {
      const raftId = this.machines.length + 1;
      this.world.note(7, raftId, () => `operator adds ${raftId}`);
      const machine = this.addMachine(raftId, { kind: "join", peers: members });
      this.#nemesis.prepare(machine);
      machine.start();
      const controller = new AbortController();
      this.world.after(15_000, () => controller.abort());
      const member = { raftId, nodeId: `node-${raftId}`, addr: `${raftId}:1` };
      this.#bounded(leader.addMember(member, controller.signal)).catch(ended).finally(done);
      return;
    }
    const victim = members[this.random.below(members.length)];
    // Damage that the leader can't know of yet is no reason to refuse: with it the rest may be no quorum for ever.
    const healthy = leader.core.healthy();
    const isSecretlyDamaged = members.some(
      ({ raftId }) => this.checks.isDamaged(raftId) && healthy.has(raftId),
    );
    if (victim === undefined || members.length <= 2 || isSecretlyDamaged) {
      done();
      return;
    }
    this.world.note(8, victim.raftId, () => `operator removes ${victim.raftId}`);
    this.#bounded(leader.removeMember(victim.raftId, { force: false }))
      .catch(ended)
      .finally(done);
  }

  /** A call to a member that dies never returns. */
  #bounded(call: Promise<void>): Promise<void> {
    const late = new Promise<void>((resolve) => {
      this.world.after(20_000, resolve);
    });
    return Promise.race([call, late]);
  }

  /** The end of a failed run's timeline. */
  #describeMachines(): void {
    for (const { isRetired, node, raftId } of this.machines) {
      const { config, ...status } = node?.core.status ?? { config: [] };
      const members = config.map((member) => `${member.raftId}${member.isLearner ? "l" : ""}`).join(",");
      const applied = node?.appliedIndex ?? 0;
      const progress = config.map((member) => {
        const each = node?.core.leadership?.progressOf(member.raftId);
        return each === undefined ? "" : `${each.raftId}:${each.mode} ${each.match}/${each.next}`;
      });
      const text = `${raftId}${isRetired ? " retired" : ""} [${members}] applied ${applied} ${node?.core.hasOutstandingAppend === true ? "writing " : ""}${JSON.stringify(status)} ${progress.join(" ")}`;
      this.world.note(10, raftId, () => text);
    }
  }

  #end(checked: { readonly operations: number; readonly undecided: number }): RunResult {
    if (this.world.failure !== undefined) this.#describeMachines();
    return this.result({
      ...checked,
      profile: this.#profile.name,
      appliedIndex: this.checks.maxApplied,
    });
  }
}
