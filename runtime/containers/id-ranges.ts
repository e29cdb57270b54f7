/**
 * `--userns-remap`: which host ids containers are given. The user named there owns ranges in /etc/subuid, its group in /etc/subgid;
 * the container's ids 0, 1, 2 … take them in the order of the files. Reads accounts; "default" may add one, as Docker's
 * daemon does.
 */
import { execFile } from "node:child_process";
import { readFileSync } from "node:fs";
import * as fs from "node:fs/promises";
import { promisify } from "node:util";
import { ClusterError } from "../../common/errors.ts";
import type { IdMap } from "./launch-spec.ts";

/** Owner of the ranges where "default" is asked for: Docker's name, so that a machine that had Docker keeps its ids. */
const DEFAULT_REMAP_USER = "dockremap";
const FIRST_RANGE_START = 100_000;
const RANGE_COUNT = 65_536;
/** Lines of one map that the kernel takes; one page of text holds fewer in the worst case. */
const RANGES_MAX = 100;
/** (uid_t)-1 and the one below it are no ids. */
const ID_MAX = 4_294_967_294;

export interface IdMaps {
  readonly uid: readonly IdMap[];
  readonly gid: readonly IdMap[];
}

export interface AccountFiles {
  readonly passwd: string;
  readonly group: string;
  readonly subuid: string;
  readonly subgid: string;
}

interface Account {
  readonly name: string;
  readonly id: number;
  /** Of a user: the primary group. */
  readonly groupId: number;
}

function refuse(text: string): never {
  throw new ClusterError("invalid_argument", text);
}

function findAccount(file: string, wanted: string): Account | undefined {
  const isNumber = /^\d+$/.test(wanted);
  for (const line of file.split("\n")) {
    const [name = "", , id = "", groupId = ""] = line.split(":");
    if (name === "" || !/^\d+$/.test(id)) continue;
    if (isNumber ? Number(id) === Number(wanted) : name === wanted)
      return { name, id: Number(id), groupId: Number(groupId) };
  }
  return undefined;
}

/** Ranges that a file grants to an account, by name or number, laid end to end from 0 on. */
function rangesOf(file: string, account: Account, fileName: string): readonly IdMap[] {
  const maps: IdMap[] = [];
  let inside = 0;
  for (const [index, line] of file.split("\n").entries()) {
    const text = line.trim();
    if (text === "" || text.startsWith("#")) continue;
    const [owner = "", start = "", count = "", ...rest] = text.split(":");
    if (owner !== account.name && owner !== String(account.id)) continue;
    if (!/^\d{1,10}$/.test(start) || !/^\d{1,10}$/.test(count) || rest.length > 0 || Number(count) < 1)
      refuse(`userns-remap: line ${index + 1} of ${fileName} must be NAME:START:COUNT, got "${text}"`);
    if (Number(start) + Number(count) > ID_MAX)
      refuse(`userns-remap: line ${index + 1} of ${fileName} goes beyond the last id, got "${text}"`);
    maps.push({ inside, outside: Number(start), count: Number(count) });
    inside += Number(count);
  }
  if (maps.length === 0)
    refuse(
      `userns-remap: "${account.name}" must own a range in ${fileName}; add a line like "${account.name}:100000:65536"`,
    );
  if (maps.length > RANGES_MAX)
    refuse(`userns-remap: "${account.name}" may own ${RANGES_MAX} ranges in ${fileName}, got ${maps.length}`);
  return maps;
}

/** "user", "uid", "user:group" and the like to maps. Pure. */
export function parseRemap(text: string, files: AccountFiles): IdMaps {
  const [userText = "", groupText, ...rest] = text.split(":");
  if (userText === "" || groupText === "" || rest.length > 0)
    refuse(`userns-remap must be "default" or USER[:GROUP], got "${text}"`);
  const user = findAccount(files.passwd, userText);
  if (user === undefined) refuse(`userns-remap: no user "${userText}" on this machine`);
  const group =
    groupText === undefined
      ? (findAccount(files.group, String(user.groupId)) ?? { ...user, id: user.groupId })
      : findAccount(files.group, groupText);
  if (group === undefined) refuse(`userns-remap: no group "${groupText}" on this machine`);
  // With no group named, ranges in /etc/subgid are the user's, as useradd writes them.
  const gidOwner = groupText === undefined ? { ...group, name: user.name } : group;
  return {
    uid: rangesOf(files.subuid, user, "/etc/subuid"),
    gid: rangesOf(files.subgid, gidOwner, "/etc/subgid"),
  };
}

/** Start of the first room of RANGE_COUNT ids above all ranges that are granted. Pure. */
export function freeRangeStart(file: string): number {
  let start = FIRST_RANGE_START;
  for (const line of file.split("\n")) {
    const [, first = "", count = ""] = line.split(":");
    const end = Number(first) + Number(count);
    if (/^\d+$/.test(first) && end > start) start = end;
  }
  return start;
}

function readText(file: string): string {
  try {
    return readFileSync(file, "utf8");
  } catch {
    return "";
  }
}

export function readAccounts(): AccountFiles {
  return {
    passwd: readText("/etc/passwd"),
    group: readText("/etc/group"),
    subuid: readText("/etc/subuid"),
    subgid: readText("/etc/subgid"),
  };
}

/** The account of "default", made where it is missing. */
async function ensureDefaultAccount(): Promise<void> {
  if (findAccount(readText("/etc/passwd"), DEFAULT_REMAP_USER) === undefined) {
    const options = ["--system", "--user-group", "--no-create-home", "--shell", "/bin/false"];
    await promisify(execFile)("useradd", [...options, DEFAULT_REMAP_USER]).catch((caught: unknown) => {
      throw new ClusterError(
        "failed_precondition",
        `userns-remap=default: cannot add user "${DEFAULT_REMAP_USER}": ${ClusterError.from(caught).message}`,
        { cause: caught },
      );
    });
  }
  for (const file of ["/etc/subuid", "/etc/subgid"]) {
    const text = readText(file);
    if (text.split("\n").some((line) => line.startsWith(`${DEFAULT_REMAP_USER}:`))) continue;
    const line = `${DEFAULT_REMAP_USER}:${freeRangeStart(text)}:${RANGE_COUNT}\n`;
    await fs.appendFile(file, text === "" || text.endsWith("\n") ? line : `\n${line}`);
  }
}

/** The maps for a daemon's `--userns-remap`; undefined for "". */
export async function resolveRemap(text: string): Promise<IdMaps | undefined> {
  if (text === "") return undefined;
  if (text !== "default") return parseRemap(text, readAccounts());
  await ensureDefaultAccount();
  return parseRemap(DEFAULT_REMAP_USER, readAccounts());
}
