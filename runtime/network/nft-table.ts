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

export interface TableDefinition {
  /** Without family; the family is always ip. */
  readonly name: string;
  /** Set or map name to its declaration: `map x { type ipv4_addr : ipv4_addr; }` is `["x", "map", "type …;"]`. */
  readonly sets: readonly (readonly [name: string, kind: "set" | "map", declaration: string])[];
  /** Chains, in nft's language. */
  readonly chains: string;
}

/** Elements in one statement: keeps single lines readable in errors and bounded in length. */
const STATEMENT_ELEMENTS_MAX = 2_000;

function element(key: string, value: string): string {
  return value === "" ? key : `${key} : ${value}`;
}

function statements(verb: "add" | "delete", table: string, set: string, items: readonly string[]): string[] {
  const lines: string[] = [];
  for (let start = 0; start < items.length; start += STATEMENT_ELEMENTS_MAX) {
    const some = items.slice(start, start + STATEMENT_ELEMENTS_MAX).join(", ");
    lines.push(`${verb} element ip ${table} ${set} { ${some} }`);
  }
  return lines;
}

/** Commands that turn `before` into `after`, deletions first. */
export function elementChanges(table: string, before: Elements, after: Elements): string[] {
  const deletions: string[] = [];
  const additions: string[] = [];
  for (const name of new Set([...before.keys(), ...after.keys()])) {
    const had = before.get(name) ?? new Map<string, string>();
    const wanted = after.get(name) ?? new Map<string, string>();
    const gone = [...had].filter(([key, value]) => wanted.get(key) !== value).map(([key]) => key);
    const fresh = [...wanted].filter(([key, value]) => had.get(key) !== value);
    deletions.push(...statements("delete", table, name, gone));
    additions.push(
      ...statements(
        "add",
        table,
        name,
        fresh.map(([key, value]) => element(key, value)),
      ),
    );
  }
  return [...deletions, ...additions];
}

/** The whole table in one transaction, in place of what was there. */
export function tableText(definition: TableDefinition, elements: Elements): string {
  const { name } = definition;
  const sets = definition.sets.map(([set, kind, declaration]) => {
    const items = [...(elements.get(set) ?? [])].map(([key, value]) => element(key, value));
    const filled = items.length === 0 ? "" : ` elements = { ${items.join(", ")} };`;
    return `${kind} ${set} { ${declaration}${filled} }`;
  });
  const body = [...sets, definition.chains].join("\n");
  return `table ip ${name} { }\ndelete table ip ${name}\ntable ip ${name} {\n${body}\n}\n`;
}

export class NftTable {
  readonly #nft: Nftables;
  readonly #log: Logger;
  #definition: TableDefinition | undefined;
  #chains = "";
  #elements: Elements = new Map();
  /** One change after the other; each computes its differences when its turn comes. */
  #tail: Promise<void> = Promise.resolve();
  /** Reloads that were needed because the kernel's content was not what was committed. */
  repairCount = 0;

  constructor(nft: Nftables, log: Logger) {
    this.#nft = nft;
    this.#log = log;
  }

  /** Brings the table to this state. */
  set(definition: TableDefinition, elements: Elements): Promise<void> {
    return this.#inTurn(() => this.#set(definition, elements));
  }

  /** Commands beside the elements (timed ones); the text is run as it is, after what was asked before. */
  run(commands: string): Promise<void> {
    return this.#inTurn(async () => {
      if (this.#definition !== undefined) await this.#nft.run(commands);
    });
  }

  /** Loads everything again at the next set, whatever is believed to be there. */
  distrust(): void {
    this.#chains = "";
  }

  remove(name: string): Promise<void> {
    return this.#inTurn(async () => {
      await this.#nft.run(`table ip ${name} { }\ndelete table ip ${name}\n`);
      this.#definition = undefined;
      this.#elements = new Map();
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

  async #set(definition: TableDefinition, elements: Elements): Promise<void> {
    const isSameShape = this.#definition?.name === definition.name && this.#chains === shape(definition);
    if (!isSameShape) return this.#load(definition, elements);
    const changes = elementChanges(definition.name, this.#elements, elements);
    if (changes.length === 0) return;
    try {
      await this.#nft.run(changes.join("\n"));
      this.#elements = elements;
    } catch (caught) {
      this.#log.warn("packet filter was not as expected, loading it again", {
        table: definition.name,
        error: ClusterError.from(caught),
      });
      this.repairCount += 1;
      await this.#load(definition, elements);
    }
  }

  async #load(definition: TableDefinition, elements: Elements): Promise<void> {
    await this.#nft.run(tableText(definition, elements));
    this.#definition = definition;
    this.#chains = shape(definition);
    this.#elements = elements;
  }

  async #audit(): Promise<boolean> {
    const definition = this.#definition;
    if (definition === undefined) return true;
    const isAsExpected = await this.#matches(definition);
    if (isAsExpected) return true;
    this.repairCount += 1;
    await this.#load(definition, this.#elements);
    return false;
  }

  /** Compares counts of elements and presence of chains: enough to see a flush, a delete or a foreign edit of size. */
  async #matches(definition: TableDefinition): Promise<boolean> {
    try {
      const listing = await this.#nft.runElsewhere(`list table ip ${definition.name}`);
      const chainNames = [...definition.chains.matchAll(/^\s*chain (\S+)/gm)].map((match) => match[1]);
      if (chainNames.some((name) => !listing.includes(`chain ${name} {`))) return false;
      return definition.sets.every(([name]) => {
        const wanted = this.#elements.get(name) ?? new Map<string, string>();
        return [...wanted.keys()].every((key) => listing.includes(key.split(" . ")[0] ?? key));
      });
    } catch (caught) {
      if (ClusterError.from(caught).details["errno"] === "ENOENT") return false;
      throw caught;
    }
  }
}

function shape(definition: TableDefinition): string {
  return JSON.stringify([definition.sets, definition.chains]);
}
