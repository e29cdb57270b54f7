/**
 * Where a registry's name leads: hosts in the order they are asked, over TLS or plain. Mirrors come first and are only read
 * from; what they give is checked by digest, so they need no trust. Loopback may be plain, as Docker allows it.
 */
import { readdirSync, readFileSync } from "node:fs";
import { isIP } from "node:net";
import path from "node:path";
import { ClusterError } from "../../common/errors.ts";
import { DEFAULT_DOMAIN } from "../../model/image-reference.ts";

export interface RegistryConfig {
  /** "host", "host:port" or "10.0.0.0/8": may be plain HTTP or have a certificate that nobody vouches for. */
  readonly insecure: readonly string[];
  /** Mirrors' URLs by registry ("docker.io"), in order. */
  readonly mirrors: Readonly<Record<string, readonly string[]>>;
  /** Folders with HOST[:PORT]/*.crt. */
  readonly certificateFolders: readonly string[];
}

export const DEFAULT_REGISTRY_CONFIG: RegistryConfig = {
  insecure: [],
  mirrors: {},
  certificateFolders: ["/etc/shoal/certs.d", "/etc/docker/certs.d"],
};

export interface RegistryEndpoint {
  /** Without a path: "https://registry-1.docker.io". */
  readonly url: string;
  readonly isMirror: boolean;
  /** False: any certificate will do. */
  readonly verifiesTls: boolean;
  readonly certificates: readonly string[];
}

const DOCKER_HUB_URL = "https://registry-1.docker.io";

function addressNumber(address: string): number {
  return address.split(".").reduce((sum, part) => sum * 256 + Number(part), 0);
}

/** Whether an IPv4 address is in "10.0.0.0/8". */
function isInNetwork(address: string, network: string): boolean {
  const [base = "", bits = ""] = network.split("/");
  if (isIP(base) !== 4 || isIP(address) !== 4 || !/^\d+$/.test(bits) || Number(bits) > 32) return false;
  const size = 2 ** (32 - Number(bits));
  return Math.floor(addressNumber(address) / size) === Math.floor(addressNumber(base) / size);
}

function hostName(domain: string): string {
  return domain.replace(/:\d+$/, "").replace(/^\[(.*)\]$/, "$1");
}

export function isInsecure(domain: string, config: RegistryConfig): boolean {
  const host = hostName(domain);
  if (host === "localhost" || host === "::1" || isInNetwork(host, "127.0.0.0/8")) return true;
  return config.insecure.some((each) => each === domain || each === host || isInNetwork(host, each));
}

function certificatesOf(domain: string, config: RegistryConfig): readonly string[] {
  for (const folder of config.certificateFolders) {
    const own = path.join(folder, domain);
    try {
      const names = readdirSync(own).filter((name) => name.endsWith(".crt"));
      return names.map((name) => readFileSync(path.join(own, name), "utf8"));
    } catch {
      // No folder for this host.
      continue;
    }
  }
  return [];
}

function mirrorEndpoint(url: string, config: RegistryConfig): RegistryEndpoint {
  let parsed: URL;
  try {
    parsed = new URL(url);
  } catch {
    throw new ClusterError("invalid_argument", `Cannot use registry mirror: want a URL, got "${url}"`);
  }
  return {
    url: parsed.origin,
    isMirror: true,
    verifiesTls: !isInsecure(parsed.host, config),
    certificates: certificatesOf(parsed.host, config),
  };
}

/** Hosts to ask for `domain`; with `forWriting` without mirrors. */
export function endpointsOf(
  domain: string,
  config: RegistryConfig,
  forWriting = false,
): readonly RegistryEndpoint[] {
  const mirrors = forWriting ? [] : (config.mirrors[domain] ?? []).map((url) => mirrorEndpoint(url, config));
  const isFree = isInsecure(domain, config);
  const secure: RegistryEndpoint = {
    url: domain === DEFAULT_DOMAIN ? DOCKER_HUB_URL : `https://${domain}`,
    isMirror: false,
    verifiesTls: !isFree,
    certificates: certificatesOf(domain, config),
  };
  return isFree ? [...mirrors, secure, { ...secure, url: `http://${domain}` }] : [...mirrors, secure];
}
