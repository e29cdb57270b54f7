/** What of a container decides whether and where it can be connected. Pure. */
import { ClusterError } from "../../common/errors.ts";
import type { ContainerDirectory } from "../ports.ts";

/** A container that runs or not, as the lifecycle knows it. */
export type Target = ReturnType<ContainerDirectory["find"]>;

/** Key of the container's end on the network, by either of its names. */
export function endpointOn({ endpoints }: Target, id: string, name: string): string | undefined {
  const found = Object.entries(endpoints).find(
    ([key, { NetworkID }]) => key === name || key === id || NetworkID === id,
  );
  return found?.[0];
}

/** Throws permission_denied for a container that can join no network while it is as it is. */
export function checkJoinable({ mode, pid, isNetworked }: Target): void {
  const isShared = mode === "host" || mode.startsWith("container:");
  if (!isShared && (pid === 0 || isNetworked)) return;
  const refuse = (why: string): never => {
    throw new ClusterError("permission_denied", why);
  };
  if (isShared)
    refuse(
      "container sharing network namespace with another container or host cannot be connected to any other network",
    );
  if (mode === "none")
    refuse(
      "container cannot be connected to multiple networks with one of the networks in private (none) mode",
    );
  refuse("container cannot be connected to another network: its service says which it is on");
}
