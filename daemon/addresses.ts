/**
 * Which addresses a node listens on and tells others: host:port parsing, interface names, and Docker's choice of a
 * default.
 */
import { lookup } from "node:dns/promises";
import { once } from "node:events";
import { createServer, isIP } from "node:net";
import { networkInterfaces } from "node:os";
import { ClusterError } from "../common/errors.ts";
import { DEFAULT_CLUSTER_PORT } from "./options.ts";

export interface HostPort {
  readonly host: string;
  readonly port: number;
}

/** "host", "host:port", "[v6]:port" or ":port". `field` names what was given, for the error. */
export function parseHostPort(
  text: string,
  field: string,
  defaultPort: number = DEFAULT_CLUSTER_PORT,
): HostPort {
  const match = /^(\[[^\]]+\]|[^:]*)(?::(\d{1,5}))?$/.exec(text);
  const bare = isIP(text) === 6 ? { host: text, port: defaultPort } : undefined;
  if (bare !== undefined) return bare;
  const port = match?.[2] === undefined ? defaultPort : Number(match[2]);
  if (match === null || port < 1 || port > 65535) {
    throw new ClusterError("invalid_argument", `${field} must be ADDRESS or ADDRESS:PORT, got "${text}"`);
  }
  return { host: (match[1] ?? "").replace(/^\[|\]$/g, ""), port };
}

export function formatHostPort({ host, port }: HostPort): string {
  return isIP(host) === 6 ? `[${host}]:${port}` : `${host}:${port}`;
}

interface Candidate {
  readonly name: string;
  readonly address: string;
}

function candidates(): readonly Candidate[] {
  return Object.entries(networkInterfaces()).flatMap(([name, addresses]) =>
    (addresses ?? [])
      .filter((each) => each.family === "IPv4" && !each.internal && !isOwnInterface(name))
      .map((each) => ({ name, address: each.address })),
  );
}

/**
 * Interfaces that container engines make, this one included, are never how other machines reach us. `sm…` and `sl…` are the
 * mesh's and the local networks', behind which stands the tag of a daemon: maybe one that ended without taking them away.
 */
export function isOwnInterface(name: string): boolean {
  return /^(?:docker|br-|veth|sh|smx-|s[ml][0-9a-f]{4}-|vx|ov|cni|virbr)/.test(name);
}

/** The first IPv4 address of the interface, if `text` names one; else the text's address, resolved. */
async function addressOf(text: string, field: string): Promise<string> {
  if (isIP(text) !== 0) return text;
  const ofInterface = networkInterfaces()[text]?.find((each) => each.family === "IPv4");
  if (ofInterface !== undefined) return ofInterface.address;
  try {
    return (await lookup(text, { family: 4 })).address;
  } catch (caught) {
    throw new ClusterError(
      "invalid_argument",
      `${field} must be an IP address, network interface, or resolvable name, got "${text}"`,
      { cause: caught },
    );
  }
}

/**
 * The address that other nodes reach this one at: what was asked for, else the listen address if it is a definite one,
 * else the machine's only address. Several: refused with Docker's text.
 */
export async function advertiseAddress(asked: string, listen: HostPort): Promise<HostPort> {
  if (asked !== "") {
    const { host, port } = parseHostPort(asked, "advertise-addr", listen.port);
    return { host: await addressOf(host, "advertise-addr"), port };
  }
  if (listen.host !== "" && listen.host !== "0.0.0.0" && listen.host !== "::") {
    return { host: await addressOf(listen.host, "listen-addr"), port: listen.port };
  }
  const found = candidates();
  const [first, second] = found;
  if (first === undefined) {
    throw new ClusterError(
      "invalid_argument",
      "could not choose an IP address to advertise since this system has no usable IPv4 address - specify one with --advertise-addr",
    );
  }
  if (second !== undefined) {
    const list = found.map((each) => `${each.address} on interface ${each.name}`).join(" and ");
    throw new ClusterError(
      "invalid_argument",
      `could not choose an IP address to advertise since this system has multiple addresses (${list}) - specify one with --advertise-addr`,
    );
  }
  return { host: first.address, port: listen.port };
}

/** Where VXLAN packets for this node go: what was asked for, else the advertised address. */
async function dataPathAddress(asked: string, advertised: string): Promise<string> {
  return asked === "" ? advertised : addressOf(asked, "data-path-addr");
}

/**
 * Where a node reaches the manager at `addr`: itself where it listens, since the address that it advertises may be that of
 * a NAT which only others get through.
 */
export function dialAddress(
  addr: string,
  own: { readonly advertiseAddr: string; readonly listenAddr: string },
): string {
  if (addr !== own.advertiseAddr) return addr;
  const { host, port } = parseHostPort(own.listenAddr, "listen-addr");
  if (host === "" || host === "0.0.0.0") return formatHostPort({ host: "127.0.0.1", port });
  return formatHostPort({ host: host === "::" ? "::1" : host, port });
}

/** "host:port" where a member listens and is reached; the last, a host alone, is where its containers' traffic goes. */
export interface MemberAddresses {
  readonly listenAddr: string;
  readonly advertiseAddr: string;
  readonly dataPathAddr: string;
}

/** What a request to make or join a cluster says of them, completed by the daemon's options. */
export async function memberAddresses(
  request: MemberAddresses,
  daemon: MemberAddresses,
): Promise<MemberAddresses> {
  // Clients always send a listen address: Docker's default stands for "not given".
  const isDefault = request.listenAddr === "" || request.listenAddr === "0.0.0.0:2377";
  const listen = parseHostPort(isDefault ? daemon.listenAddr : request.listenAddr, "listen-addr");
  const advertised = await advertiseAddress(request.advertiseAddr || daemon.advertiseAddr, listen);
  return {
    listenAddr: formatHostPort(listen),
    advertiseAddr: formatHostPort(advertised),
    dataPathAddr: await dataPathAddress(request.dataPathAddr || daemon.dataPathAddr, advertised.host),
  };
}

/** What of the node's own addresses may be the reason that no manager was reached in time. */
export function joinTimeout(own: {
  readonly advertiseAddr: string;
  readonly listenAddr: string;
  readonly managers: readonly string[];
}): ClusterError {
  const { host } = parseHostPort(own.advertiseAddr, "advertise-addr");
  const isLocal = Object.values(networkInterfaces()).some((all) =>
    all?.some((each) => each.address === host),
  );
  const elsewhere = isLocal ? "" : " (no address of this machine: others must reach it there)";
  return new ClusterError(
    "unavailable",
    `Timeout was reached before node joined: no session with a manager at ${own.managers.join(", ")}; ` +
      `advertise-addr is "${own.advertiseAddr}"${elsewhere}, listen-addr is "${own.listenAddr}". ` +
      "Check that each can be reached from the other side",
  );
}

/**
 * Rejects as listening there will. To be asked before a manager makes this machine a node: one that can't listen then never
 * comes, and stays in the list of nodes.
 */
export async function checkListen(listenAddr: string): Promise<void> {
  const { host, port } = parseHostPort(listenAddr, "listen-addr");
  const server = createServer();
  try {
    server.listen(port, host || "0.0.0.0");
    await once(server, "listening");
  } catch (caught) {
    throw listenError(listenAddr, caught);
  } finally {
    await new Promise((resolve) => server.close(resolve));
  }
}

/** Names the flag when the cluster's port can't be opened. */
export function listenError(listenAddr: string, caught: unknown): ClusterError {
  const { message } = ClusterError.from(caught);
  return new ClusterError(
    "invalid_argument",
    `listen-addr must be a free address of this machine, got "${listenAddr}": ${message}`,
    { cause: caught },
  );
}
