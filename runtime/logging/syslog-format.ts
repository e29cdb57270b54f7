/** Lines as syslog messages, in the four forms of Docker's driver. Pure. */
import { syslogFacility } from "../../model/log-drivers.ts";
import type { LogAddress } from "../../model/log-addresses.ts";
import type { LogMessage } from "./log-message.ts";
import type { LogTarget } from "./log-target.ts";

/** RFC 5424, section 6.2.1. */
const SEVERITY = { stdout: 6, stderr: 3 } as const;
const FACILITY_FACTOR = 8;
const MONTHS = "Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split(" ");
const NEWLINE = Buffer.from("\n");

const two = (value: number): string => String(value).padStart(2, "0");

/** RFC 3164's: local time without a year. */
function shortTime(ms: number): string {
  const time = new Date(ms);
  const clock = [time.getHours(), time.getMinutes(), time.getSeconds()].map(two).join(":");
  return `${MONTHS[time.getMonth()]} ${String(time.getDate()).padStart(2)} ${clock}`;
}

/** RFC 5424's, to the second or the microsecond. */
function longTime(timestamp: string, digits: 0 | 6): string {
  const [seconds = "", fraction = ""] = timestamp.replace("Z", "").split(".");
  return digits === 0 ? `${seconds}Z` : `${seconds}.${fraction.padEnd(digits, "0").slice(0, digits)}Z`;
}

/** A field between spaces: RFC 5424 has "-" for none. */
function field(text: string): string {
  return text === "" ? "-" : text.replace(/\s+/g, "_");
}

function head(message: LogMessage, target: LogTarget, processId: number): string {
  const { options, tag, hostname } = target;
  const priority = syslogFacility(options["syslog-facility"]) * FACILITY_FACTOR + SEVERITY[message.stream];
  const ms = Number(message.nanoseconds / 1_000_000n);
  const format = options["syslog-format"] ?? "";
  switch (format) {
    case "rfc5424":
    case "rfc5424micro": {
      const time = longTime(message.timestamp, format === "rfc5424" ? 0 : 6);
      const name = field(tag);
      return `<${priority}>1 ${time} ${field(hostname)} ${name} ${processId} ${name} - `;
    }
    case "rfc3164":
      return `<${priority}>${shortTime(ms)} ${hostname} ${tag}[${processId}]: `;
    default:
      return `<${priority}>${shortTime(ms)} ${tag}[${processId}]: `;
  }
}

/** Of one line. Empty ones are none: there is nothing for a receiver to show. */
export function syslogMessage(
  message: LogMessage,
  target: LogTarget,
  to: { readonly network: LogAddress["network"]; readonly processId: number },
): readonly Buffer[] {
  if (message.line.length === 0) return [];
  const text = Buffer.concat([Buffer.from(head(message, target, to.processId)), message.line, NEWLINE]);
  const isCounted = to.network === "tls" && (target.options["syslog-format"] ?? "").startsWith("rfc5424");
  // RFC 5425: over TLS a message has its length before it, elsewhere its newline ends it (RFC 6587, section 3.4.2).
  return isCounted ? [Buffer.concat([Buffer.from(`${text.length} `), text])] : [text];
}
