/**
 * The log drivers that every node has and what each takes, so that a service, a container and a daemon's default are
 * refused alike and before anything is made. What only a machine can tell (a socket, a certificate) is found out there.
 * Pure.
 */
import { ClusterError } from "../common/errors.ts";
import { parseFluentdAddress, parseGelfAddress, parseSyslogAddress } from "./log-addresses.ts";
import { checkLogTag } from "./log-tags.ts";
import { parseDuration } from "./units.ts";

export const LOG_DRIVERS = ["json-file", "local", "none", "syslog", "gelf", "fluentd", "journald"] as const;
export type LogDriverName = (typeof LOG_DRIVERS)[number];
/** Those whose lines go to a collector. */
export type CollectorDriver = Exclude<LogDriverName, "json-file" | "local" | "none">;

export type LogOptionValues = Readonly<Record<string, string>>;

/** RFC 5424, section 6.2.1; in the order of their numbers. Those from 12 to 15 have no name in Docker. */
const FACILITIES = (
  "kern user mail daemon auth syslog lpr news uucp cron authpriv ftp " +
  "12 13 14 15 local0 local1 local2 local3 local4 local5 local6 local7"
).split(" ");
const DEFAULT_FACILITY = "daemon";
const SYSLOG_FORMATS = ["rfc3164", "rfc5424", "rfc5424micro"] as const;
/** RFC 5424's names, and Docker's of before. */
const GELF_COMPRESSIONS = ["gzip", "zlib", "none"] as const;

const BOOLEANS: Readonly<Record<string, boolean>> = {
  ...Object.fromEntries(["1", "t", "T", "TRUE", "true", "True"].map((word) => [word, true])),
  ...Object.fromEntries(["0", "f", "F", "FALSE", "false", "False"].map((word) => [word, false])),
};

const UNIT: Readonly<Record<string, number>> = {
  "": 1,
  b: 1,
  k: 1024,
  m: 1024 ** 2,
  g: 1024 ** 3,
  t: 1024 ** 4,
};

function refuse(text: string): never {
  throw new ClusterError("invalid_argument", text);
}

function wrong(option: string, wanted: string, given: string): never {
  return refuse(`invalid value for ${option}: want ${wanted}, got "${given}"`);
}

/** "10m" to bytes; "-1" means no limit, given as 0. */
export function parseByteSize(text: string, option: string): number {
  if (text === "-1") return 0;
  const match = /^(\d+(?:\.\d+)?) ?([bkmgt]?)(?:i?b)?$/i.exec(text);
  const factor = UNIT[(match?.[2] ?? "?").toLowerCase()];
  if (match === null || factor === undefined)
    return refuse(`invalid value for ${option}: invalid size: '${text}'`);
  return Math.floor(Number(match[1]) * factor);
}

/** Go's strconv.ParseBool; undefined for no value. */
export function parseLogBoolean(text: string | undefined, option: string): boolean | undefined {
  if (text === undefined || text === "") return undefined;
  return BOOLEANS[text] ?? wrong(option, "true or false", text);
}

/** Number of a facility, 0 to 23, by its name or number. */
export function syslogFacility(text: string | undefined): number {
  const given = text === undefined || text === "" ? DEFAULT_FACILITY : text;
  const named = FACILITIES.indexOf(given);
  if (named >= 0) return named;
  const number = /^\d{1,2}$/.test(given) ? Number(given) : FACILITIES.length;
  if (number < FACILITIES.length) return number;
  return wrong("syslog-facility", "a name such as daemon or local0, or 0 to 23", given);
}

type Check = (value: string, option: string) => void;

const anything: Check = () => undefined;
const boolean: Check = (value, option) => {
  parseLogBoolean(value, option);
};
const bytes: Check = (value, option) => {
  parseByteSize(value, option);
};
const duration: Check = (value, option) => {
  let nanoseconds = -1;
  try {
    nanoseconds = parseDuration(value);
  } catch {
    // Said below.
  }
  if (nanoseconds < 0) wrong(option, "a duration such as 500ms or 1s", value);
};
const whole: Check = (value, option) => {
  if (!/^\d{1,10}$/.test(value)) wrong(option, "a whole number, 0 or more", value);
};
const fileCount: Check = (value, option) => {
  if (!/^[1-9]\d*$/.test(value)) refuse(`${option} cannot be less than 1`);
};
const pattern: Check = (value, option) => {
  try {
    RegExp(value);
  } catch {
    wrong(option, "a regular expression", value);
  }
};

function oneOf(words: readonly string[]): Check {
  return (value, option) => {
    if (!words.includes(value)) wrong(option, `one of ${words.join(", ")}`, value);
  };
}

type Options = Readonly<Record<string, Check>>;

