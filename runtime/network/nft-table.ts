/**
 * One nftables table as a definition (sets, maps, chains) and the elements that are in it. Changing elements is one small
 * transaction of differences against what was committed last; a changed definition, or a refusal, reloads the whole table in
 * one transaction, so that packets see the old or the new one and never a gap. Used for every table that the product owns.
 */
import type { Logger } from "../../common/log.ts";
import { ClusterError } from "../../common/errors.ts";
import type { Nftables } from "./nftables.ts";

/** Set or map name to its elements: key to value, "" for sets. In nft's notation. */
export type Elements = ReadonlyMap<string, ReadonlyMap<string, string>>;

/**
 * Elements that change together, of one service say: worked out only when the signature is not that of the last time, so
 * that a change of one among thousands costs what one costs. No element may be in two groups.
 */
export interface ElementGroup {
  readonly signature: string;
  readonly elements: () => Elements;
}
export type ElementGroups = ReadonlyMap<string, ElementGroup>;

interface AppliedGroup {
  readonly signature: string;
  readonly elements: Elements;
}

const NOTHING: Elements = new Map();

/** A group of its own for each set, for sets that are small or change seldom. */
export function groupsOf(elements: Elements): Map<string, ElementGroup> {
  return new Map(
    [...elements].map(([name, items]) => [
      `set ${name}`,
      { signature: JSON.stringify([...items]), elements: () => new Map([[name, items]]) },
    ]),
  );
}

export interface TableDefinition {
  readonly name: string;
  /** Default: ip. */
  readonly family?: "ip" | "ip6";
  /** Set or map name to its declaration: `map x { type ipv4_addr : ipv4_addr; }` is `["x", "map", "type …;"]`. */
  readonly sets: readonly (readonly [name: string, kind: "set" | "map", declaration: string])[];
  /** Chains, in nft's language. */
  readonly chains: string;
}

/** Family and name, as statements have them. */
function placeOf({ family = "ip", name }: Pick<TableDefinition, "family" | "name">): string {
  return `${family} ${name}`;
}

/** Elements in one statement: keeps single lines readable in errors and bounded in length. */
const STATEMENT_ELEMENTS_MAX = 2_000;

