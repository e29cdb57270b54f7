/**
 * Cluster, nodes, secrets and configs in Docker's JSON. Pure. Keys, secrets and tokens leave only where Docker shows
 * them.
 */
import type { ManagerReachability } from "../../model/cluster-control.ts";
import { NodeState, type Cluster, type Config, type Node, type Secret } from "../../model/objects.ts";
import type { ClusterSpec } from "../../model/specs.ts";
import { metaJson, tlsJson, withLabels } from "./meta.ts";

const SECOND_NS = 1_000_000_000;
const DAY_NS = 24 * 3600 * SECOND_NS;

/** Clients dereference these parts without looking. */
function clusterSpecJson(spec: ClusterSpec): object {
  const { SigningCAKey: _key, ...ca } = spec.CAConfig ?? {};
  return {
    ...withLabels(spec),
    Name: spec.Name || "default",
    Orchestration: { TaskHistoryRetentionLimit: 5, ...spec.Orchestration },
    Raft: {
      SnapshotInterval: 10_000,
      KeepOldSnapshots: 0,
      LogEntriesForSlowFollowers: 500,
      ElectionTick: 10,
      HeartbeatTick: 1,
      ...spec.Raft,
    },
    Dispatcher: { HeartbeatPeriod: 5 * SECOND_NS, ...spec.Dispatcher },
    CAConfig: { NodeCertExpiry: 90 * DAY_NS, ...ca },
    TaskDefaults: spec.TaskDefaults ?? {},
    EncryptionConfig: { AutoLockManagers: false, ...spec.EncryptionConfig },
  };
}

/** As in /info: without the join tokens. */
export function clusterInfoJson(cluster: Cluster): object {
  return {
    ...metaJson(cluster),
    Spec: clusterSpecJson(cluster.spec),
    TLSInfo: tlsJson(cluster.tlsInfo),
    RootRotationInProgress: cluster.rootCa.rotationInProgress ?? false,
    DataPathPort: cluster.dataPathPort,
    DefaultAddrPool: cluster.defaultAddressPool,
    SubnetSize: cluster.subnetSize,
  };
}

export function swarmJson(cluster: Cluster): object {
  const { joinTokens } = cluster.rootCa;
  return {
    ...clusterInfoJson(cluster),
    JoinTokens: { Worker: joinTokens.worker, Manager: joinTokens.manager },
  };
}

export function nodeStateName(state: NodeState): string {
  switch (state) {
    case NodeState.unknown:
      return "unknown";
    case NodeState.down:
      return "down";
    case NodeState.ready:
      return "ready";
    case NodeState.disconnected:
      return "disconnected";
  }
}

export type Reachability = "reachable" | "unreachable" | "unknown";

function reachabilityOf(managers: readonly ManagerReachability[], nodeId: string): Reachability {
  const found = managers.find((manager) => manager.nodeId === nodeId);
  if (found === undefined) return "unknown";
  return found.isReachable ? "reachable" : "unreachable";
}

function managerStatusJson(node: Node, managers: readonly ManagerReachability[]): object | undefined {
  if (node.manager === undefined) return undefined;
  const isLeader = managers.some((manager) => manager.nodeId === node.id && manager.isLeader);
  return {
    ...(isLeader ? { Leader: true } : {}),
    Reachability: reachabilityOf(managers, node.id),
    Addr: node.manager.addr,
  };
}

export function nodeJson(node: Node, managers: readonly ManagerReachability[]): object {
  const { description, spec, status } = node;
  const managerStatus = managerStatusJson(node, managers);
  return {
    ...metaJson(node),
    Spec: withLabels(spec),
    Description:
      description === undefined
        ? { Platform: {}, Resources: {}, Engine: {}, TLSInfo: {} }
        : { ...description, TLSInfo: tlsJson(description.TLSInfo) },
    Status: {
      State: nodeStateName(status.state),
      ...(status.message === "" ? {} : { Message: status.message }),
      Addr: status.addr,
    },
    ...(managerStatus === undefined ? {} : { ManagerStatus: managerStatus }),
  };
}

/** The data of a secret is never shown. */
export function secretJson(secret: Secret): object {
  const { Data: _data, ...spec } = secret.spec;
  return { ...metaJson(secret), Spec: withLabels(spec) };
}

export function configJson(config: Config): object {
  return { ...metaJson(config), Spec: { ...withLabels(config.spec), Data: config.spec.Data ?? "" } };
}
