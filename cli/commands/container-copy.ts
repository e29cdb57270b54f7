/** `shoal cp`: files between a container and this machine, as tars through the archive endpoints and the machine's tar. */
import { spawn } from "node:child_process";
import { statSync } from "node:fs";
import path from "node:path";
import { pipeline } from "node:stream/promises";
import { ClusterError } from "../../common/errors.ts";
import { ApiError } from "../client/api-client.ts";
import type { CommandContext, CommandDefinition } from "../command.ts";
import { bool } from "../command.ts";

interface Place {
  readonly container: string | undefined;
  readonly path: string;
}

/** "CONTAINER:PATH" or a path of this machine; "./a:b" is a path. */
function parsePlace(word: string): Place {
  const match = /^([a-zA-Z0-9][a-zA-Z0-9_.-]*):(.*)$/s.exec(word);
  if (match === null || word.startsWith("/") || word.startsWith("."))
    return { container: undefined, path: word };
  return { container: match[1], path: match[2] ?? "" };
}

function isFolder(file: string): boolean {
  return statSync(file, { throwIfNoEntry: false })?.isDirectory() === true;
}

async function waitForTar(child: ReturnType<typeof spawn>): Promise<void> {
  let said = "";
  child.stderr?.on("data", (chunk: Buffer) => {
    said += chunk.toString("utf8");
  });
  const status = await new Promise<number>((resolve, reject) => {
    child.on("error", reject);
    child.on("close", (code) => resolve(code ?? 1));
  });
  if (status !== 0) throw new ClusterError("internal", `Cannot copy: tar: ${said.trim()}`);
}

/** Regular expression for sed that tar's --transform uses: renames the first part of each name. */
function renameOption(from: string, to: string): string {
  const escape = (text: string, chars: RegExp): string => text.replaceAll(chars, "\\$&");
  return `--transform=flags=rh;s,^${escape(from, /[.[\]*^$\\,]/g)}\\(/\\|$\\),${escape(to, /[\\&,]/g)}\\1,`;
}

async function copyOut({ client, flags, out }: CommandContext, from: Place, target: string): Promise<void> {
  const response = await client.call("GET", `/containers/${from.container}/archive`, {
    query: { path: from.path },
  });
  if (target === "-") {
    await pipeline(response, process.stdout, { end: false });
    return;
  }
  const base = path.posix.basename(from.path.replace(/\/\.?$/, "")) || "/";
  const copiesContents = from.path.endsWith("/.");
  const intoFolder = isFolder(target);
  const folder = intoFolder ? target : path.dirname(target);
  if (!isFolder(folder))
    throw new ClusterError("not_found", `Cannot copy to "${target}": the folder "${folder}" does not exist`);
  const name = copiesContents && intoFolder ? "." : intoFolder ? base : path.basename(target);
  const child = spawn("tar", ["-x", "-f", "-", "-C", folder, "--no-same-owner", renameOption(base, name)], {
    stdio: ["pipe", "ignore", "pipe"],
  });
  if (child.stdin === null) throw new ClusterError("internal", "Cannot copy: tar has no input");
  await Promise.all([pipeline(response, child.stdin), waitForTar(child)]);
  if (!flags.bool("quiet")) out.write(`Successfully copied to ${target}\n`);
}

async function copyIn({ client, flags, out }: CommandContext, source: string, to: Place): Promise<void> {
  const query = { noOverwriteDirNonDir: true, copyUIDGID: flags.bool("archive") };
  const put = async (folder: string, content: NodeJS.ReadableStream): Promise<void> => {
    const { Readable } = await import("node:stream");
    await client.call("PUT", `/containers/${to.container}/archive`, {
      query: { path: folder, ...query },
      raw: { contentType: "application/x-tar", content: Readable.from(content) },
    });
  };
  if (source === "-") {
    await put(to.path, process.stdin);
    return;
  }
  const found = statSync(source, { throwIfNoEntry: false });
  if (found === undefined)
    throw new ClusterError("not_found", `Cannot copy "${source}": no such file or folder`);
  let targetIsFolder = to.path.endsWith("/");
  try {
    const stat = await client.call("HEAD", `/containers/${to.container}/archive`, {
      query: { path: to.path },
    });
    const header = stat.headers["x-docker-container-path-stat"];
    const about = JSON.parse(Buffer.from(String(header), "base64").toString("utf8")) as { mode: number };
    // Go's FileMode: the top bit is the folder bit.
    targetIsFolder = about.mode >= 2 ** 31;
  } catch (caught) {
    if (!(caught instanceof ApiError) || caught.status !== 404) throw caught;
  }
  const resolved = path.resolve(source);
  const base = path.basename(resolved);
  const folder = targetIsFolder ? to.path : path.posix.dirname(to.path);
  const copiesContents = /(^|\/)\.$/.test(source) && targetIsFolder;
  const name = copiesContents ? "." : targetIsFolder ? base : path.posix.basename(to.path);
  const child = spawn(
    "tar",
    ["-c", "-f", "-", "-C", path.dirname(resolved), renameOption(base, name), base],
    { stdio: ["ignore", "pipe", "pipe"] },
  );
  if (child.stdout === null) throw new ClusterError("internal", "Cannot copy: tar has no output");
  await Promise.all([put(folder, child.stdout), waitForTar(child)]);
  if (!flags.bool("quiet")) out.write(`Successfully copied to ${to.container}:${to.path}\n`);
}

export const copyCommand: CommandDefinition = {
  name: "cp",
  usage: "[OPTIONS] CONTAINER:PATH PATH|-  or  PATH|- CONTAINER:PATH",
  summary: "Copy files between a container and this machine",
  argsMin: 2,
  argsMax: 2,
  flags: [
    bool("archive", "Keep owners", "a"),
    bool("follow-link", "Follow links in the source", "L"),
    bool("quiet", "Print nothing", "q"),
  ],
  run: async (context) => {
    const [source = "", target = ""] = context.args;
    const [from, to] = [parsePlace(source), parsePlace(target)];
    if (from.container !== undefined && to.container !== undefined) {
      throw new ClusterError(
        "invalid_argument",
        "Cannot copy between two containers: copy to this machine first",
      );
    }
    if (from.container !== undefined) await copyOut(context, from, target);
    else if (to.container !== undefined) await copyIn(context, source, to);
    else throw new ClusterError("invalid_argument", "One of the two must be CONTAINER:PATH");
  },
};
