/**
 * The private network of a dev cluster: a bridge in a namespace of its own, one cable to each host's namespace, and one to
 * this machine so that a browser can reach the hosts. Partitions are rules inside that namespace. Nothing but the one
 * cable is visible in this machine's own network.
 */
import { existsSync, readdirSync } from "node:fs";
import { ClusterError } from "../common/errors.ts";
import { mustRun, run } from "./run-command.ts";

const FIRST_OCTET = 10;
/** Far from the start of 10.0.0.0/8, where the cluster's own address pool begins. */
const SECOND_OCTET_MIN = 200;
const SECOND_OCTET_MAX = 250;
const GATEWAY_LAST_OCTET = 254;
const HOST_LAST_OCTET_MIN = 11;

export interface HostPort {
  readonly name: string;
  /** From 0, never reused within a cluster: gives the address and the port's name. */
  readonly index: number;
}

/** "10.213.7": the /24 without its last octet. */
export type Subnet = string;

export function namespaceName(cluster: string, host: string): string {
  return `shoal-dev-${cluster}-${host}`;
}

export function hostAddress(subnet: Subnet, index: number): string {
  return `${subnet}.${HOST_LAST_OCTET_MIN + index}`;
}

function switchName(cluster: string): string {
  return namespaceName(cluster, "switch");
}

function portName(index: number): string {
  return `port${index}`;
}

/** The uplink's name holds the subnet: making the link is what reserves the subnet on this machine. */
function uplinkName(subnet: Subnet): string {
  return `shd-${subnet.split(".").slice(1).join("-")}`;
}

interface LinkJson {
  readonly ifname: string;
  readonly ifalias?: string;
}

async function usedPrefixes(): Promise<string> {
  const { stdout } = await run(["ip", "-4", "route", "show", "table", "all"]);
  return stdout;
}

export function namespaceExists(name: string): boolean {
  return existsSync(`/run/netns/${name}`);
}

/** Names of the cluster's namespaces that exist. */
export function clusterNamespaces(cluster: string): string[] {
  if (!existsSync("/run/netns")) return [];
  const prefix = namespaceName(cluster, "");
  // "shoal-dev-a-" is also a prefix of cluster "a-b"; host names hold no dash.
  return readdirSync("/run/netns").filter(
    (name) => name.startsWith(prefix) && !name.slice(prefix.length).includes("-"),
  );
}

/** Makes the switch and its cable to this machine; the subnet it got. */
export async function createSwitch(cluster: string, wanted: Subnet | undefined): Promise<Subnet> {
  const name = switchName(cluster);
  if (wanted !== undefined && namespaceExists(name)) return wanted;
  await run(["ip", "netns", "del", name]);
  await mustRun(["ip", "netns", "add", name]);
  try {
    const subnet = await createUplink(cluster, name, wanted);
    const inSwitch = [
      "link set lo up",
      "link add br0 type bridge forward_delay 0 stp_state 0",
      "link set uplink master br0",
      "link set uplink up",
      "link set br0 up",
    ];
    await mustRun(["ip", "-n", name, "-batch", "-"], { input: `${inSwitch.join("\n")}\n` });
    return subnet;
  } catch (caught) {
    await run(["ip", "netns", "del", name]);
    throw caught;
  }
}

async function createUplink(
  cluster: string,
  switchNamespace: string,
  wanted: Subnet | undefined,
): Promise<Subnet> {
  const used = await usedPrefixes();
  const start = Array.from(cluster).reduce((sum, char) => sum * 31 + (char.codePointAt(0) ?? 0), 7) % 12_800;
  const span = (SECOND_OCTET_MAX - SECOND_OCTET_MIN + 1) * 256;
  for (let step = 0; step < span; step += 1) {
    const number = (start + step) % span;
    const subnet = wanted ?? `${FIRST_OCTET}.${SECOND_OCTET_MIN + Math.floor(number / 256)}.${number % 256}`;
    if (wanted === undefined && used.includes(`${subnet}.`)) continue;
    const link = uplinkName(subnet);
    const made = await run([
      "ip",
      "link",
      "add",
      link,
      "type",
      "veth",
      "peer",
      "name",
      "uplink",
      "netns",
      switchNamespace,
    ]);
    if (made.status !== 0) {
      if (wanted === undefined && made.stderr.includes("File exists")) continue;
      throw new ClusterError("failed_precondition", `Cannot make link "${link}": ${made.stderr.trim()}`);
    }
    const commands = [
      `link set ${link} alias shoal-dev:${cluster}`,
      `addr add ${subnet}.${GATEWAY_LAST_OCTET}/24 dev ${link}`,
      `link set ${link} up`,
    ];
    await mustRun(["ip", "-batch", "-"], { input: `${commands.join("\n")}\n` });
    return subnet;
  }
  throw new ClusterError("resource_exhausted", "Cannot find a free 10.x.y.0/24 network on this machine");
}

