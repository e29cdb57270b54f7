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

/** Without what says nothing: null, "", empty lists and mappings, which clients write or leave out as they like. */
function withoutEmpty(value: unknown): unknown {
  if (value === null || value === "") return undefined;
  if (Array.isArray(value))
    return value.length === 0 ? undefined : value.map((each) => withoutEmpty(each) ?? each);
  if (typeof value !== "object") return value;
  const entries = Object.entries(value)
    .map(([key, each]) => [key, withoutEmpty(each)] as const)
    .filter(([, each]) => each !== undefined);
  return entries.length === 0 ? undefined : Object.fromEntries(entries);
}

/**
 * The template in the one form that is compared. A client that reads a service, changes its scale and writes it back has
 * every field that the API shows, also those that were not given at first.
 */
function comparable({ ForceUpdate: force, Runtime: runtime, ...spec }: TaskSpec): unknown {
  return withoutEmpty({
    ...spec,
    ForceUpdate: force === 0 ? undefined : force,
    Runtime: runtime === "container" ? undefined : runtime,
  });
}

const compared = new WeakMap<TaskSpec, WeakMap<TaskSpec, boolean>>();

/** deepEqual of two stored specs, remembered, since a service's tasks are compared with it again and again. */
function equalSpecs(left: TaskSpec, right: TaskSpec): boolean {
  if (left === right) return true;
  let row = compared.get(left);
  if (row === undefined) {
    row = new WeakMap();
    compared.set(left, row);
  }
  let isEqual = row.get(right);
  if (isEqual === undefined) {
    isEqual = deepEqual(comparable(left), comparable(right));
    row.set(right, isEqual);
  }
  return isEqual;
}

/** Host ports are bound by the task itself; ingress ports are not, and change under running tasks. */
function equalHostPorts(service: Service, task: Task): boolean {
  const wanted = hostPortsOf(service.spec.EndpointSpec);
  const actual = task.ports.filter((port) => port.PublishMode === "host");
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
  if (!deepEqual(comparable(withoutConstraints(wanted)), comparable(withoutConstraints(task.spec))))
    return false;
  return firstUnmet(parseConstraints(wanted.Placement?.Constraints), node) === undefined;
}
