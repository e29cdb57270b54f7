/**
 * `RUN --mount=type=…,target=…`: what is mounted while a command runs and is no part of the image. The words of errors are
 * BuildKit's where people search for them. Pure.
 */
import path from "node:path";
import { ClusterError } from "../../common/errors.ts";
import { parseBytes } from "../../model/units.ts";
import { dockerfileError } from "./dockerfile-parser.ts";
import { expandWord, type WordOptions } from "./shell-words.ts";

const KEYS = {
  bind: ["target", "source", "from", "ro", "rw"],
  cache: ["target", "source", "from", "ro", "rw", "id", "sharing", "mode", "uid", "gid"],
  tmpfs: ["target", "size"],
  secret: ["target", "id", "required", "mode", "uid", "gid", "env"],
  ssh: ["target", "id", "required", "mode", "uid", "gid"],
} as const;

type MountType = keyof typeof KEYS;
export type CacheSharing = "shared" | "private" | "locked";

const ALIASES: Readonly<Record<string, string>> = {
  src: "source",
  dst: "target",
  destination: "target",
  readonly: "ro",
  readwrite: "rw",
};
const FLAGS: ReadonlySet<string> = new Set(["ro", "rw", "required"]);
const CACHE_MODE = 0o755;
const SECRET_MODE = 0o400;
const SOCKET_MODE = 0o600;
const SECRETS_FOLDER = "/run/secrets";
const ID_MAX = 2 ** 32 - 2;

/** As written, keys under one name each, variables not yet put in. */
export interface WrittenMount {
  readonly type: MountType;
  readonly values: ReadonlyMap<string, string>;
}

export interface BindMount {
  readonly type: "bind";
  readonly target: string;
  /** In the context or the image; "/" is all of it. */
  readonly source: string;
  /** Stage or image; "" is the context. */
  readonly from: string;
  /** Otherwise what is written is lost after the command. */
  readonly isReadonly: boolean;
}

export interface CacheMount {
  readonly type: "cache";
  readonly target: string;
  /** Mounts of the same name share a folder. */
  readonly id: string;
  readonly sharing: CacheSharing;
  readonly isReadonly: boolean;
  /** Of the folder when it is made. */
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
}

export interface TmpfsMount {
  readonly type: "tmpfs";
  readonly target: string;
  /** 0: the kernel's default. */
  readonly sizeBytes: number;
}

/** What the client is asked for while the build runs, which POST /build has no way for. */
interface ClientMount {
  readonly id: string;
  readonly isRequired: boolean;
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
}

export interface SecretMount extends ClientMount {
  readonly type: "secret";
  /** Of its file; "" for none. */
  readonly target: string;
  /** The variable that has it; "" for none. */
  readonly env: string;
}

export interface SshMount extends ClientMount {
  readonly type: "ssh";
  /** Of the agent's socket; "" for one that is made up. */
  readonly target: string;
}

export type RunMount = BindMount | CacheMount | TmpfsMount | SecretMount | SshMount;

/** Fields of a line of CSV. */
function fieldsOf(text: string): readonly string[] {
  return [...text.matchAll(/(?:^|,)(?:"((?:[^"]|"")*)"|([^,]*))/g)].map(([, quoted, plain = ""]) =>
    quoted === undefined ? plain : quoted.replace(/""/g, '"'),
  );
}

function isMountType(text: string): text is MountType {
  return text in KEYS;
}

export function parseRunMount(text: string, line: number): WrittenMount {
  const pairs = fieldsOf(text).map((field): readonly [string, string | undefined, string] => {
    const equals = field.indexOf("=");
    const key = (equals < 0 ? field : field.slice(0, equals)).trim().toLowerCase();
    return [ALIASES[key] ?? key, equals < 0 ? undefined : field.slice(equals + 1), field];
  });
  const type = pairs.find(([key]) => key === "type")?.[1] ?? "bind";
  if (!isMountType(type)) throw dockerfileError(`unsupported mount type ${JSON.stringify(type)}`, line);
  const known: readonly string[] = KEYS[type];
  const values = new Map<string, string>();
  for (const [key, value, field] of pairs) {
    if (key === "type") continue;
    if (!known.includes(key)) throw dockerfileError(`unexpected key '${key}' in '${field}'`, line);
    if (value === undefined && !FLAGS.has(key))
      throw dockerfileError(`invalid field '${field}' must be a key=value pair`, line);
    values.set(key, value ?? "true");
  }
  if (type === "cache" && (values.has("from") || values.has("source"))) {
    throw dockerfileError("a cache mount starts empty: from and source are not supported for it", line);
  }
  return { type, values };
}

