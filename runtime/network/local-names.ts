/** What names mean to a container on this machine's networks. Answers from the members as they are now. */
import type { Random } from "../../common/env.ts";
import type { NameDirectory, NameMatch } from "../../model/engine.ts";
import type { DnsForwarder } from "./dns-forwarder.ts";
import { resolveName } from "./dns-names.ts";
import type { Resolution } from "./dns-server.ts";
import type { DnsQuestion } from "./dns-wire.ts";
import type { NetworkCatalog } from "./local-catalog.ts";
import type { LocalGuests } from "./local-guests.ts";
import type { Members } from "./local-members.ts";

const NAME_TTL_SECONDS = 30;

export interface LocalNamesDeps {
  readonly members: Members;
  readonly catalog: NetworkCatalog;
  readonly guests: Pick<LocalGuests, "names">;
  readonly forwarder: DnsForwarder;
  readonly random: Pick<Random, "below">;
}

export class LocalNames {
  readonly #deps: LocalNamesDeps;
  readonly #byNetwork = new Map<string, ReadonlyMap<string, readonly string[]>>();
  #generation = -1;

  constructor(deps: LocalNamesDeps) {
    this.#deps = deps;
  }

  /** The asker is who has the source address on the network that the question came in on; it sees all of its networks. */
  resolve(networkId: string, question: DnsQuestion, source: string): Resolution {
    const { members, catalog, guests, forwarder, random } = this.#deps;
    const member = members.find((each) => each.endpoints[networkId]?.ip === source);
    const ids = Object.keys(member?.endpoints ?? {});
    const cluster = member === undefined ? undefined : guests.names(member.containerId);
    const isInternal =
      cluster === undefined && ids.length > 0 && ids.every((id) => catalog.get(id)?.isInternal === true);
    const own = member?.dns ?? [];
    const upstreams = own.length > 0 ? own : forwarder.host().nameservers;
    const local = this.#directoryOf(ids);
    const directory = cluster === undefined ? local : both(local, cluster);
    return resolveName(question, directory, isInternal ? [] : upstreams, random);
  }

  #directoryOf(networkIds: readonly string[]): NameDirectory {
    return {
      lookup: (name) => firstKnown(networkIds, (id) => this.#lookup(id, name)),
      reverse: (address) => firstKnown(networkIds, (id) => this.#reverse(id, address)),
    };
  }

  #lookup(networkId: string, name: string): NameMatch | undefined {
    const names = this.#namesOf(networkId);
    const suffix = `.${this.#networkName(networkId).toLowerCase()}`;
    const bare = name.endsWith(suffix) ? name.slice(0, -suffix.length) : name;
    const addresses = names.get(name) ?? names.get(bare);
    return addresses === undefined ? undefined : { addresses, ttlSeconds: NAME_TTL_SECONDS };
  }

  #reverse(networkId: string, address: string): string | undefined {
    const owner = this.#deps.members
      .owners(networkId)
      .find(({ endpoint }) => endpoint.ip === address || endpoint.ipv6?.ip === address);
    return owner === undefined ? undefined : `${owner.containerName}.${this.#networkName(networkId)}`;
  }

  #networkName(networkId: string): string {
    return this.#deps.catalog.get(networkId)?.name ?? "";
  }

  #namesOf(networkId: string): ReadonlyMap<string, readonly string[]> {
    if (this.#generation !== this.#deps.members.generation) {
      this.#byNetwork.clear();
      this.#generation = this.#deps.members.generation;
    }
    const known = this.#byNetwork.get(networkId);
    if (known !== undefined) return known;
    const names = new Map<string, string[]>();
    for (const { endpoint } of this.#deps.members.owners(networkId)) {
      for (const name of endpoint.dnsNames) {
        const key = name.toLowerCase();
        const own = endpoint.ipv6 === undefined ? [endpoint.ip] : [endpoint.ip, endpoint.ipv6.ip];
        names.set(key, [...(names.get(key) ?? []), ...own]);
      }
    }
    this.#byNetwork.set(networkId, names);
    return names;
  }
}

function both(one: NameDirectory, other: NameDirectory): NameDirectory {
  return {
    lookup: (name) => one.lookup(name) ?? other.lookup(name),
    reverse: (address) => one.reverse(address) ?? other.reverse(address),
  };
}

function firstKnown<T>(ids: readonly string[], ask: (id: string) => T | undefined): T | undefined {
  for (const id of ids) {
    const found = ask(id);
    if (found !== undefined) return found;
  }
  return undefined;
}
