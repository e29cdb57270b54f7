/** Names of containers: which are allowed, which are free, and made-up ones. */
import type { Random } from "../../common/env.ts";
import { ClusterError } from "../../common/errors.ts";
import { madeUpName } from "../../common/made-up-names.ts";
import type { LiveContainer } from "./live-container.ts";

const NAME = /^[a-zA-Z0-9][a-zA-Z0-9_.-]+$/;
const TRIES_MAX = 20;

/** All containers by id, name and unambiguous prefix. */
export class ContainerIndex {
  readonly #byId = new Map<string, LiveContainer>();
  readonly #idByName = new Map<string, string>();

  get all(): readonly LiveContainer[] {
    return [...this.#byId.values()];
  }

  /** Reserves the name; throws Docker's conflict if it is taken. */
  reserve(name: string, id: string): void {
    if (!NAME.test(name)) {
      throw new ClusterError(
        "invalid_argument",
        `Invalid container name (${name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed`,
      );
    }
    const holder = this.#idByName.get(name);
    if (holder !== undefined && holder !== id) {
      throw new ClusterError(
        "conflict",
        `Conflict. The container name "/${name}" is already in use by container "${holder}". You have to remove (or rename) that container to be able to reuse that name.`,
      );
    }
    this.#idByName.set(name, id);
  }

  release(name: string, id: string): void {
    if (this.#idByName.get(name) === id) this.#idByName.delete(name);
  }

  add(live: LiveContainer): void {
    this.#byId.set(live.id, live);
  }

  remove(live: LiveContainer): void {
    this.#byId.delete(live.id);
    this.release(live.record.name, live.id);
  }

  /** Full id, then name, then a prefix of one id only. */
  find(reference: string): LiveContainer {
    const name = reference.startsWith("/") ? reference.slice(1) : reference;
    const exact = this.#byId.get(reference) ?? this.#byId.get(this.#idByName.get(name) ?? "");
    if (exact !== undefined) return exact;
    const matches =
      reference === "" ? [] : [...this.#byId.keys()].filter((id) => id.startsWith(reference.toLowerCase()));
    const [first, second] = matches;
    if (second !== undefined) {
      throw new ClusterError("invalid_argument", `multiple IDs found with provided prefix: ${reference}`);
    }
    const found = first === undefined ? undefined : this.#byId.get(first);
    if (found === undefined) throw new ClusterError("not_found", `No such container: ${reference}`);
    return found;
  }

  makeName(random: Pick<Random, "below">): string {
    for (let attempt = 0; attempt < TRIES_MAX; attempt++) {
      const name = `${madeUpName(random)}${attempt === 0 ? "" : random.below(1000)}`;
      if (!this.#idByName.has(name)) return name;
    }
    return `fish_${Buffer.from(String(random.below(2 ** 31))).toString("hex")}`;
  }
}
