/**
 * Is a history of reads, writes and compare-and-sets of one register linearizable? Wing and Gong's search with Lowe's
 * memory of (done operations, value) pairs. An operation whose outcome is unknown may take effect at any time after its
 * call, or never: its return lies at infinity. Registers are independent, so each key is checked alone.
 */

export type RegisterCall =
  | { readonly kind: "write"; readonly value: string }
  | { readonly kind: "cas"; readonly expected: string; readonly value: string }
  | { readonly kind: "read" };

export interface Operation {
  readonly call: RegisterCall;
  readonly callMs: number;
  /** Infinity: unknown. */
  readonly returnMs: number;
  /** read: the value; cas: "true" or "false"; undefined if unknown. */
  readonly outcome: string | undefined;
}

export type Verdict = "linearizable" | "not linearizable" | "undecided";

/** The value afterwards, or undefined if the operation could not have had its outcome now. */
function step(value: string, operation: Operation): string | undefined {
  const { call, outcome } = operation;
  switch (call.kind) {
    case "write":
      return call.value;
    case "cas": {
      const succeeds = value === call.expected;
      if (outcome !== undefined && outcome !== String(succeeds)) return undefined;
      return succeeds ? call.value : value;
    }
    case "read":
      return outcome === undefined || outcome === value ? value : undefined;
  }
}

interface Mark {
  readonly operation: number;
  readonly isCall: boolean;
  readonly atMs: number;
  previous: Mark | undefined;
  next: Mark | undefined;
  match: Mark | undefined;
}

/** Calls and returns in order of time as a linked list; at equal times calls first, which only makes more overlap. */
function marks(operations: readonly Operation[]): Mark | undefined {
  const all: Mark[] = [];
  for (const [index, operation] of operations.entries()) {
    const call: Mark = {
      operation: index,
      isCall: true,
      atMs: operation.callMs,
      previous: undefined,
      next: undefined,
      match: undefined,
    };
    const end: Mark = { ...call, isCall: false, atMs: operation.returnMs };
    call.match = end;
    end.match = call;
    all.push(call, end);
  }
  all.sort((a, b) => a.atMs - b.atMs || Number(b.isCall) - Number(a.isCall) || a.operation - b.operation);
  for (const [index, mark] of all.entries()) {
    mark.previous = all[index - 1];
    mark.next = all[index + 1];
  }
  return all[0];
}

/** Takes a call and its return out of the list; undo() puts them back in reverse order. */
function lift(mark: Mark): void {
  for (const each of [mark, mark.match]) {
    if (each === undefined) continue;
    if (each.previous !== undefined) each.previous.next = each.next;
    if (each.next !== undefined) each.next.previous = each.previous;
  }
}

function unlift(mark: Mark): void {
  for (const each of [mark.match, mark]) {
    if (each === undefined) continue;
    if (each.previous !== undefined) each.previous.next = each;
    if (each.next !== undefined) each.next.previous = each;
  }
}

/** `stepCountMax` bounds the search, which is exponential in the worst case. */
export function checkRegister(
  history: readonly Operation[],
  initial: string,
  stepCountMax: number = 2_000_000,
): Verdict {
  // An unknown read tells nothing.
  const operations = history.filter((each) => each.call.kind !== "read" || each.outcome !== undefined);
  const knownCount = operations.filter((each) => each.returnMs !== Infinity).length;
  const head: Mark = {
    operation: -1,
    isCall: false,
    atMs: -Infinity,
    previous: undefined,
    next: marks(operations),
    match: undefined,
  };
  if (head.next !== undefined) head.next.previous = head;
  const done = new Uint32Array(Math.ceil(operations.length / 32));
  const seen = new Set<string>();
  const stack: { readonly mark: Mark; readonly value: string }[] = [];
  let doneKnown = 0;
  let value = initial;
  let mark = head.next;
  for (let steps = 0; doneKnown < knownCount; steps += 1) {
    if (steps > stepCountMax) return "undecided";
    if (mark?.isCall === true) {
      const operation = operations[mark.operation];
      const after = operation === undefined ? undefined : step(value, operation);
      if (after !== undefined && operation !== undefined) {
        const word = mark.operation >> 5;
        const bit = 1 << (mark.operation & 31);
        done[word] = (done[word] ?? 0) | bit;
        const key = `${done.join(",")}|${after}`;
        if (seen.has(key)) {
          done[word] &= ~bit;
        } else {
          seen.add(key);
          stack.push({ mark, value });
          value = after;
          if (operation.returnMs !== Infinity) doneKnown += 1;
          lift(mark);
          mark = head.next;
          continue;
        }
      }
      mark = mark.next;
      continue;
    }
    // A return that is not done yet: something before it must go first. Go back.
    const last = stack.pop();
    if (last === undefined) return "not linearizable";
    const undone = operations[last.mark.operation];
    done[last.mark.operation >> 5] =
      (done[last.mark.operation >> 5] ?? 0) & ~(1 << (last.mark.operation & 31));
    if (undone !== undefined && undone.returnMs !== Infinity) doneKnown -= 1;
    value = last.value;
    unlift(last.mark);
    mark = last.mark.next;
  }
  return "linearizable";
}
