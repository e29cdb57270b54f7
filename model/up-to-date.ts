/**
 * Whether a task is what its service asks for now: the updater replaces those that are not, and the API's
 * `_up-to-date` filter shows those that are. Equal task templates are up to date whatever the version says, so that
 * scaling or relabelling a service restarts nothing. Pure.
 */
import { firstUnmet, parseConstraints } from "./constraints.ts";
import { hostPortsOf } from "./defaults.ts";
import type { Node, Service, Task } from "./objects.ts";
import type { TaskSpec } from "./specs.ts";
import { TaskState } from "./task-state.ts";

/** Equality of JSON values; the order of keys does not matter and an undefined field is an absent one. */
export function deepEqual(left: unknown, right: unknown): boolean {
  if (left === right) return true;
  if (typeof left !== "object" || typeof right !== "object" || left === null || right === null) return false;
  if (Array.isArray(left) || Array.isArray(right)) {
    if (!Array.isArray(left) || !Array.isArray(right) || left.length !== right.length) return false;
    return left.every((value, index) => deepEqual(value, right[index]));
  }
  const [a, b] = [left as Record<string, unknown>, right as Record<string, unknown>];
  const keys = new Set([...Object.keys(a), ...Object.keys(b)]);
  for (const key of keys) if (!deepEqual(a[key], b[key])) return false;
  return true;
}

/** Durations whose zero is a wish, where an absent one is a default. */
const ZERO_MATTERS: ReadonlySet<string> = new Set(["Delay", "StopGracePeriod"]);

function isEmptyObject(value: unknown): boolean {
  return typeof value === "object" && value !== null && Object.keys(value).length === 0;
}

/**
 * A value without what says nothing: Go clients that read a spec and write it back add zeros, empty lists and the default
 * runtime, and a service must not restart for that.
 */
function essence(value: unknown): unknown {
  if (typeof value !== "object" || value === null) return value;
  if (Array.isArray(value)) return value.map(essence);
  const result: Record<string, unknown> = {};
  for (const [key, each] of Object.entries(value)) {
    const part = essence(each);
    if (part === undefined || part === null || part === "" || part === false || isEmptyObject(part)) continue;
    if (part === 0 && !ZERO_MATTERS.has(key)) continue;
    if (key === "Runtime" && part === "container") continue;
    result[key] = part;
  }
  return result;
}

const essences = new WeakMap<TaskSpec, unknown>();

function essenceOf(spec: TaskSpec): unknown {
  let found = essences.get(spec);
  if (found === undefined) {
    found = essence(spec);
    essences.set(spec, found);
  }
  return found;
}

const compared = new WeakMap<TaskSpec, WeakMap<TaskSpec, boolean>>();

/** Whether two stored specs mean the same, remembered, since a service's tasks are compared with it again and again. */
function equalSpecs(left: TaskSpec, right: TaskSpec): boolean {
  if (left === right) return true;
  let row = compared.get(left);
  if (row === undefined) {
    row = new WeakMap();
    compared.set(left, row);
  }
  let isEqual = row.get(right);
  if (isEqual === undefined) {
    isEqual = deepEqual(essenceOf(left), essenceOf(right));
    row.set(right, isEqual);
  }
  return isEqual;
}

/** Host ports are bound by the task itself; ingress ports are not, and change under running tasks. */
function equalHostPorts(service: Service, task: Task): boolean {
  const wanted = hostPortsOf(service.spec.EndpointSpec);
  const actual = task.ports.filter((port) => port.PublishMode === "host");
  if (wanted.length === 0 || actual.length === 0) return wanted.length === actual.length;
  const text = (ports: typeof wanted): string =>
    ports
      .map((port) => `${port.Protocol ?? "tcp"}/${port.TargetPort}/${port.PublishedPort ?? 0}`)
      .sort()
      .join();
  return text(wanted) === text(actual);
}

function withoutConstraints(spec: TaskSpec): TaskSpec {
  const { Constraints: _constraints, ...placement } = spec.Placement ?? {};
  return { ...spec, Placement: placement };
}

/** `node` is the task's node, if it has one: a task that meets changed constraints where it is may stay. */
export function isTaskUpToDate(service: Service, task: Task, node: Node | undefined): boolean {
  if (task.specVersion > 0 && task.specVersion === service.specVersion) return true;
  if (task.status.state > TaskState.new && !equalHostPorts(service, task)) return false;
  const wanted = service.spec.TaskTemplate;
  if (equalSpecs(wanted, task.spec)) return true;
  if (deepEqual(wanted.Placement?.Constraints ?? [], task.spec.Placement?.Constraints ?? [])) return false;
  if (node === undefined) return false;
  if (!deepEqual(essence(withoutConstraints(wanted)), essence(withoutConstraints(task.spec)))) return false;
  return firstUnmet(parseConstraints(wanted.Placement?.Constraints), node) === undefined;
}
