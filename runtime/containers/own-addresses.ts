/** A running container's own lines in its hosts file, which follow its addresses. */
import type { EndpointSettings } from "../../model/engine.ts";
import { ownHosts } from "../network/local-results.ts";
import type { LiveContainer } from "./live-container.ts";
import { hostnameOf } from "./spec.ts";

type Endpoints = Readonly<Record<string, EndpointSettings>>;

function addressesOf(endpoints: Endpoints): readonly string[] {
  return Object.values(endpoints)
    .flatMap(({ IPAddress = "", GlobalIPv6Address = "" }) => [IPAddress, GlobalIPv6Address])
    .filter((ip) => ip !== "");
}

/** Called before the record has the endpoints that it has from now on. Nothing to do for one that has no network yet. */
export function rewriteHosts(live: LiveContainer, endpoints: Endpoints): void {
  const { record } = live;
  if (record.network === null) return;
  const before = addressesOf(record.network.endpoints);
  const now = addressesOf(endpoints);
  const added = now.filter((ip) => !before.includes(ip));
  live.files.addressesChanged({
    gone: before.filter((ip) => !now.includes(ip)),
    added: ownHosts(added, { name: record.name, hostname: hostnameOf(record), config: record.config }),
  });
}
