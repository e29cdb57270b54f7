/**
 * Where a registry's name leads: hosts in the order they are asked, over TLS or plain. Mirrors come first and are only read
 * from; what they give is checked by digest, so they need no trust. Loopback may be plain, as Docker allows it.
 */
import { readdirSync, readFileSync } from "node:fs";
import path from "node:path";
import { isInBlock } from "../../common/addresses.ts";
import { ClusterError } from "../../common/errors.ts";
import { DEFAULT_DOMAIN } from "../../model/image-reference.ts";

export interface RegistryConfig {
  /** "host", "host:port" or "10.0.0.0/8": may be plain HTTP or have a certificate that nobody vouches for. */
  readonly insecure: readonly string[];
  /** Mirrors' URLs by registry ("docker.io"), in order; "https://name:password@host" for one that wants to know who asks. */
  readonly mirrors: Readonly<Record<string, readonly string[]>>;
  /** Folders with HOST[:PORT]/*.crt, and *.cert with *.key for hosts that want a certificate of the client. */
  readonly certificateFolders: readonly string[];
}

export const DEFAULT_REGISTRY_CONFIG: RegistryConfig = {
  insecure: [],
  mirrors: {},
  certificateFolders: ["/etc/shoal/certs.d", "/etc/docker/certs.d"],
};

/** How a host proves who it is, and how we do. */
export interface HostTrust {
  /** False: any certificate will do. */
  readonly verifiesTls: boolean;
  /** PEM; they count beside the machine's own. */
  readonly authorities: readonly string[];
  /** PEM, as many keys as certificates. */
  readonly clientCertificates: readonly string[];
  readonly clientKeys: readonly string[];
}

export interface RegistryEndpoint {
  /** Without a path: "https://registry-1.docker.io". */
  readonly url: string;
  /** As its certificates' folder is named. */
  readonly host: string;
  /** The registry that it is a mirror of, or undefined: it is the registry. */
  readonly mirrorOf: string | undefined;
  /** Those in a mirror's URL. The user's are for the registry only. */
  readonly ownCredentials: { readonly username: string; readonly password: string } | undefined;
  /** Of any host: the registry may send to others. */
  readonly trustOf: (host: string) => HostTrust;
}

const DOCKER_HUB_URL = "https://registry-1.docker.io";

function hostName(domain: string): string {
  return domain.replace(/:\d+$/, "").replace(/^\[(.*)\]$/, "$1");
}

export function isInsecure(domain: string, config: RegistryConfig): boolean {
  const host = hostName(domain);
  if (host === "localhost" || host === "::1" || isInBlock(host, "127.0.0.0/8")) return true;
  return config.insecure.some((each) => each === domain || each === host || isInBlock(host, each));
}

/** Files of the first folder that has one for this host. */
function certificateFiles(domain: string, config: RegistryConfig): ReadonlyMap<string, string> {
  for (const folder of config.certificateFolders) {
    const own = path.join(folder, domain);
    try {
      const names = readdirSync(own).filter((name) => /\.(?:crt|cert|key)$/.test(name));
      return new Map(names.sort().map((name) => [name, readFileSync(path.join(own, name), "utf8")]));
    } catch {
      // No folder for this host.
      continue;
    }
  }
  return new Map();
}

function trustOf(domain: string, config: RegistryConfig): HostTrust {
  const files = certificateFiles(domain, config);
  const named = (end: string): readonly (readonly [string, string])[] =>
    [...files]
      .filter(([name]) => name.endsWith(end))
      .map(([name, text]) => [name.slice(0, -end.length), text]);
  const pairs = named(".cert").map(([name, certificate]) => {
    const key = files.get(`${name}.key`);
    if (key !== undefined) return { certificate, key };
    throw new ClusterError(
      "failed_precondition",
      `missing key ${name}.key for client certificate ${name}.cert of ${domain}. CA certificates must use the extension .crt`,
    );
  });
  return {
    verifiesTls: !isInsecure(domain, config),
    authorities: named(".crt").map(([, text]) => text),
    clientCertificates: pairs.map(({ certificate }) => certificate),
    clientKeys: pairs.map(({ key }) => key),
  };
}

/** A URL to be shown: who asks, and the password, are not for all to see. */
export function withoutUser(url: string): string {
  return url.replace(/\/\/[^/@]*@/, "//xxxxx:xxxxx@");
}

function mirrorEndpoint(url: string, domain: string, config: RegistryConfig): RegistryEndpoint {
  const parsed = URL.parse(url);
  if (
    parsed === null ||
    !/^https?:$/.test(parsed.protocol) ||
    parsed.pathname !== "/" ||
    parsed.search !== ""
  ) {
    throw new ClusterError(
      "invalid_argument",
      `Cannot use registry mirror: want an http or https URL without a path, got "${withoutUser(url)}"`,
    );
  }
  const [username, password] = [parsed.username, parsed.password].map(decodeURIComponent);
  return {
    url: parsed.origin,
    host: parsed.host,
    mirrorOf: domain,
    ownCredentials:
      username === undefined || username === "" ? undefined : { username, password: password ?? "" },
    trustOf: (host) => trustOf(host, config),
  };
}

/** Hosts to ask for `domain`; with `forWriting` without mirrors. */
export function endpointsOf(
  domain: string,
  config: RegistryConfig,
  forWriting = false,
): readonly RegistryEndpoint[] {
  const urls = forWriting ? [] : (config.mirrors[domain] ?? []);
  const mirrors = urls.map((url) => mirrorEndpoint(url, domain, config));
  const secure: RegistryEndpoint = {
    url: domain === DEFAULT_DOMAIN ? DOCKER_HUB_URL : `https://${domain}`,
    host: domain,
    mirrorOf: undefined,
    ownCredentials: undefined,
    trustOf: (host) => trustOf(host, config),
  };
  const plain = isInsecure(domain, config) ? [{ ...secure, url: `http://${domain}` }] : [];
  return [...mirrors, secure, ...plain];
}
