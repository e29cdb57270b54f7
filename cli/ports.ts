/**
 * Port words: "8080:80/tcp", ranges, host addresses, and the long form "published=8080,target=80,mode=host". Pure; used by
 * `service create`, `run` and the Compose loader.
 */
import { ClusterError } from "../common/errors.ts";
import type { PortConfig, PortProtocol } from "../model/specs.ts";
import { splitCsv } from "./flag-values.ts";

const PORT_MAX = 65535;
const PORT_RANGE_MAX = 10_000;
const PROTOCOLS: readonly PortProtocol[] = ["tcp", "udp", "sctp"];

function refuse(text: string, why: string): ClusterError {
  return new ClusterError("invalid_argument", `Invalid port "${text}": ${why}`);
}

function portRange(text: string, part: string): readonly number[] {
  const match = /^(\d{1,5})(?:-(\d{1,5}))?$/.exec(part);
  const first = Number(match?.[1]);
  const last = Number(match?.[2] ?? match?.[1]);
  if (match === null || first < 1 || last > PORT_MAX || last < first || last - first >= PORT_RANGE_MAX) {
    throw refuse(text, `"${part}" is not a port or range from 1 to ${PORT_MAX}`);
  }
  return Array.from({ length: last - first + 1 }, (_, index) => first + index);
}

/** The long form has no ranges, as in docker's. */
function onePort(text: string, part: string): number {
  const [port = 0, ...rest] = portRange(text, part);
  if (rest.length > 0) throw refuse(text, `want one port, got the range "${part}"`);
  return port;
}

function protocolOf(text: string, word: string): PortProtocol {
  const found = PROTOCOLS.find((each) => each === word.toLowerCase());
  if (found === undefined) throw refuse(text, `protocol must be tcp, udp or sctp, got "${word}"`);
  return found;
}

export interface PortBindingWords {
  readonly hostIp: string;
  /** Absent: chosen by the daemon. */
  readonly published: number | undefined;
  readonly target: number;
  readonly protocol: PortProtocol;
}

/** The short form, one element a port: "[IP:][PUBLISHED[-END]:]TARGET[-END][/PROTOCOL]". */
export function parseShortPort(text: string): readonly PortBindingWords[] {
  const [, ports = "", protocolWord = "tcp"] = /^([^/]*)(?:\/(.*))?$/s.exec(text) ?? [];
  const protocol = protocolOf(text, protocolWord);
  const match = /^(?:(?:(\[[0-9a-fA-F:.]+\]|[^:[\]]*):)?([^:]*):)?([^:]+)$/.exec(ports);
  if (match === null) throw refuse(text, 'expected "[IP:][PUBLISHED:]TARGET[/PROTOCOL]"');
  const [, ip = "", publishedPart = "", targetPart = ""] = match;
  const targets = portRange(text, targetPart);
  const published = publishedPart === "" ? undefined : portRange(text, publishedPart);
  if (published !== undefined && published.length !== targets.length) {
    throw refuse(text, "the two ranges must be of equal length");
  }
  const hostIp = ip.replace(/^\[|\]$/g, "");
  return targets.map((target, index) => ({ hostIp, published: published?.[index], target, protocol }));
}

function parseLongPort(text: string): PortConfig {
  const fields = new Map<string, string>();
  for (const field of splitCsv("publish", text)) {
    const [, key = "", value = ""] = /^\s*([^=]+?)\s*=\s*(.*?)\s*$/.exec(field) ?? [];
    if (!["protocol", "mode", "target", "published"].includes(key.toLowerCase())) {
      throw refuse(text, `"${field}" is not one of protocol=, mode=, target=, published=`);
    }
    fields.set(key.toLowerCase(), value);
  }
  const target = onePort(text, fields.get("target") ?? "");
  const published = fields.get("published");
  const mode = fields.get("mode") ?? "ingress";
  if (mode !== "ingress" && mode !== "host")
    throw refuse(text, `mode must be ingress or host, got "${mode}"`);
  return {
    Protocol: protocolOf(text, fields.get("protocol") ?? "tcp"),
    TargetPort: target,
    ...(published === undefined ? {} : { PublishedPort: onePort(text, published) }),
    PublishMode: mode,
  };
}

/** `service create -p`: short or long form. */
export function parseServicePort(text: string): readonly PortConfig[] {
  if (text.includes("=")) return [parseLongPort(text)];
  return parseShortPort(text).map((port) => {
    if (port.hostIp !== "") throw refuse(text, "a service port cannot be bound to one address");
    return {
      Protocol: port.protocol,
      TargetPort: port.target,
      ...(port.published === undefined ? {} : { PublishedPort: port.published }),
      PublishMode: "ingress",
    };
  });
}

/** "80/tcp", for `--publish-rm`, container inspect and `shoal port`. */
export function portKey(target: number, protocol: string): string {
  return `${target}/${protocol}`;
}

/** The PORTS cell of `service ls`: "*:8080->80/tcp". */
export function servicePortsText(ports: readonly PortConfig[] | undefined): string {
  return (ports ?? [])
    .filter((port) => port.PublishMode !== "host" && (port.PublishedPort ?? 0) > 0)
    .map((port) => `*:${port.PublishedPort}->${port.TargetPort}/${port.Protocol ?? "tcp"}`)
    .join(", ");
}