/** Addresses, ports, marks and words, joined by " . "; names of interfaces stand in quotes. Nothing that ends a statement. */
const PART = /^(?:[\w.:/*+ -]|"[^"\\\n]*")+$/;

/** Throws invalid_argument for text that nft would take for more than one element: what nodes report ends up here. */
function element(key: string, value: string): string {
  const bad = [key, value === "" ? key : value].find((part) => !PART.test(part));
  if (bad !== undefined) {
    throw new ClusterError(
      "invalid_argument",
      `Element of a packet filter must be addresses, ports and names, got ${JSON.stringify(bad.slice(0, 80))}`,
    );
  }
  return value === "" ? key : `${key} : ${value}`;
}

function statements(verb: "add" | "delete", place: string, set: string, items: readonly string[]): string[] {
  const lines: string[] = [];
  for (let start = 0; start < items.length; start += STATEMENT_ELEMENTS_MAX) {
    const some = items.slice(start, start + STATEMENT_ELEMENTS_MAX).join(", ");
    lines.push(`${verb} element ${place} ${set} { ${some} }`);
  }
  return lines;
}

/** Adds to the lists what turns `before` into `after`. */
function collectChanges(before: Elements, after: Elements, changes: Changes): void {
  for (const name of new Set([...before.keys(), ...after.keys()])) {
    const had = before.get(name) ?? new Map<string, string>();
    const wanted = after.get(name) ?? new Map<string, string>();
    for (const [key, value] of had) if (wanted.get(key) !== value) push(changes.deletions, name, key);
    for (const [key, value] of wanted)
      if (had.get(key) !== value) push(changes.additions, name, element(key, value));
  }
}

/** By set: keys to delete, elements to add. */
interface Changes {
  readonly deletions: Map<string, string[]>;
  readonly additions: Map<string, string[]>;
}

function push(lists: Map<string, string[]>, name: string, item: string): void {
  const list = lists.get(name);
  if (list === undefined) lists.set(name, [item]);
  else list.push(item);
}

/** Commands for all changes, deletions first. */
function changeCommands(place: string, changes: Changes): string[] {
  return [
    ...[...changes.deletions].flatMap(([name, keys]) => statements("delete", place, name, keys)),
    ...[...changes.additions].flatMap(([name, items]) => statements("add", place, name, items)),
  ];
}

/** Commands that turn `before` into `after`, deletions first. */
export function elementChanges(table: string, before: Elements, after: Elements): string[] {
  const changes: Changes = { deletions: new Map(), additions: new Map() };
  collectChanges(before, after, changes);
  return changeCommands(placeOf({ name: table }), changes);
}

/** All elements of all groups, by set. */
function mergeGroups(groups: ReadonlyMap<string, AppliedGroup>): Elements {
  const merged = new Map<string, Map<string, string>>();
  for (const { elements } of groups.values()) {
    for (const [name, items] of elements) {
      const all = merged.get(name) ?? new Map<string, string>();
      for (const [key, value] of items) all.set(key, value);
      merged.set(name, all);
    }
  }
  return merged;
}

/** The whole table in one transaction, in place of what was there. */
export function tableText(definition: TableDefinition, elements: Elements): string {
  const place = placeOf(definition);
  const sets = definition.sets.map(([set, kind, declaration]) => {
    const items = [...(elements.get(set) ?? [])].map(([key, value]) => element(key, value));
    const filled = items.length === 0 ? "" : ` elements = { ${items.join(", ")} };`;
    return `${kind} ${set} { ${declaration}${filled} }`;
  });
  const body = [...sets, definition.chains].join("\n");
  return `table ${place} { }\ndelete table ${place}\ntable ${place} {\n${body}\n}\n`;
}

export class NftTable {
  readonly #nft: Nftables;
  readonly #log: Logger;
  #definition: TableDefinition | undefined;
  #chains = "";
  #groups: ReadonlyMap<string, AppliedGroup> = new Map();
  /** One change after the other; each computes its differences when its turn comes. */
  #tail: Promise<void> = Promise.resolve();
  /** Reloads that were needed because the kernel's content was not what was committed. */
  repairCount = 0;

  constructor(nft: Nftables, log: Logger) {
    this.#nft = nft;
    this.#log = log;
  }

  /** Brings the table to this state. */
  set(definition: TableDefinition, groups: ElementGroups): Promise<void> {
    return this.#inTurn(() => this.#set(definition, groups));
  }

  /** Commands beside the elements (timed ones); the text is run as it is, after what was asked before. */
  run(commands: string): Promise<void> {
    return this.#inTurn(async () => {
      if (this.#definition !== undefined) await this.#nft.run(commands);
    });
  }

  remove(name: string, family: "ip" | "ip6" = "ip"): Promise<void> {
    return this.#inTurn(async () => {
      const place = placeOf({ name, family });
      await this.#nft.run(`table ${place} { }\ndelete table ${place}\n`);
      this.#definition = undefined;
      this.#groups = new Map();
    });
  }

  /** Puts elements of the last state back that are not there any more, and counts. */
  audit(): Promise<boolean> {
    return this.#inTurn(() => this.#audit());
  }

  #inTurn<T>(work: () => Promise<T>): Promise<T> {
    const turn = this.#tail.then(work);
    this.#tail = turn.then(
      () => {},
      () => {},
    );
    return turn;
  }

  async #set(definition: TableDefinition, groups: ElementGroups): Promise<void> {
    const isSameShape = this.#definition?.name === definition.name && this.#chains === shape(definition);
    const changes: Changes = { deletions: new Map(), additions: new Map() };
    const next = this.#compare(groups, changes);
    if (!isSameShape) return this.#load(definition, next);
    const commands = changeCommands(placeOf(definition), changes);
    try {
      if (commands.length > 0) await this.#nft.run(commands.join("\n"));
      this.#groups = next;
    } catch (caught) {
      this.#log.warn("packet filter was not as expected, loading it again", {
        table: definition.name,
        error: ClusterError.from(caught),
      });
      this.repairCount += 1;
      await this.#load(definition, next);
    }
  }

  /** The groups as they will be, and what that changes. */
  #compare(groups: ElementGroups, changes: Changes): ReadonlyMap<string, AppliedGroup> {
    const next = new Map<string, AppliedGroup>();
    for (const [key, group] of groups) {
      const known = this.#groups.get(key);
      const { signature } = group;
      const applied = known?.signature === signature ? known : { signature, elements: group.elements() };
      next.set(key, applied);
      if (applied !== known) collectChanges(known?.elements ?? NOTHING, applied.elements, changes);
    }
    for (const [key, { elements }] of this.#groups)
      if (!groups.has(key)) collectChanges(elements, NOTHING, changes);
    return next;
  }

  async #load(definition: TableDefinition, groups: ReadonlyMap<string, AppliedGroup>): Promise<void> {
    await this.#nft.run(tableText(definition, mergeGroups(groups)));
    this.#definition = definition;
    this.#chains = shape(definition);
    this.#groups = groups;
  }

  async #audit(): Promise<boolean> {
    const definition = this.#definition;
    if (definition === undefined) return true;
    const isAsExpected = await this.#matches(definition);
    if (isAsExpected) return true;
    this.repairCount += 1;
    await this.#load(definition, this.#groups);
    return false;
  }

  /** Compares counts of elements and presence of chains: enough to see a flush, a delete or a foreign edit of size. */
  async #matches(definition: TableDefinition): Promise<boolean> {
    try {
      const listing = await this.#nft.runElsewhere(`list table ${placeOf(definition)}`);
      const chainNames = [...definition.chains.matchAll(/^\s*chain (\S+)/gm)].map((match) => match[1]);
      if (chainNames.some((name) => !listing.includes(`chain ${name} {`))) return false;
      const elements = mergeGroups(this.#groups);
      // Searching the text for each of thousands of elements would hold up the process for seconds.
      const words = new Set(listing.split(/[\s,{}]+/));
      const isListed = (key: string): boolean => {
        const [first = key] = key.split(" . ");
        return words.has(first) || listing.includes(first);
      };
      return definition.sets.every(([name]) => [...(elements.get(name)?.keys() ?? [])].every(isListed));
    } catch (caught) {
      if (ClusterError.from(caught).details["errno"] === "ENOENT") return false;
      throw caught;
    }
  }
}

function shape(definition: TableDefinition): string {
  return JSON.stringify([definition.sets, definition.chains]);
}
