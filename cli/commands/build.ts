/** `shoal build`: packs the folder as a tar (with .dockerignore), sends it to the classic builder and shows its output. */
import { existsSync, readFileSync, statSync, writeFileSync } from "node:fs";
import path from "node:path";
import type { Readable } from "node:stream";
import { ClusterError } from "../../common/errors.ts";
import type { CommandContext, CommandDefinition } from "../command.ts";
import { bool, csv, list, text } from "../command.ts";
import { parseUlimit } from "../container-flags.ts";
import { folderTar } from "../folder-tar.ts";
import { bytesFlag, integerFlag, parsePairs, unsignedFlag } from "../flag-values.ts";
import type { ProgressLine } from "../output/json-progress.ts";
import { showProgress } from "../output/json-progress.ts";

export interface IgnoreRule {
  readonly pattern: RegExp;
  readonly isExcept: boolean;
}

/** Docker's patterns: `*`, `?`, `**`, classes; `!` brings back. Throws a SyntaxError for a class that is none. */
function ignoreRule(line: string): IgnoreRule {
  const isExcept = line.startsWith("!");
  const body = path.posix.normalize(line.replace(/^!/, "").trim()).replace(/^\/+|\/+$/g, "");
  const source = body
    .split(/(\\.|\*\*\/?|\*|\?|\[[^\]]*\])/)
    .map((part) => {
      if (part === "**/") return "(?:.*/)?";
      if (part === "**") return ".*";
      if (part === "*") return "[^/]*";
      if (part === "?") return "[^/]";
      if (part.startsWith("[") && part.endsWith("]")) return part.replace(/^\[!/, "[^");
      if (part.length === 2 && part.startsWith("\\")) return `\\${part.charAt(1)}`;
      return part.replaceAll(/[.+^${}()|\\]/g, "\\$&");
    })
    .join("");
  return { pattern: new RegExp(`^${source}(?:/.*)?$`), isExcept };
}

/** The rules of a .dockerignore, in order. Throws invalid_argument for a line that is no pattern. */
export function ignoreRules(content: string): readonly IgnoreRule[] {
  return content.split(/\r?\n/).flatMap((line, index) => {
    if (line.trim() === "" || line.startsWith("#")) return [];
    try {
      return [ignoreRule(line)];
    } catch (caught) {
      throw new ClusterError(
        "invalid_argument",
        `Cannot read .dockerignore: line ${index + 1} must be a pattern of file names, got "${line}"`,
        { cause: caught },
      );
    }
  });
}

/** True if the rules leave `name` (with forward slashes, relative) out: the last one that fits it decides. */
export function isIgnored(rules: readonly IgnoreRule[], name: string): boolean {
  return rules.findLast((rule) => rule.pattern.test(name))?.isExcept === false;
}

async function contextStream(context: CommandContext): Promise<{ content: Readable; dockerfile: string }> {
  const place = context.args[0] ?? ".";
  if (place === "-")
    return { content: process.stdin, dockerfile: context.flags.string("file") ?? "Dockerfile" };
  if (!existsSync(place) || !statSync(place).isDirectory()) {
    throw new ClusterError(
      "invalid_argument",
      `Cannot build: "${place}" must be a folder or "-" for a tar on stdin`,
    );
  }
  const given = context.flags.string("file");
  const dockerfile = given === undefined ? "Dockerfile" : path.relative(place, given);
  if (dockerfile.startsWith(".."))
    throw new ClusterError("invalid_argument", `Cannot build: "${given}" must be inside "${place}"`);
  if (!existsSync(path.join(place, dockerfile))) {
    throw new ClusterError("not_found", `Cannot build: there is no "${path.join(place, dockerfile)}"`);
  }
  const ignoreFile = path.join(place, ".dockerignore");
  const rules = existsSync(ignoreFile) ? ignoreRules(readFileSync(ignoreFile, "utf8")) : [];
  const always = new Set([dockerfile, ".dockerignore"]);
  const content = await folderTar(place, {
    isLeftOut: (name) => isIgnored(rules, name) && !always.has(name),
    looksEverywhere: rules.some((rule) => rule.isExcept),
  });
  return { content, dockerfile };
}

