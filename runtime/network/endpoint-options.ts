/** Docker's options of one container on one network (DriverOpts of its endpoint). Pure. */
import { ClusterError } from "../../common/errors.ts";
import type { EndpointSettings } from "../../model/engine.ts";

const INTERFACE_NAME = "com.docker.network.endpoint.ifname";
const SYSCTLS = "com.docker.network.endpoint.sysctls";
/** IFNAMSIZ without its end. */
const INTERFACE_NAME_BYTES_MAX = 15;

export interface EndpointOptions {
  /** Of the interface in the container. Absent: the first of eth0, eth1… that is free. */
  readonly interfaceName?: string;
  /** Settings of the interface: path below /proc/sys/net with IFNAME in place of its name, and value. */
  readonly sysctls: readonly { readonly path: string; readonly value: string }[];
}

function parseInterfaceName(name: string): string {
  const isName = /^[^\s/:%]+$/.test(name) && name !== "." && name !== ".." && name !== "lo";
  if (!isName || Buffer.byteLength(name) > INTERFACE_NAME_BYTES_MAX)
    throw new ClusterError(
      "invalid_argument",
      `invalid endpoint option ${INTERFACE_NAME}: must be the name of an interface of at most ${INTERFACE_NAME_BYTES_MAX} bytes, got "${name}"`,
    );
  return name;
}

function parseSysctl(text: string): EndpointOptions["sysctls"][number] {
  const [, family, kind, name, value] =
    /^net\.(ipv4|ipv6|mpls)\.(conf|neigh)\.IFNAME\.([A-Za-z0-9_-]+)=(.*)$/.exec(text) ?? [];
  const isUnknown = kind === undefined || (family === "mpls" && kind === "neigh");
  if (isUnknown || value === undefined)
    throw new ClusterError(
      "invalid_argument",
      `invalid endpoint option ${SYSCTLS}: must be like "net.ipv4.conf.IFNAME.forwarding=1", got "${text}"`,
    );
  return { path: `${family}/${kind}/IFNAME/${name}`, value };
}

export function endpointOptions({ DriverOpts }: Pick<EndpointSettings, "DriverOpts">): EndpointOptions {
  const name = DriverOpts?.[INTERFACE_NAME] ?? "";
  const sysctls = DriverOpts?.[SYSCTLS] ?? "";
  return {
    ...(name === "" ? {} : { interfaceName: parseInterfaceName(name) }),
    sysctls: sysctls === "" ? [] : sysctls.split(",").map((each) => parseSysctl(each.trim())),
  };
}
