/** Seeded errors above Raft: what allocator, orchestrators, scheduler, updater, dispatcher, store and CA must not get wrong. */
import { mutant, type Mutant } from "./mutant.ts";
import type { ProfileName } from "./profiles.ts";

const DISPATCHER = "manager/dispatcher/dispatcher.ts";
const LOOP = "manager/reconcile-loop.ts";
const LEDGER = "manager/allocator/ledger.ts";
const NUMBERS = "manager/allocator/number-pool.ts";
const FILTERS = "manager/scheduler/filters.ts";
const SCHEDULER = "manager/scheduler/scheduler.ts";
const ACTIONS = "manager/orchestrator/actions.ts";
const SLOTS = "manager/orchestrator/slots.ts";
const GATE = "manager/orchestrator/start-gate.ts";
const ENFORCER = "manager/orchestrator/constraint-enforcer.ts";
const PLAN = "manager/updater/plan.ts";
const UPDATER = "manager/updater/updater.ts";
const ASSIGNMENTS = "manager/dispatcher/session-assignments.ts";
const STATUSES = "manager/dispatcher/status-writer.ts";
const BARRIER = "manager/dispatcher/drain-barrier.ts";
const WATCH = "manager/store/watch.ts";
const STORE = "manager/store/memory-store.ts";

const AUTHORITY = "manager/ca/authority.ts";
const ROTATION = "manager/ca/root-rotation.ts";
const ROLES = "manager/role-keeper.ts";
const CONTROL = "manager/controlapi/control-service.ts";
const AUTOLOCK = "manager/autolock.ts";
const BACKUP = "manager/backup.ts";

const NODE = "manager/raft/node.ts";

type Patches = readonly (readonly [string, string, string])[];

function above(
  number: number,
  name: string,
  kind: Mutant["kind"],
  patches: Patches,
  profile: ProfileName = "full",
): Mutant {
  return mutant(number, name, kind, { profile, patches });
}