function invalid(why: string): ClusterError {
  return new ClusterError("invalid_argument", `invalid mount: ${why}`);
}

class MountValues {
  readonly #values: ReadonlyMap<string, string>;
  readonly #words: WordOptions;

  constructor(written: WrittenMount, words: WordOptions) {
    this.#values = written.values;
    this.#words = words;
  }

  text(key: string, fallback = ""): string {
    const value = this.#values.get(key);
    return value === undefined ? fallback : expandWord(value, this.#words);
  }

  flag(key: string): boolean | undefined {
    const value = this.text(key).toLowerCase();
    if (value === "") return undefined;
    if (["true", "1", "t"].includes(value)) return true;
    if (["false", "0", "f"].includes(value)) return false;
    throw invalid(`${key} must be true or false, got "${value}"`);
  }

  number(key: string, fallback: number, radix: 8 | 10, max: number): number {
    const value = this.text(key);
    if (value === "") return fallback;
    const number = (radix === 8 ? /^[0-7]+$/ : /^\d+$/).test(value)
      ? Number.parseInt(value, radix)
      : Number.NaN;
    if (!(number <= max))
      throw invalid(`${key} must be a number up to ${max.toString(radix)}, got "${value}"`);
    return number;
  }

  sizeBytes(): number {
    const value = this.text("size");
    return value === "" ? 0 : parseBytes(value);
  }

  target(workingFolder: string): string {
    const text = this.text("target");
    if (text === "") throw invalid("target is required");
    const target = path.posix.resolve("/", workingFolder, text);
    if (target === "/") throw invalid(`target must be below "/", got "${text}"`);
    return target;
  }
}

/** With variables put in. Relative targets are below `workingFolder`. */
export function toRunMount(written: WrittenMount, words: WordOptions, workingFolder: string): RunMount {
  const { type } = written;
  const values = new MountValues(written, words);
  switch (type) {
    case "bind": {
      const isReadonly = values.flag("ro") ?? values.flag("rw") !== true;
      const source = path.posix.join("/", values.text("source"));
      return { type, target: values.target(workingFolder), source, from: values.text("from"), isReadonly };
    }
    case "cache": {
      const target = values.target(workingFolder);
      const sharing = values.text("sharing", "shared");
      if (sharing !== "shared" && sharing !== "private" && sharing !== "locked")
        throw invalid(`unsupported sharing value ${JSON.stringify(sharing)}`);
      return {
        type,
        target,
        id: values.text("id", target),
        sharing,
        isReadonly: values.flag("ro") ?? values.flag("rw") === false,
        mode: values.number("mode", CACHE_MODE, 8, 0o7777),
        uid: values.number("uid", 0, 10, ID_MAX),
        gid: values.number("gid", 0, 10, ID_MAX),
      };
    }
    case "tmpfs":
      return { type, target: values.target(workingFolder), sizeBytes: values.sizeBytes() };
    case "secret": {
      const env = values.text("env");
      const written = values.text("target");
      const id = values.text("id", path.posix.basename(written));
      if (id === "") throw invalid("a secret needs an id or a target");
      // Only what has no variable gets a file unasked.
      const place = written === "" && env === "" ? `${SECRETS_FOLDER}/${id}` : written;
      const target = place === "" ? "" : path.posix.resolve("/", workingFolder, place);
      return { type, id, target, env, ...clientValues(values, SECRET_MODE) };
    }
    case "ssh": {
      const written = values.text("target");
      const target = written === "" ? "" : path.posix.resolve("/", workingFolder, written);
      return { type, id: values.text("id", "default"), target, ...clientValues(values, SOCKET_MODE) };
    }
  }
}

function clientValues(values: MountValues, mode: number): Omit<ClientMount, "id"> {
  return {
    isRequired: values.flag("required") === true,
    mode: values.number("mode", mode, 8, 0o7777),
    uid: values.number("uid", 0, 10, ID_MAX),
    gid: values.number("gid", 0, 10, ID_MAX),
  };
}
