/** Where log drivers send to: the values of `syslog-address`, `gelf-address` and `fluentd-address`. Pure. */
import { isIPv6 } from "node:net";
import { ClusterError } from "../common/errors.ts";

export type LogNetwork = "udp" | "tcp" | "tls" | "unix" | "unixgram";

export type LogAddress =
  | { readonly network: "udp" | "tcp" | "tls"; readonly host: string; readonly port: number }
  | { readonly network: "unix" | "unixgram"; readonly path: string };

const PORT_MAX = 65_535;
const SYSLOG_PORT = 514;
const FLUENTD_PORT = 24_224;

/** The system's own syslog: a datagram socket wherever there is one. */
const LOCAL_SYSLOG_PATH = "/dev/log";

function refuse(option: string, wanted: string, given: string): never {
  throw new ClusterError("invalid_argument", `invalid value for ${option}: want ${wanted}, got "${given}"`);
}

interface Form {
  readonly option: string;
  /** For errors. */
  readonly wanted: string;
  /** Scheme to network. */
  readonly schemes: Readonly<Record<string, LogNetwork>>;
  /** Where none is given; 0: one must be. */
  readonly defaultPort: number;
}

function parseAddress(given: string, { option, wanted, schemes, defaultPort }: Form): LogAddress {
  const [, scheme = "", rest = ""] = /^([a-z0-9+]+):\/\/(.*)$/s.exec(given) ?? [];
  const network = Object.hasOwn(schemes, scheme) ? schemes[scheme] : undefined;
  if (network === undefined) return refuse(option, wanted, given);
  if (network === "unix" || network === "unixgram") {
    if (!rest.startsWith("/") || rest.includes("\0")) refuse(option, "an absolute path of a socket", given);
    return { network, path: rest };
  }
  const match = /^(?:\[([0-9A-Fa-f:.]+)\]|([^\s:/[\]]+))(?::(\d{1,5}))?\/?$/.exec(rest);
  const host = match?.[1] ?? match?.[2] ?? "";
  const port = match?.[3] === undefined ? defaultPort : Number(match[3]);
  const isBadName = match?.[1] !== undefined && !isIPv6(host);
  if (host === "" || isBadName || port < 1 || port > PORT_MAX) return refuse(option, wanted, given);
  return { network, host, port };
}

/** `syslog-address`; none is the system's own. */
export function parseSyslogAddress(given: string): LogAddress {
  if (given === "") return { network: "unixgram", path: LOCAL_SYSLOG_PATH };
  return parseAddress(given, {
    option: "syslog-address",
    wanted: "udp://HOST:PORT, tcp://HOST:PORT, tcp+tls://HOST:PORT, unix:///PATH or unixgram:///PATH",
    schemes: { udp: "udp", tcp: "tcp", "tcp+tls": "tls", unix: "unix", unixgram: "unixgram" },
    // Docker's, for TLS too; RFC 5425 has 6514.
    defaultPort: SYSLOG_PORT,
  });
}

/** `gelf-address`, which must be given. */
export function parseGelfAddress(given: string): LogAddress {
  return parseAddress(given, {
    option: "gelf-address",
    wanted: "udp://HOST:PORT or tcp://HOST:PORT",
    schemes: { udp: "udp", tcp: "tcp" },
    defaultPort: 0,
  });
}

/** `fluentd-address`; a host without a scheme is reached over TCP. */
export function parseFluentdAddress(given: string): LogAddress {
  return parseAddress(given.includes("://") ? given : `tcp://${given === "" ? "127.0.0.1" : given}`, {
    option: "fluentd-address",
    wanted: "HOST[:PORT], tcp://HOST[:PORT], tls://HOST[:PORT] or unix:///PATH",
    schemes: { tcp: "tcp", tls: "tls", unix: "unix" },
    defaultPort: FLUENTD_PORT,
  });
}