const DELIVERY: Options = {
  mode: (value) => {
    if (value !== "blocking" && value !== "non-blocking")
      refuse(`logger: logging mode not supported: ${value}`);
  },
  "max-buffer-size": bytes,
};
const FILES: Options = { "max-size": bytes, "max-file": fileCount, compress: boolean };
/** Of the lines that are kept here of what goes to a collector; taken for every driver, as Docker does. */
const CACHE: Options = {
  "cache-disabled": boolean,
  "cache-max-size": bytes,
  "cache-max-file": fileCount,
  "cache-compress": boolean,
};
const ATTRIBUTES: Options = {
  labels: anything,
  "labels-regex": pattern,
  env: anything,
  "env-regex": pattern,
  tag: checkLogTag,
};

const OPTIONS: Readonly<Record<Exclude<LogDriverName, "none">, Options>> = {
  "json-file": { ...FILES, ...ATTRIBUTES },
  local: FILES,
  journald: ATTRIBUTES,
  syslog: {
    ...ATTRIBUTES,
    "syslog-address": parseSyslogAddress,
    "syslog-facility": syslogFacility,
    "syslog-format": oneOf(["", ...SYSLOG_FORMATS]),
    "syslog-tls-ca-cert": anything,
    "syslog-tls-cert": anything,
    "syslog-tls-key": anything,
    // Docker skips the check whatever the value is.
    "syslog-tls-skip-verify": anything,
  },
  gelf: {
    ...ATTRIBUTES,
    "gelf-address": parseGelfAddress,
    "gelf-compression-type": oneOf(GELF_COMPRESSIONS),
    "gelf-compression-level": (value, option) => {
      if (!/^(?:-1|[0-9])$/.test(value)) wrong(option, "-1 to 9", value);
    },
    "gelf-tcp-max-reconnect": whole,
    "gelf-tcp-reconnect-delay": whole,
  },
  fluentd: {
    ...ATTRIBUTES,
    "fluentd-address": parseFluentdAddress,
    "fluentd-async": boolean,
    "fluentd-async-connect": boolean,
    "fluentd-async-reconnect-interval": duration,
    "fluentd-buffer-limit": bytes,
    "fluentd-max-retries": whole,
    "fluentd-request-ack": boolean,
    "fluentd-retry-wait": duration,
    "fluentd-sub-second-precision": boolean,
    "fluentd-write-timeout": duration,
  },
};

function checkGelf(options: LogOptionValues): void {
  const address = options["gelf-address"] ?? "";
  if (address === "") refuse("gelf-address is a required parameter");
  const isTcp = parseGelfAddress(address).network === "tcp";
  for (const option of Object.keys(options)) {
    if (isTcp && option.startsWith("gelf-compression-")) refuse(`${option} is only supported on UDP`);
    if (!isTcp && option.startsWith("gelf-tcp-")) refuse(`${option} is only valid for TCP`);
  }
}

const LOCAL_FILE_COUNT = 5;

/** Which sizes and counts of files go together. */
function checkFiles(driver: "json-file" | "local", options: LogOptionValues): void {
  const hasSize = (options["max-size"] ?? "-1") !== "-1" || driver === "local";
  const count = Number(options["max-file"] ?? (driver === "local" ? LOCAL_FILE_COUNT : 1));
  if (parseLogBoolean(options["compress"], "compress") === true && (count < 2 || !hasSize)) {
    refuse("compress cannot be true when max-file is less than 2 or max-size is not set");
  }
  if (Number(options["max-file"] ?? "1") > 1 && !hasSize) refuse("max-file requires max-size to be set");
}

export function isLogDriver(name: string): name is LogDriverName {
  return (LOG_DRIVERS as readonly string[]).includes(name);
}

/** Whether a driver's lines go to a collector, by way of a log here. */
export function isCollectorDriver(name: string): name is CollectorDriver {
  return isLogDriver(name) && name !== "json-file" && name !== "local" && name !== "none";
}

/**
 * Throws invalid_argument that names the option, what it takes and what was given. `none` takes anything and has no use
 * for it.
 */
export function checkLogOptions(driver: LogDriverName, options: LogOptionValues): void {
  if (driver === "none") return;
  const known: Options = { ...OPTIONS[driver], ...DELIVERY, ...CACHE };
  for (const [option, value] of Object.entries(options)) {
    const check = Object.hasOwn(known, option) ? known[option] : undefined;
    if (check === undefined) {
      refuse(
        `unknown log opt '${option}' for ${driver} log driver: want one of ${Object.keys(known).toSorted().join(", ")}, got "${value}"`,
      );
    }
    check?.(value, option);
  }
  if (driver === "json-file" || driver === "local") checkFiles(driver, options);
  if (driver === "gelf") checkGelf(options);
}
