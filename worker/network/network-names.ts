/** Names on one overlay network, from what the managers say: services, their tasks, and single endpoints. Pure. */
import type { NetworkAssignment, NetworkServiceRecord, RemoteEndpoint } from "../../model/dispatch.ts";
import type { NameDirectory, NameMatch } from "../../model/engine.ts";
import { ENDPOINT_TTL_SECONDS, VIP_TTL_SECONDS } from "./limits.ts";

export class NetworkNames implements NameDirectory {
  readonly #suffix: string;
  readonly #matches = new Map<string, NameMatch>();
  readonly #reverse = new Map<string, string>();

  /** Endpoints in `drained` are left out as if they were draining. */
  constructor(network: NetworkAssignment, drained: ReadonlySet<string>) {
    this.#suffix = `.${network.name.toLowerCase()}`;
    const byService = Map.groupBy(network.endpoints, (endpoint) => endpoint.serviceId);
    for (const endpoint of network.endpoints) this.#addEndpoint(endpoint, network.name);
    for (const service of network.services) {
      const ready = (byService.get(service.serviceId) ?? [])
        .filter((endpoint) => endpoint.state === "ready" && !drained.has(endpoint.taskId))
        .map((endpoint) => endpoint.ip);
      this.#addService(service, ready, network.name);
    }
  }

  /** By the bare name, or with the network's name behind it. */
  lookup(name: string): NameMatch | undefined {
    const found = this.#matches.get(name);
    if (found !== undefined || !name.endsWith(this.#suffix)) return found;
    return this.#matches.get(name.slice(0, -this.#suffix.length));
  }

  reverse(address: string): string | undefined {
    return this.#reverse.get(address);
  }

  #addEndpoint(endpoint: RemoteEndpoint, networkName: string): void {
    if (endpoint.state === "draining") return;
    for (const name of endpoint.names) this.#add(name, [endpoint.ip], ENDPOINT_TTL_SECONDS);
    const [first] = endpoint.names;
    if (first !== undefined) this.#reverse.set(endpoint.ip, `${first}.${networkName}`);
  }

  #addService(service: NetworkServiceRecord, ready: readonly string[], networkName: string): void {
    for (const name of [service.name, ...service.aliases]) {
      if (service.vip === "") this.#add(name, ready, ENDPOINT_TTL_SECONDS);
      else this.#add(name, [service.vip], VIP_TTL_SECONDS);
      this.#add(`tasks.${name}`, ready, ENDPOINT_TTL_SECONDS);
    }
    if (service.vip !== "") this.#reverse.set(service.vip, `${service.name}.${networkName}`);
  }

  #add(name: string, addresses: readonly string[], ttlSeconds: number): void {
    const key = name.toLowerCase();
    const former = this.#matches.get(key);
    const all = former === undefined ? addresses : [...former.addresses, ...addresses];
    this.#matches.set(key, {
      addresses: [...new Set(all)],
      ttlSeconds: Math.min(ttlSeconds, former?.ttlSeconds ?? ttlSeconds),
    });
  }
}

/** Several networks as one task sees them: the first that knows a name answers. */
export function joinNames(directories: readonly NameDirectory[]): NameDirectory {
  return {
    lookup: (name) => firstKnown(directories, (directory) => directory.lookup(name)),
    reverse: (address) => firstKnown(directories, (directory) => directory.reverse(address)),
  };
}

function firstKnown<T>(
  directories: readonly NameDirectory[],
  ask: (directory: NameDirectory) => T | undefined,
): T | undefined {
  for (const directory of directories) {
    const found = ask(directory);
    if (found !== undefined) return found;
  }
  return undefined;
}
