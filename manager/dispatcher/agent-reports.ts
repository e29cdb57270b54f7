/**
 * Reading what agents say. A node that was taken over says what it likes: its words become state of the cluster and reach
 * the other nodes (addresses end up in their firewall rules), so nothing passes that has not the type and form that readers
 * count on, and nothing that is not known. Throws invalid_argument naming the field, what was wanted and what came. Pure.
 */
import { isIP, isIPv4 } from "node:net";
import { ClusterError } from "../../common/errors.ts";
import { isObject } from "../../common/json.ts";
import { parseRfc3339 } from "../../common/time.ts";
import type { NodeDescription, NodeGuest, TaskStatus } from "../../model/objects.ts";
import { TaskState } from "../../model/task-state.ts";
import type { shoal } from "../../proto/messages.ts";
import {
  DESCRIPTION_BYTES_MAX,
  GUEST_COUNT_MAX,
  GUEST_NAME_COUNT_MAX,
  GUEST_NAMES_CHARS_MAX,
  NAME_CHARS_MAX,
  STATUS_BYTES_MAX,
  STATUS_TEXT_CHARS_MAX,
} from "./limits.ts";

/** What is known of an entry of the list of one status or description: ports, labels, plug-ins. */
const ENTRY_COUNT_MAX = 1024;
const HOST_AND_PORT = /^(?:\[[0-9A-Fa-f:.]+(?:%[\w.-]+)?\]|[\w.-]+):\d{1,5}$/;
const HOST = /^[\w.:%-]*$/;
const OBJECT_ID = /^[\w.-]*$/;

const decoder = new TextDecoder("utf-8", { fatal: true });

/** Returns the value as it may be used, or throws. `path` is what the value is called. */
type Reader<T> = (value: unknown, path: string) => T;

function wrong(path: string, wanted: string, got: unknown): ClusterError {
  const text = typeof got === "string" ? `"${got.slice(0, 80)}"` : typeof got;
  return new ClusterError("invalid_argument", `${path} must be ${wanted}, got ${text}`, {
    details: { field: path },
  });
}

function text(
  charsMax: number,
  form?: { readonly pattern: RegExp; readonly called: string },
): Reader<string> {
  return (value, path) => {
    if (typeof value !== "string") throw wrong(path, "a text", value);
    if (value.length > charsMax) throw wrong(path, `at most ${charsMax} characters long`, value);
    if (form !== undefined && !form.pattern.test(value)) throw wrong(path, form.called, value);
    return value;
  };
}

/** Words for people: what is too long loses its end. */
function message(value: unknown, path: string): string {
  if (typeof value !== "string") throw wrong(path, "a text", value);
  return value.slice(0, STATUS_TEXT_CHARS_MAX);
}

function integer(max: number, min = 0): Reader<number> {
  return (value, path) => {
    if (typeof value === "number" && Number.isSafeInteger(value) && value >= min && value <= max)
      return value;
    throw wrong(path, `an integer from ${min} to ${max}`, typeof value === "number" ? `${value}` : value);
  };
}

function word(words: readonly string[]): Reader<string> {
  return (value, path) => {
    if (typeof value === "string" && words.includes(value)) return value;
    throw wrong(path, `one of ${words.join(", ")}`, value);
  };
}

function time(value: unknown, path: string): string {
  if (typeof value === "string" && value.length <= 64 && (value === "" || !Number.isNaN(parseRfc3339(value))))
    return value;
  throw wrong(path, "an RFC 3339 time", value);
}

function address(isOne: (value: string) => boolean): Reader<string> {
  return (value, path) => {
    if (typeof value === "string" && (value === "" || isOne(value))) return value;
    throw wrong(path, "an IP address", value);
  };
}

function list<T>(read: Reader<T>): Reader<readonly T[]> {
  return (value, path) => {
    if (!Array.isArray(value)) throw wrong(path, "a list", value);
    if (value.length > ENTRY_COUNT_MAX) throw wrong(path, `at most ${ENTRY_COUNT_MAX} long`, value);
    return value.map((item, index) => read(item, `${path}[${index}]`));
  };
}

function texts(charsMax: number): Reader<Readonly<Record<string, string>>> {
  const read = text(charsMax);
  return (value, path) => {
    if (!isObject(value)) throw wrong(path, "a map", value);
    const entries = Object.entries(value);
    if (entries.length > ENTRY_COUNT_MAX) throw wrong(path, `at most ${ENTRY_COUNT_MAX} long`, value);
    return Object.fromEntries(entries.map(([key, item]) => [read(key, path), read(item, `${path}.${key}`)]));
  };
}

/** An object of these fields; `optional` ones may be missing. Others are left out. */
function fields(
  wanted: Readonly<Record<string, Reader<unknown>>>,
  optional: Readonly<Record<string, Reader<unknown>>> = {},
): Reader<Readonly<Record<string, unknown>>> {
  return (value, path) => {
    if (!isObject(value)) throw wrong(path, "an object", value);
    const read: Record<string, unknown> = {};
    for (const [key, reader] of Object.entries(wanted)) read[key] = reader(value[key], `${path}.${key}`);
    for (const [key, reader] of Object.entries(optional)) {
      const item = Object.hasOwn(value, key) ? value[key] : undefined;
      if (item !== undefined) read[key] = reader(item, `${path}.${key}`);
    }
    return read;
  };
}

