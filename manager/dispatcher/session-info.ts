/** What every session is told besides its tasks: how often to beat, and where managers are. Pure. */
import type { Cluster } from "../../model/objects.ts";
import type { StoreView } from "../../model/store-view.ts";
import { HEARTBEAT_MAX_MS, HEARTBEAT_MIN_MS, HEARTBEATS_PER_SECOND_MAX } from "./limits.ts";

/**
 * A beat a second, or as rarely as keeps the leader's load bounded, but never so rarely that a node that is well passes for
 * silent, nor more rarely than the cluster's spec says
 * (Dispatcher.HeartbeatPeriod, nanoseconds), which is the longest period that is wanted.
 */
function heartbeatMs(view: StoreView, sessionCount: number): number {
  const wantedNs = view.list("cluster")[0]?.spec.Dispatcher?.HeartbeatPeriod ?? 0;
  const bearableMs = Math.max(HEARTBEAT_MIN_MS, (sessionCount / HEARTBEATS_PER_SECOND_MAX) * 1000);
  const rounded = Math.min(HEARTBEAT_MAX_MS, Math.ceil(bearableMs / 500) * 500);
  return wantedNs > 0 ? Math.min(rounded, Math.max(HEARTBEAT_MIN_MS, wantedNs / 1e6)) : rounded;
}

function managerAddresses(view: StoreView): readonly { readonly nodeId: string; readonly addr: string }[] {
  return view
    .list("node")
    .flatMap((node) => (node.manager === undefined ? [] : [{ nodeId: node.id, addr: node.manager.addr }]));
}

/** What is the same for all sessions. Looks at every node, so it is made once for all of them. */
export interface CommonInfo {
  readonly heartbeatMs: number;
  readonly managers: readonly { readonly nodeId: string; readonly addr: string }[];
  readonly cluster: Cluster | undefined;
  /** Of period and managers. Equal for equal content. */
  readonly text: string;
}

export function commonInfo(view: StoreView, sessionCount: number): CommonInfo {
  const info = { heartbeatMs: heartbeatMs(view, sessionCount), managers: managerAddresses(view) };
  return { ...info, cluster: view.list("cluster")[0], text: JSON.stringify(info) };
}