export const MUTANTS_ABOVE: readonly Mutant[] = [
  above(201, "a new leader forgets which addresses tasks hold", "safety", [
    [
      LEDGER,
      'for (const task of view.list("task")) if (!isTerminal(task.status.state)) this.#adoptTask(task);',
      "",
    ],
  ]),
  above(202, "a published port is given twice", "safety", [
    [
      LEDGER,
      "if (holder !== undefined && holder !== service.id) {",
      "if (holder === service.id && key === holder) {",
    ],
  ]),
  above(203, "a number that is held is given again", "safety", [
    [
      NUMBERS,
      "if (!this.#used.has(value) && !this.#quarantine.has(value)) {",
      "if (!this.#quarantine.has(value)) {",
    ],
    [NUMBERS, "        this.#next = following;\n        return value;", "        return value;"],
  ]),
  above(204, "a watcher misses an event now and then", "liveness", [
    [
      WATCH,
      "if (this.#tables === undefined || this.#tables.has(event.table))",
      "if ((this.#tables === undefined || this.#tables.has(event.table)) && event.version % 41 !== 0)",
    ],
  ]),
  above(205, "an acknowledgement of an older message counts for a newer one", "safety", [
    [BARRIER, "if (wanted !== undefined && sequence >= wanted)", "if (wanted !== undefined)"],
    [BARRIER, "(drain.isArmed && drain.waiting.size === 0)", "drain.waiting.size === 0"],
  ]),
  above(206, "start-first stops the old task before the new one runs", "safety", [
    [
      PLAN,
      "if (fresh?.status.state === TaskState.running) return live",
      "if (fresh !== undefined) return live",
    ],
  ]),
  above(207, "stop-first starts while the old one still runs", "safety", [
    [
      GATE,
      "const isClear = predecessors(view, service, task).every((each) => isStoppedIn(view, each));",
      "const isClear = predecessors(view, service, task).every((each) => isStoppedIn(view, each)) || true;",
    ],
  ]),
  above(208, "an update ignores its parallelism", "safety", [
    [PLAN, "config.parallelism === 0 ? waiting.length", "config.parallelism >= 0 ? waiting.length"],
  ]),
  above(209, "a secret is sent to a node whose tasks don't use it", "safety", [
    [
      ASSIGNMENTS,
      "    const secrets = changedObjects(",
      '    for (const each of view.list("secret").slice(0, 2)) secretIds.add(each.id);\n    const secrets = changedObjects(',
    ],
  ]),
  above(210, "a secret that is no longer used is left on the node", "safety", [
    [ASSIGNMENTS, "removedSecrets: secrets.removed,", "removedSecrets: [],"],
  ]),
  above(211, "a late status takes a task back", "safety", [
    [STATUSES, "  if (reported.state < task.status.state) return;\n", ""],
    // Only a former session says anything late, and is not listened to besides. Both guards are taken away.
    [DISPATCHER, "this.#sessions.get(session.nodeId) !== session) {", 'session.nodeId === "") {'],
  ]),
  above(212, "a node is believed about tasks of others", "safety", [
    [
      STATUSES,
      "if (task === undefined || task.nodeId !== nodeId) return;",
      "if (task === undefined) return;",
    ],
  ]),
  above(213, "constraints are ignored", "safety", [
    [FILTERS, "if (wanted.constraints.length > 0) {", "if (wanted.constraints.length > 99) {"],
    [
      SCHEDULER,
      "if (firstUnmet(parseConstraints(task.spec.Placement?.Constraints), node) !== undefined) return false;",
      "if (parseConstraints(task.spec.Placement?.Constraints).length > 99 && firstUnmet([], node)) return false;",
    ],
  ]),
  above(214, "tasks are given to nodes that are down", "safety", [
    [
      FILTERS,
      'if (node.status.state !== NodeState.ready) return { filter: "ready", detail: "not ready" };',
      "",
    ],
    [
      SCHEDULER,
      "node?.status.state === NodeState.ready &&",
      "node?.status.state !== NodeState.disconnected &&",
    ],
  ]),
  above(215, "tasks are given to drained nodes", "safety", [
    [FILTERS, 'if (node.spec.Availability !== "active") {', 'if (node.spec.Availability === "pause") {'],
    [SCHEDULER, '&& node.spec.Availability === "active";', '&& node.spec.Availability !== "pause";'],
  ]),
  above(216, "draining a node moves nothing", "liveness", [
    [SLOTS, 'return node.spec.Availability === "drain" ? "drained" : undefined;', "return undefined;"],
  ]),
  above(217, "a slot is filled twice", "safety", [
    [
      ACTIONS,
      "if (service === undefined || tasksInSlot(tx, service, action).some(isLive)) return;\n      createAfter(tx, service, action, context);",
      "if (service === undefined) return;\n      createAfter(tx, service, action, context);\n      createAfter(tx, service, action, context);",
    ],
  ]),
  above(218, "the limit of replicas per node is ignored", "safety", [
    [FILTERS, "if (wanted.maxReplicas > 0 && ", "if (wanted.maxReplicas > 99 && "],
  ]),
  above(219, "a task that died is started again without delay", "safety", [
    [GATE, "task.restartOf === undefined ? 0", "task.restartOf === undefined || nowMs >= 0 ? 0"],
  ]),
  above(220, "restarts go on beyond the attempts allowed", "safety", [
    [SLOTS, "return policy.maxAttempts === 0 ||", "return policy.maxAttempts >= 0 ||"],
  ]),
  above(221, "the dispatcher drops a difference", "liveness", [
    [ASSIGNMENTS, "    sent.desiredState === task.desiredState &&\n", ""],
  ]),
  above(222, "a rollback doesn't come", "liveness", [
    [
      PLAN,
      'if (config.failureAction === "continue") return undefined;',
      'if (config.failureAction !== "pause") return undefined;',
    ],
  ]),
  above(223, "tasks stay where their constraints no longer hold", "liveness", [
    [
      ENFORCER,
      "if (isPlacementMet(view, task, node) && cpu >= 0 && memory >= 0) continue;",
      "if (isPlacementMet(view, task, node) || cpu >= 0) continue;",
    ],
  ]),
  above(
    224,
    "a plan made on a lost transaction is accepted",
    "safety",
    [
      [STORE, "if (header.after !== this.#lastAccepted) {", 'if (header.after === "never") {'],
      // Who leads has applied all that was before, so that hardly any plan is made on less. Both guards are taken away.
      [NODE, " && this.#appliedIndex >= leadership.firstIndexOfTerm;", ";"],
    ],
    "handover",
  ),
  above(225, "the orchestrator doesn't notice lost nodes", "liveness", [
    [
      SLOTS,
      'if (node === undefined || node.status.state === NodeState.down) return "lost";',
      'if (node === undefined) return "lost";',
    ],
  ]),
  above(226, "applying depends on the member's clock", "safety", [
    [
      STORE,
      "const object: StoredObject = planned.version === index ? planned : { ...planned, version: index };",
      "const object: StoredObject = { ...planned, version: index, updatedAt: new Date(this.#clock.wallMs()).toISOString() };",
    ],
  ]),
  above(227, "differences are sent before the whole", "safety", [
    [ASSIGNMENTS, "const full = this.#isFirst;", "const full = this.#isFirst && this.#sequence % 2 === 1;"],
  ]),
  above(228, "a worker's token makes a manager", "safety", [
    [
      AUTHORITY,
      'if (tokensEqual(token, worker)) return "worker";',
      'if (tokensEqual(token, worker)) return "manager";',
    ],
  ]),
  above(229, "a former root is dropped while nodes know no other", "safety", [
    [ROTATION, 'if (view.list("node").some((node) => mustRenewCertificate(cluster, node))) return;', ""],
    [ROTATION, 'if (tx.list("node").some((node) => mustRenewCertificate(current, node))) return;', ""],
  ]),
  above(230, "a token that was rotated away still holds", "safety", [
    [
      AUTHORITY,
      'throw new ClusterError("permission_denied", "A valid join token',
      'if (token.startsWith("SWMTKN")) return "worker";\n  throw new ClusterError("permission_denied", "A valid join token',
    ],
  ]),
  above(231, "a certificate says another role than its node has", "safety", [
    [
      AUTHORITY,
      "const role = certificateRoleOf(node",
      'const role = "manager" as NodeRole;\n    void certificateRoleOf(node',
    ],
  ]),
  above(232, "a demoted manager stays in Raft", "liveness", [
    [ROLES, 'if (node?.spec.Role === "manager") continue;', "if (node !== undefined) continue;"],
  ]),
  above(233, "a manager with an empty disk comes back beside its former self", "liveness", [
    [CONTROL, "if (former !== undefined) await", "if (former === undefined && raftId === 0) await"],
  ]),
  above(234, "the disk stays sealed by the former unlock key", "safety", [
    [
      AUTOLOCK,
      "if (wanted === undefined || wanted === this.#sealedBy) return;",
      'if (wanted === undefined || wanted === this.#sealedBy || this.#sealedBy !== "") return;',
    ],
  ]),
  above(235, "a backup lacks what was changed last", "safety", [
    [
      BACKUP,
      "  for (const [key, value] of state.entries) {",
      "  for (const [key, value] of [...state.entries].slice(0, -1)) {",
    ],
  ]),
  above(
    236,
    "a leader plans before it has applied what it found committed",
    "safety",
    [
      [NODE, " && this.#appliedIndex >= leadership.firstIndexOfTerm;", ";"],
      // Who gives anything away waits for it besides. Both guards are taken away.
      [LOOP, "await store.update(() => undefined, { signal });", ""],
    ],
    "handover",
  ),
  above(
    237,
    "a task of a new spec takes the place of one of an old spec before its update has begun",
    "liveness",
    [
      [ACTIONS, "if (last !== undefined) beginUpdate(", 'if (last?.id === "") beginUpdate('],
      // An updater as fast as ours hardly ever comes too late; a slow one is as good by itself.
      [UPDATER, 'name: "updater",', 'name: "updater", debounceMs: 2_000,'],
    ],
    "handover",
  ),
];