const name = text(NAME_CHARS_MAX);
const objectId = text(NAME_CHARS_MAX, { pattern: OBJECT_ID, called: "an id" });
const PORT = integer(65_535);

const taskStatus = fields(
  { state: integer(TaskState.orphaned), timestamp: time, message, err: message },
  {
    ranAt: time,
    container: fields({
      containerId: objectId,
      pid: integer(2 ** 31),
      exitCode: integer(2 ** 31, -(2 ** 31)),
    }),
    meshIp: address(isIPv4),
    ports: list(
      fields({
        Protocol: word(["tcp", "udp", "sctp"]),
        TargetPort: PORT,
        PublishedPort: PORT,
        PublishMode: word(["ingress", "host"]),
      }),
    ),
  },
);

const pem = text(DESCRIPTION_BYTES_MAX);
const amount = integer(Number.MAX_SAFE_INTEGER);

const nodeDescription = fields(
  {
    Hostname: name,
    Platform: fields({ Architecture: name, OS: name }),
    Resources: fields(
      { NanoCPUs: amount, MemoryBytes: amount },
      {
        GenericResources: list(
          fields(
            {},
            {
              NamedResourceSpec: fields({ Kind: name, Value: name }),
              DiscreteResourceSpec: fields({ Kind: name, Value: amount }),
            },
          ),
        ),
      },
    ),
    Engine: fields(
      { EngineVersion: name },
      { Labels: texts(DESCRIPTION_BYTES_MAX), Plugins: list(fields({ Type: name, Name: name })) },
    ),
  },
  {
    TLSInfo: fields({ TrustRoot: pem, CertIssuerSubject: pem, CertIssuerPublicKey: pem }),
  },
);

function parse<T>(
  json: Uint8Array,
  read: Reader<unknown>,
  bound: { readonly called: string; readonly bytesMax: number },
): T {
  const { called, bytesMax } = bound;
  if (json.byteLength > bytesMax) {
    throw new ClusterError(
      "invalid_argument",
      `${called} must be at most ${bytesMax} bytes of JSON, got ${json.byteLength}`,
    );
  }
  let value: unknown;
  try {
    value = JSON.parse(decoder.decode(json));
  } catch (cause) {
    throw new ClusterError("invalid_argument", `${called} must be JSON, got something else`, { cause });
  }
  return read(value, called) as T;
}

export function parseTaskStatus(json: Uint8Array): TaskStatus {
  return parse(json, taskStatus, { called: "Status of a task", bytesMax: STATUS_BYTES_MAX });
}

/** Undefined if nothing is said. */
export function parseDescription(json: Uint8Array | null | undefined): NodeDescription | undefined {
  if (json === null || json === undefined || json.byteLength === 0) return undefined;
  return parse(json, nodeDescription, { called: "Description of a node", bytesMax: DESCRIPTION_BYTES_MAX });
}

/** Where a node says it is reached; absent fields stay so. */
export interface NodeAddresses {
  readonly rpcAddress?: string;
  readonly dataPathAddress?: string;
  readonly addr?: string;
}

const host = text(NAME_CHARS_MAX, { pattern: HOST, called: "an address" });
const hostPort = text(NAME_CHARS_MAX + 8, { pattern: HOST_AND_PORT, called: '"host:port"' });

/** What is an address without port, as nodes tell it; empty where they tell none. */
function parseHost(value: string, field: string): string {
  return host(value, field);
}

export function parseAddresses(hello: shoal.v1.AgentHello.$Properties): NodeAddresses {
  const { rpcAddress, dataPathAddress, addr } = hello;
  return {
    ...(rpcAddress ? { rpcAddress: hostPort(rpcAddress, "rpc_address") } : {}),
    ...(dataPathAddress
      ? { dataPathAddress: address((each) => isIP(each) !== 0)(dataPathAddress, "data_path_address") }
      : {}),
    ...(addr ? { addr: parseHost(addr, "addr") } : {}),
  };
}

/** What a node says of a guest: `address` is the one that is wanted, empty for any. */
export type ReportedGuest = Pick<NodeGuest, "containerId" | "networkId" | "names" | "wanted">;

/** As many as a node may have. Names and addresses that can be none are left out: users may have chosen them. */
export function parseGuests(reported: readonly shoal.v1.Guest.$Properties[]): readonly ReportedGuest[] {
  let charCount = 0;
  return reported.slice(0, GUEST_COUNT_MAX).map(({ containerId, networkId, names, address: wanted }) => {
    const kept = (names ?? []).filter((each) => each.length <= NAME_CHARS_MAX).slice(0, GUEST_NAME_COUNT_MAX);
    for (const each of kept) charCount += each.length;
    if (charCount > GUEST_NAMES_CHARS_MAX)
      throw wrong("names of guests", `at most ${GUEST_NAMES_CHARS_MAX} characters together`, "more");
    return {
      containerId: objectId(containerId, "container_id"),
      networkId: objectId(networkId, "network_id"),
      names: kept,
      wanted: wanted && isIP(wanted) !== 0 ? wanted : "",
    };
  });
}
