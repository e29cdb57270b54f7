/**
 * hosts, hostname and resolv.conf of a container: real files in its state folder, bound into it, so that they can
 * change while it runs. Each start writes them anew, so they need not last: in memory a file costs a tenth of one on a
 * disk. Written synchronously, since that takes less time than asking a thread for it.
 */
import * as fs from "node:fs";
import path from "node:path";
import type { AttachedNetworks, HostConfig } from "../../model/engine.ts";
import type { ContainerNetworkResult } from "../ports.ts";

const HOSTS_HEAD = [
  "127.0.0.1\tlocalhost",
  "::1\tlocalhost ip6-localhost ip6-loopback",
  "fe00::\tip6-localnet",
  "ff00::\tip6-mcastprefix",
  "ff02::1\tip6-allnodes",
  "ff02::2\tip6-allrouters",
];

/**
 * Written in place: a bind follows the file, not its name. Never truncated first: ext4 takes that for a replacement and
 * begins to write the new content to the disk when the file is closed.
 */
function rewrite(file: string, text: string): void {
  const bytes = Buffer.from(text);
  const fd = fs.openSync(file, fs.constants.O_WRONLY | fs.constants.O_CREAT, 0o644);
  try {
    const { size } = fs.fstatSync(fd);
    fs.writeFileSync(fd, bytes);
    if (size > bytes.byteLength) fs.ftruncateSync(fd, bytes.byteLength);
  } finally {
    fs.closeSync(fd);
  }
}

function touch(file: string): void {
  fs.closeSync(fs.openSync(file, fs.constants.O_WRONLY | fs.constants.O_CREAT, 0o644));
}

/** "" if there is none. */
function hostFile(file: string): string {
  try {
    return fs.readFileSync(file, "utf8");
  } catch {
    return "";
  }
}

function hostLines(hosts: ContainerNetworkResult["hosts"]): string {
  return hosts.map(({ ip, names }) => `${ip}\t${names.join(" ")}\n`).join("");
}

function hostsText(hosts: ContainerNetworkResult["hosts"]): string {
  return `${HOSTS_HEAD.join("\n")}\n${hostLines(hosts)}`;
}

/** The host's own file with `added` at its end. */
function hostHostsText(added: ContainerNetworkResult["hosts"]): string {
  const own = hostFile("/etc/hosts");
  return `${own === "" ? hostsText([]) : own}${hostLines(added)}`;
}

function resolvText(config: {
  readonly nameservers: readonly string[];
  readonly searchDomains: readonly string[];
  readonly dnsOptions: readonly string[];
}): string {
  const lines = config.nameservers.map((each) => `nameserver ${each}`);
  if (config.searchDomains.length > 0) lines.push(`search ${config.searchDomains.join(" ")}`);
  if (config.dnsOptions.length > 0) lines.push(`options ${config.dnsOptions.join(" ")}`);
  return `${lines.join("\n")}\n`;
}

/** The host's own, for containers that use its network. */
function hostResolv(): string {
  return hostFile("/etc/resolv.conf");
}

/** `--add-host` of containers whose network is not from a local network: "name:ip" or "ip name…" as task specs have it. */
function extraHosts(hostConfig: HostConfig): readonly { ip: string; names: readonly string[] }[] {
  return (hostConfig.ExtraHosts ?? []).flatMap((entry) => {
    const words = entry.trim().split(/\s+/);
    const [first = ""] = words;
    if (words.length > 1) return [{ ip: first, names: words.slice(1) }];
    const at = entry.search(/[:=]/);
    return at < 0 ? [] : [{ ip: entry.slice(at + 1), names: [entry.slice(0, at)] }];
  });
}

export const GENERATED_FILES: readonly string[] = ["resolv.conf", "hostname", "hosts"];

export class ContainerFiles {
  readonly folder: string;

  constructor(folder: string) {
    this.folder = folder;
  }

  /**
   * Before the network is known: the files must be there to be bound. Those that depend on it stay empty if it comes
   * later.
   */
  prepare(hostname: string, hostConfig: HostConfig, options: { readonly isNamedLater: boolean }): void {
    rewrite(path.join(this.folder, "hostname"), `${hostname}\n`);
    if (options.isNamedLater) {
      for (const name of ["hosts", "resolv.conf"]) touch(path.join(this.folder, name));
      return;
    }
    const extra = extraHosts(hostConfig);
    rewrite(
      path.join(this.folder, "hosts"),
      hostConfig.NetworkMode === "host" ? hostHostsText(extra) : hostsText(extra),
    );
    rewrite(path.join(this.folder, "resolv.conf"), this.ownResolv(hostConfig) ?? hostResolv());
  }

  networkAttached(result: ContainerNetworkResult): void {
    rewrite(path.join(this.folder, "hosts"), hostsText(result.hosts));
    this.#resolv(result);
  }

  namesChanged(result: AttachedNetworks): void {
    this.#resolv(result);
  }

  /** Lines of addresses that are gone go, those of new ones come at the end. What somebody else wrote there stays, as it does with dockerd. */
  addressesChanged(change: {
    readonly gone: readonly string[];
    readonly added: ContainerNetworkResult["hosts"];
  }): void {
    if (change.gone.length + change.added.length === 0) return;
    const file = path.join(this.folder, "hosts");
    const kept = hostFile(file)
      .split("\n")
      .filter((line) => !change.gone.includes(line.split(/\s/, 1)[0] ?? ""));
    const text = kept.join("\n").replace(/\n*$/, "\n");
    rewrite(file, `${text}${hostLines(change.added)}`);
  }

  taskAttached(attached: AttachedNetworks, hostname: string, hostConfig: HostConfig): void {
    const own = Object.values(attached.endpoints).flatMap((endpoint) =>
      endpoint.IPAddress === undefined || endpoint.IPAddress === ""
        ? []
        : [{ ip: endpoint.IPAddress, names: [hostname] }],
    );
    rewrite(path.join(this.folder, "hosts"), hostsText([...own, ...extraHosts(hostConfig)]));
    this.#resolv(attached);
  }

  /** `--dns` and friends, where no network gives the rest. */
  ownResolv(hostConfig: HostConfig): string | undefined {
    const nameservers = hostConfig.Dns ?? [];
    const searchDomains = hostConfig.DnsSearch ?? [];
    const dnsOptions = hostConfig.DnsOptions ?? [];
    if (nameservers.length + searchDomains.length + dnsOptions.length === 0) return undefined;
    return resolvText({ nameservers, searchDomains, dnsOptions });
  }

  #resolv(attached: AttachedNetworks): void {
    const text = attached.nameservers.length === 0 ? hostResolv() : resolvText(attached);
    rewrite(path.join(this.folder, "resolv.conf"), text);
  }
}
