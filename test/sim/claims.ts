/** U3: what must be unique in the cluster (addresses, VIPs, published ports, VNIs, subnets) belongs to one at a time. */
import { withoutMask } from "../../common/addresses.ts";
import type { Network, Service, StoreEvent, Task } from "../../model/objects.ts";
import { isTerminal } from "../../model/task-state.ts";
import type { StoreMirror } from "./store-mirror.ts";
import { Violation } from "./world.ts";

export class Claims {
  readonly #owners = new Map<string, string>();
  readonly #held = new Map<string, readonly string[]>();

  adopt(mirror: StoreMirror): void {
    this.#owners.clear();
    this.#held.clear();
    for (const network of mirror.networks.values()) this.#hold(network.id, claimsOfNetwork(network));
    for (const service of mirror.services.values()) this.#hold(service.id, claimsOfService(service));
    for (const task of mirror.tasks.values()) this.#hold(task.id, claimsOfTask(task));
  }

  apply(event: StoreEvent): void {
    const isGone = event.action === "remove";
    if (event.table === "task") this.#hold(event.object.id, isGone ? [] : claimsOfTask(event.object));
    else if (event.table === "service")
      this.#hold(event.object.id, isGone ? [] : claimsOfService(event.object));
    else if (event.table === "network")
      this.#hold(event.object.id, isGone ? [] : claimsOfNetwork(event.object));
    else if (event.table === "node") {
      const { meshSubnet } = event.object;
      this.#hold(event.object.id, isGone || meshSubnet === undefined ? [] : [`mesh ${meshSubnet}`]);
    }
  }

  #hold(owner: string, wanted: readonly string[]): void {
    const before = this.#held.get(owner) ?? [];
    if (before.length === wanted.length && before.every((each, at) => each === wanted[at])) return;
    for (const each of before) if (this.#owners.get(each) === owner) this.#owners.delete(each);
    for (const each of wanted) {
      const known = this.#owners.get(each);
      if (known !== undefined && known !== owner)
        throw new Violation("U3", `${each} is given to ${known} and ${owner}`);
      this.#owners.set(each, owner);
    }
    if (wanted.length === 0) this.#held.delete(owner);
    else this.#held.set(owner, wanted);
  }
}

/** Until it ended: a container that is told to stop still has its address. */
function claimsOfTask(task: Task): readonly string[] {
  if (isTerminal(task.status.state)) return [];
  return task.networks.flatMap(({ addresses, networkId }) =>
    addresses.map((address) => `${networkId} ${withoutMask(address)}`),
  );
}

function claimsOfService(service: Service): readonly string[] {
  const vips = (service.endpoint?.virtualIps ?? []).map(
    ({ addr, networkId }) => `${networkId} ${withoutMask(addr)}`,
  );
  const ports = (service.endpoint?.ports ?? [])
    .filter((port) => port.PublishMode === "ingress")
    .map((port) => `port ${port.Protocol}/${port.PublishedPort}`);
  return [...vips, ...ports];
}

/** All networks of the model have subnets of the same size, so that two overlap only if they are equal. */
function claimsOfNetwork(network: Network): readonly string[] {
  const { allocation } = network;
  if (allocation === undefined) return [];
  return [`vni ${allocation.vni}`, ...allocation.subnets.map((each) => `subnet ${each.subnet}`)];
}