async function runBuild(context: CommandContext): Promise<void> {
  const { flags, client, out } = context;
  const { content, dockerfile } = await contextStream(context);
  const args = Object.fromEntries(
    flags
      .list("build-arg")
      .map((each) =>
        each.includes("=")
          ? [each.slice(0, each.indexOf("=")), each.slice(each.indexOf("=") + 1)]
          : [each, context.env[each] ?? null],
      ),
  );
  const isQuiet = flags.bool("quiet");
  const lines = client.jsonLines<ProgressLine>("POST", "/build", {
    query: {
      t: flags.list("tag"),
      dockerfile,
      version: "1",
      q: isQuiet,
      nocache: flags.bool("no-cache"),
      pull: flags.bool("pull"),
      rm: flags.has("rm") ? flags.bool("rm") : true,
      forcerm: flags.bool("force-rm"),
      buildargs: JSON.stringify(args),
      labels: JSON.stringify(parsePairs(flags.list("label"))),
      cachefrom: flags.has("cache-from") ? JSON.stringify(flags.list("cache-from")) : undefined,
      target: flags.string("target"),
      networkmode: flags.string("network"),
      platform: flags.string("platform"),
      extrahosts: flags.list("add-host"),
      memory: bytesFlag(flags, "memory"),
      memswap: flags.string("memory-swap") === "-1" ? -1 : bytesFlag(flags, "memory-swap"),
      shmsize: bytesFlag(flags, "shm-size"),
      cpushares: unsignedFlag(flags, "cpu-shares"),
      cpuperiod: integerFlag(flags, "cpu-period"),
      cpuquota: integerFlag(flags, "cpu-quota"),
      cpusetcpus: flags.string("cpuset-cpus"),
      cpusetmems: flags.string("cpuset-mems"),
      cgroupparent: flags.string("cgroup-parent"),
      ulimits: flags.has("ulimit") ? JSON.stringify(flags.list("ulimit").map(parseUlimit)) : undefined,
    },
    raw: { contentType: "application/x-tar", content },
    signal: context.signal,
  });
  const id = await showProgress(lines, out, false);
  const idFile = flags.string("iidfile");
  if (idFile !== undefined) writeFileSync(idFile, id);
}

export const buildCommand: CommandDefinition = {
  name: "build",
  usage: "[OPTIONS] PATH | -",
  summary: "Build an image from a Dockerfile",
  argsMin: 1,
  argsMax: 1,
  flags: [
    list("add-host", "name:ip", "Line of /etc/hosts for RUN"),
    list("build-arg", "NAME=value", "Build argument"),
    csv("cache-from", "image", "As docker's; the cache of the machine is used in any case"),
    text("cgroup-parent", "path", "Parent cgroup of RUN"),
    text("cpu-period", "microseconds", "Period of the CPU limit of RUN"),
    text("cpu-quota", "microseconds", "CPU time of RUN in a period"),
    text("cpu-shares", "shares", "Relative CPU weight of RUN", "c"),
    text("cpuset-cpus", "list", "CPUs of RUN"),
    text("cpuset-mems", "list", "Memory nodes of RUN"),
    text("file", "path", "Dockerfile (default PATH/Dockerfile)", "f"),
    bool("force-rm", "Remove intermediate containers always"),
    text("iidfile", "file", "Write the image's id here"),
    list("label", "key=value", "Label of the image"),
    text("memory", "bytes", "Memory limit of RUN", "m"),
    text("memory-swap", "bytes", "Memory and swap limit of RUN (-1: no limit)"),
    text("network", "mode", "Network of RUN"),
    bool("no-cache", "Don't use cached layers"),
    text("platform", "platform", "Platform of the image"),
    bool("pull", "Fetch base images anew"),
    bool("quiet", "Print only the image's id", "q"),
    bool("rm", "Remove intermediate containers after success (default)"),
    text("shm-size", "bytes", "Size of /dev/shm in RUN"),
    list("tag", "name:tag", "Name of the image", "t"),
    text("target", "stage", "Stage to build"),
    list("ulimit", "name=soft[:hard]", "Resource limit of RUN"),
  ],
  run: runBuild,
};
