/** What tells one guest (a container outside of any service, on one network) from another of its node. Pure. */
import type { NodeGuest } from "./objects.ts";

type GuestIdentity = Pick<NodeGuest, "containerId" | "networkId">;

/** The same for the same container on the same network, whatever else is known of it. */
export function guestKey({ containerId, networkId }: GuestIdentity): string {
  return `${containerId} ${networkId}`;
}

export function guestsByKey(guests: readonly NodeGuest[]): ReadonlyMap<string, NodeGuest> {
  return new Map(guests.map((guest) => [guestKey(guest), guest]));
}