/** Makes the host's namespace with its cable; a namespace that is there is made anew. */
export async function plugHost(cluster: string, subnet: Subnet, port: HostPort): Promise<void> {
  const name = namespaceName(cluster, port.name);
  const [theSwitch, plug] = [switchName(cluster), portName(port.index)];
  await run(["ip", "-n", theSwitch, "link", "del", plug]);
  if (namespaceExists(name)) await mustRun(["ip", "netns", "del", name]);
  await mustRun(["ip", "netns", "add", name]);
  await mustRun([
    "ip",
    "-n",
    theSwitch,
    "link",
    "add",
    plug,
    "type",
    "veth",
    "peer",
    "name",
    "eth0",
    "netns",
    name,
  ]);
  const address = hostAddress(subnet, port.index);
  const inHost = ["link set lo up", `addr add ${address}/24 dev eth0`, "link set eth0 up"];
  await mustRun(["ip", "-n", name, "-batch", "-"], { input: `${inHost.join("\n")}\n` });
  await mustRun(["ip", "-n", theSwitch, "-batch", "-"], {
    input: `link set ${plug} master br0\nlink set ${plug} up\n`,
  });
}

/** Pulls the cable and drops the namespace, with every rule and link in it. Its processes must be dead. */
export async function unplugHost(cluster: string, port: HostPort): Promise<void> {
  await run(["ip", "-n", switchName(cluster), "link", "del", portName(port.index)]);
  const name = namespaceName(cluster, port.name);
  if (namespaceExists(name)) await mustRun(["ip", "netns", "del", name]);
}

/** Lets no packet pass between hosts of different groups. Replaces an earlier partition. */
export async function partitionPorts(
  cluster: string,
  groups: readonly (readonly HostPort[])[],
): Promise<void> {
  const set = (ports: readonly HostPort[]): string =>
    `{ ${ports.map((port) => `"${portName(port.index)}"`).join(", ")} }`;
  const rules: string[] = [];
  for (const [from, left] of groups.entries()) {
    for (const [to, right] of groups.entries()) {
      if (from !== to && left.length > 0 && right.length > 0)
        rules.push(`    iifname ${set(left)} oifname ${set(right)} drop`);
    }
  }
  const table = [
    "table bridge partition {",
    "  chain forward {",
    "    type filter hook forward priority 0; policy accept;",
    ...rules,
    "  }",
    "}",
  ];
  const input = `add table bridge partition\ndelete table bridge partition\n${table.join("\n")}\n`;
  await mustRun(["nsenter", `--net=/run/netns/${switchName(cluster)}`, "nft", "-f", "-"], { input });
}

export async function healPorts(cluster: string): Promise<void> {
  const input = "add table bridge partition\ndelete table bridge partition\n";
  await mustRun(["nsenter", `--net=/run/netns/${switchName(cluster)}`, "nft", "-f", "-"], { input });
}

/** Removes the switch and the cable to this machine, found by its label even if all files are lost. */
export async function removeSwitch(cluster: string): Promise<void> {
  const name = switchName(cluster);
  if (namespaceExists(name)) await mustRun(["ip", "netns", "del", name]);
  const links = JSON.parse((await mustRun(["ip", "-j", "link", "show"])) || "[]") as readonly LinkJson[];
  for (const link of links) {
    if (link.ifalias === `shoal-dev:${cluster}`) await run(["ip", "link", "del", link.ifname]);
  }
}
