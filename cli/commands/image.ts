/** `shoal image …` and its short forms: list, load, save, import, tag, pull, push, build and remove images. */
import { createReadStream, createWriteStream } from "node:fs";
import { stat } from "node:fs/promises";
import type { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { ClusterError } from "../../common/errors.ts";
import { parsePlatformText } from "../../model/platforms.ts";
import { humanDuration, humanSize } from "../../model/units.ts";
import { registryAuthHeader } from "../client/registry-auth.ts";
import { imagePath } from "../client/api-client.ts";
import type { CommandContext, CommandDefinition } from "../command.ts";
import {
  bool,
  ExitError,
  FILTER_FLAG,
  FORMAT_FLAG,
  list,
  NO_TRUNC_FLAG,
  QUIET_FLAG,
  text,
} from "../command.ts";
import { parseFilters, unsignedFlag } from "../flag-values.ts";
import type { ProgressLine } from "../output/json-progress.ts";
import { showProgress } from "../output/json-progress.ts";
import type { ListFormat } from "../output/table.ts";
import { ellipsis, formatList, shortId } from "../output/table.ts";
import { buildCommand } from "./build.ts";
import { listClusterImages, pushToCluster, removeClusterImages } from "./cluster-image.ts";
import { confirm, forEachArgument, inspectCommand } from "./verbs.ts";

export { runProgram } from "../program.ts";

interface ApiImage {
  readonly Id: string;
  readonly RepoTags?: readonly string[] | null;
  readonly RepoDigests?: readonly string[] | null;
  readonly Created: number;
  readonly Size: number;
}

interface ImageRow {
  readonly image: ApiImage;
  readonly repository: string;
  readonly tag: string;
  readonly digest: string;
}

const NONE = "<none>";

/** Images that are built to the same bytes each time have no date. */
function sinceText(unixSeconds: number, nowMs: number): string {
  return unixSeconds <= 0 ? "N/A" : `${humanDuration(Math.max(0, nowMs - unixSeconds * 1000))} ago`;
}

function imageRows(image: ApiImage, showsDigests: boolean): ImageRow[] {
  const digestOf = (repository: string): string =>
    (image.RepoDigests ?? [])
      .find((each) => each.startsWith(`${repository}@`))
      ?.slice(repository.length + 1) ?? NONE;
  const tags = (image.RepoTags ?? []).filter((tag) => tag !== "<none>:<none>");
  if (tags.length > 0) {
    return tags.map((name) => {
      const cut = name.lastIndexOf(":");
      const repository = name.slice(0, cut);
      return { image, repository, tag: name.slice(cut + 1), digest: digestOf(repository) };
    });
  }
  const [repository = NONE, digest = NONE] = (image.RepoDigests?.[0] ?? "")
    .split("@")
    .filter((part) => part !== "");
  return [{ image, repository, tag: NONE, digest: showsDigests ? digest : NONE }];
}

function imageList(options: {
  readonly isTruncated: boolean;
  readonly showsDigests: boolean;
  readonly nowMs: number;
}): ListFormat<ImageRow> {
  const id = (row: ImageRow): string => (options.isTruncated ? shortId(row.image.Id) : row.image.Id);
  return {
    columns: {
      ID: { header: "IMAGE ID", get: id },
      Repository: { header: "REPOSITORY", get: (row) => row.repository },
      Tag: { header: "TAG", get: (row) => row.tag },
      Digest: { header: "DIGEST", get: (row) => row.digest },
      CreatedSince: {
        header: "CREATED",
        get: (row) => sinceText(row.image.Created, options.nowMs),
      },
      CreatedAt: { header: "CREATED AT", get: (row) => new Date(row.image.Created * 1000).toISOString() },
      Size: { header: "SIZE", get: (row) => humanSize(row.image.Size, 3) },
    },
    defaults: [
      "Repository",
      "Tag",
      ...(options.showsDigests ? ["Digest"] : []),
      "ID",
      "CreatedSince",
      "Size",
    ],
    quiet: id,
  };
}

async function runList(context: CommandContext): Promise<void> {
  const { client, flags, args, out } = context;
  const filters = {
    ...parseFilters(flags.list("filter")),
    ...(args[0] === undefined ? {} : { reference: [args[0]] }),
  };
  const images = await client.get<ApiImage[]>("/images/json", { query: { all: flags.bool("all") }, filters });
  images.sort((left, right) => right.Created - left.Created);
  const showsDigests = flags.bool("digests");
  const format = imageList({ isTruncated: !flags.bool("no-trunc"), showsDigests, nowMs: Date.now() });
  const rows = images.flatMap((image) => imageRows(image, showsDigests));
  out.write(formatList(rows, format, { format: flags.string("format"), isQuiet: flags.bool("quiet") }));
}

/** A file to upload; checked before anything is sent. */
async function openInput(file: string | undefined): Promise<Readable> {
  if (file === undefined || file === "-") {
    if (process.stdin.isTTY === true)
      throw new ClusterError(
        "invalid_argument",
        "Cannot read from a terminal: name a file with --input or use a pipe",
      );
    return process.stdin;
  }
  try {
    const found = await stat(file);
    if (found.isDirectory()) throw new Error("it is a folder");
  } catch (caught) {
    throw new ClusterError("invalid_argument", `Cannot open "${file}": ${(caught as Error).message}`, {
      cause: caught,
    });
  }
  return createReadStream(file);
}

/** Where images are there already the API takes an OCI platform as JSON. */
function platformQuery({ flags }: CommandContext): { readonly platform?: string } {
  const given = flags.string("platform");
  return given === undefined ? {} : { platform: JSON.stringify(parsePlatformText(given)) };
}

async function runLoad(context: CommandContext): Promise<void> {
  const content = await openInput(context.flags.string("input"));
  const lines = context.client.jsonLines<ProgressLine>("POST", "/images/load", {
    query: { quiet: context.flags.bool("quiet"), ...platformQuery(context) },
    raw: { contentType: "application/x-tar", content },
  });
  await showProgress(lines, context.out, false);
}

async function runSave(context: CommandContext): Promise<void> {
  const file = context.flags.string("output");
  if (file === undefined && process.stdout.isTTY === true) {
    throw new ClusterError("invalid_argument", "Cannot write a tar to a terminal: use --output or redirect");
  }
  const query = { names: context.args, ...platformQuery(context) };
  const response = await context.client.call("GET", "/images/get", { query });
  if (file === undefined) await pipeline(response, process.stdout, { end: false });
  else await pipeline(response, createWriteStream(file));
}

async function runImport(context: CommandContext): Promise<void> {
  const [file = "-", reference = ""] = context.args;
  const cut =
    reference.lastIndexOf(":") > reference.lastIndexOf("/") ? reference.lastIndexOf(":") : reference.length;
  const isUrl = /^https?:\/\//.test(file);
  const lines = context.client.jsonLines<ProgressLine>("POST", "/images/create", {
    query: {
      fromSrc: isUrl ? file : "-",
      repo: reference.slice(0, cut),
      tag: reference.slice(cut + 1),
      message: context.flags.string("message"),
      changes: context.flags.list("change"),
      platform: context.flags.string("platform"),
    },
    ...(isUrl ? {} : { raw: { contentType: "text/plain", content: await openInput(file) } }),
  });
  await showProgress(lines, context.out, false);
}

/** "repo:tag", "repo@digest" or "repo" (then latest). */
function splitReference(reference: string): { name: string; tag: string } {
  const at = reference.indexOf("@");
  if (at >= 0) return { name: reference.slice(0, at), tag: reference.slice(at + 1) };
  const colon = reference.lastIndexOf(":");
  if (colon > reference.lastIndexOf("/"))
    return { name: reference.slice(0, colon), tag: reference.slice(colon + 1) };
  return { name: reference, tag: "latest" };
}

async function runPull(context: CommandContext): Promise<void> {
  const reference = context.args[0] ?? "";
  const { name, tag } = splitReference(reference);
  const lines = context.client.jsonLines<ProgressLine>("POST", "/images/create", {
    query: {
      fromImage: name,
      ...(context.flags.bool("all-tags") ? {} : { tag }),
      platform: context.flags.string("platform"),
    },
    headers: registryAuthHeader(context.env, reference, true),
    signal: context.signal,
  });
  await showProgress(lines, context.out, context.flags.bool("quiet"));
  if (context.flags.bool("quiet")) context.out.write(`${reference}\n`);
}

async function runPush(context: CommandContext): Promise<void> {
  const reference = context.args[0] ?? "";
  const { name, tag } = splitReference(reference);
  const lines = context.client.jsonLines<ProgressLine>("POST", `/images/${imagePath(name)}/push`, {
    query: context.flags.bool("all-tags") ? {} : { tag },
    headers: { "X-Registry-Auth": "e30=", ...registryAuthHeader(context.env, reference, true) },
    signal: context.signal,
  });
  await showProgress(lines, context.out, context.flags.bool("quiet"));
}

async function runRemove(context: CommandContext): Promise<void> {
  await forEachArgument(context, async (name) => {
    const removed = await context.client.delete<{ Untagged?: string; Deleted?: string }[]>(
      `/images/${imagePath(name)}`,
      {
        query: { force: context.flags.bool("force"), noprune: context.flags.bool("no-prune") },
      },
    );
    for (const each of removed) {
      context.out.write(
        each.Deleted === undefined ? `Untagged: ${each.Untagged ?? ""}\n` : `Deleted: ${each.Deleted}\n`,
      );
    }
  });
}

interface HistoryRow {
  readonly Id: string;
  readonly Created: number;
  readonly CreatedBy: string;
  readonly Size: number;
  readonly Comment: string;
}

async function runHistory(context: CommandContext): Promise<void> {
  const { client, flags, args, out } = context;
  const rows = await client.get<HistoryRow[]>(`/images/${imagePath(args[0] ?? "")}/history`);
  const isTruncated = !flags.bool("no-trunc");
  const id = (row: HistoryRow): string => (isTruncated ? shortId(row.Id) : row.Id);
  const format: ListFormat<HistoryRow> = {
    columns: {
      ID: { header: "IMAGE", get: id },
      CreatedSince: {
        header: "CREATED",
        get: (row) => sinceText(row.Created, Date.now()),
      },
      CreatedAt: { header: "CREATED AT", get: (row) => new Date(row.Created * 1000).toISOString() },
      CreatedBy: {
        header: "CREATED BY",
        get: (row) => (isTruncated ? ellipsis(row.CreatedBy.replaceAll("\t", " "), 45) : row.CreatedBy),
      },
      Size: { header: "SIZE", get: (row) => humanSize(row.Size, 3) },
      Comment: { header: "COMMENT", get: (row) => row.Comment },
    },
    defaults: ["ID", "CreatedSince", "CreatedBy", "Size", "Comment"],
    quiet: id,
  };
  out.write(formatList(rows, format, { format: flags.string("format"), isQuiet: flags.bool("quiet") }));
}

async function runTag(context: CommandContext): Promise<void> {
  const [source = "", target = ""] = context.args;
  const { name, tag } = splitReference(target);
  await context.client.post(`/images/${imagePath(source)}/tag`, { query: { repo: name, tag } });
}

async function runPrune(context: CommandContext): Promise<void> {
  const isAll = context.flags.bool("all");
  if (
    !(await confirm(
      context,
      `This removes all ${isAll ? "images that no container uses" : "untagged images"}. Go on?`,
    ))
  )
    return;
  const filters = {
    ...parseFilters(context.flags.list("filter")),
    ...(isAll ? { dangling: ["false"] } : {}),
  };
  const answer = await context.client.post<{
    ImagesDeleted?: { Untagged?: string; Deleted?: string }[] | null;
    SpaceReclaimed?: number;
  }>("/images/prune", { filters });
  for (const each of answer.ImagesDeleted ?? []) {
    context.out.write(
      each.Deleted === undefined ? `untagged: ${each.Untagged ?? ""}\n` : `deleted: ${each.Deleted}\n`,
    );
  }
  context.out.write(`Total reclaimed space: ${humanSize(answer.SpaceReclaimed ?? 0)}\n`);
}

interface SearchResult {
  readonly name: string;
  readonly description?: string;
  readonly star_count?: number;
  readonly is_official?: boolean;
}

function searchList(isTruncated: boolean): ListFormat<SearchResult> {
  const description = (found: SearchResult): string => (found.description ?? "").replaceAll(/[\r\n]+/g, " ");
  return {
    columns: {
      Name: { header: "NAME", get: (found) => found.name },
      Description: {
        header: "DESCRIPTION",
        get: (found) => (isTruncated ? ellipsis(description(found), 45) : description(found)),
      },
      StarCount: { header: "STARS", get: (found) => found.star_count ?? 0 },
      IsOfficial: { header: "OFFICIAL", get: (found) => (found.is_official === true ? "[OK]" : "") },
    },
    defaults: ["Name", "Description", "StarCount", "IsOfficial"],
    quiet: (found) => found.name,
  };
}

async function runSearch({ args, client, env, flags, out }: CommandContext): Promise<void> {
  const [term = ""] = args;
  const found = await client.get<SearchResult[]>("/images/search", {
    query: { term, limit: unsignedFlag(flags, "limit") },
    filters: parseFilters(flags.list("filter")),
    headers: registryAuthHeader(env, term, true),
  });
  out.write(formatList(found, searchList(!flags.bool("no-trunc")), { format: flags.string("format") }));
}

const SEARCH: CommandDefinition = {
  name: "search",
  usage: "[OPTIONS] TERM",
  summary: "Find images on a registry",
  argsMin: 1,
  argsMax: 1,
  flags: [FILTER_FLAG, FORMAT_FLAG, text("limit", "count", "Most results"), NO_TRUNC_FLAG],
  run: runSearch,
};

const LIST: CommandDefinition = {
  name: "ls",
  aliases: ["list"],
  usage: "[OPTIONS] [REPOSITORY[:TAG]]",
  summary: "List images",
  argsMin: 0,
  argsMax: 1,
  flags: [
    bool("all", "Intermediate images too", "a"),
    bool("cluster", "Images that the cluster keeps, with their copies"),
    bool("digests", "Show digests"),
    FILTER_FLAG,
    FORMAT_FLAG,
    QUIET_FLAG,
    NO_TRUNC_FLAG,
  ],
  run: (context) => (context.flags.bool("cluster") ? listClusterImages(context) : runList(context)),
};

const PUSH_FLAGS = [bool("all-tags", "All tags (registry only)", "a"), bool("quiet", "No progress", "q")];

/** As Docker's: an upload to a registry. */
const PUSH: CommandDefinition = {
  name: "push",
  usage: "[OPTIONS] NAME[:TAG]",
  summary: "Upload an image to a registry",
  argsMin: 1,
  argsMax: 1,
  flags: PUSH_FLAGS,
  run: runPush,
};

const COMMANDS: readonly CommandDefinition[] = [
  LIST,
  {
    name: "load",
    usage: "[OPTIONS]",
    summary: "Load images from a tar (docker save or OCI layout)",
    argsMin: 0,
    argsMax: 0,
    flags: [
      text("input", "file", "Tar to read (default: stdin)", "i"),
      bool("quiet", "No progress", "q"),
      text("platform", "platform", "Only this platform"),
    ],
    run: runLoad,
  },
  {
    name: "save",
    usage: "[OPTIONS] IMAGE [IMAGE...]",
    summary: "Write images to a tar",
    argsMin: 1,
    flags: [
      text("output", "file", "File to write (default: stdout)", "o"),
      text("platform", "platform", "Only this platform"),
    ],
    run: runSave,
  },
  {
    name: "import",
    usage: "[OPTIONS] file|URL|- [REPOSITORY[:TAG]]",
    summary: "Make an image from a tar of a root file system",
    argsMin: 1,
    argsMax: 2,
    flags: [
      list("change", "instruction", "Dockerfile instruction to apply", "c"),
      text("message", "text", "Comment", "m"),
      text("platform", "platform", "Platform"),
    ],
    run: runImport,
  },
  {
    name: "pull",
    usage: "[OPTIONS] NAME[:TAG|@DIGEST]",
    summary: "Fetch an image from a registry",
    argsMin: 1,
    argsMax: 1,
    flags: [
      bool("all-tags", "All tags", "a"),
      text("platform", "platform", "Platform"),
      bool("quiet", "No progress", "q"),
    ],
    run: runPull,
  },
  {
    name: "push",
    usage: "[OPTIONS] NAME[:TAG]",
    summary: "Put an image into the cluster, or upload it to a registry",
    argsMin: 1,
    argsMax: 1,
    flags: [
      text("node", "node", "Node that has the image (default: the one that is spoken to)"),
      bool("registry", "Upload to the registry that the name says, as `shoal push`"),
      ...PUSH_FLAGS,
    ],
    run: (context) => (context.flags.bool("registry") ? runPush(context) : pushToCluster(context)),
  },
  buildCommand,
  {
    name: "tag",
    usage: "SOURCE_IMAGE[:TAG] TARGET_IMAGE[:TAG]",
    summary: "Give an image another name",
    argsMin: 2,
    argsMax: 2,
    flags: [],
    run: runTag,
  },
  inspectCommand("IMAGE", async (client, name) => await client.get(`/images/${imagePath(name)}/json`)),
  {
    name: "history",
    usage: "[OPTIONS] IMAGE",
    summary: "Show the layers of an image",
    argsMin: 1,
    argsMax: 1,
    flags: [FORMAT_FLAG, QUIET_FLAG, NO_TRUNC_FLAG, bool("human", "Readable sizes and dates", "H")],
    run: runHistory,
  },
  {
    name: "rm",
    aliases: ["remove"],
    usage: "[OPTIONS] IMAGE [IMAGE...]",
    summary: "Remove images",
    argsMin: 1,
    flags: [
      bool("cluster", "From the cluster: no copies are kept any more"),
      bool("force", "Remove even if used by stopped containers (with --cluster: by services)", "f"),
      bool("no-prune", "Keep untagged parents"),
    ],
    run: (context) => (context.flags.bool("cluster") ? removeClusterImages(context) : runRemove(context)),
  },
  {
    name: "prune",
    usage: "[OPTIONS]",
    summary: "Remove images that nothing uses",
    argsMin: 0,
    argsMax: 0,
    flags: [
      bool("all", "Tagged images too", "a"),
      bool("force", "Don't ask", "f"),
      list("filter", "key=value", "Only what matches"),
    ],
    run: runPrune,
  },
];

function shortForm(name: string, verb: string): CommandDefinition {
  const found = COMMANDS.find((each) => each.name === verb);
  if (found === undefined) throw new ExitError(1, `no image verb ${verb}\n`);
  return { ...found, name, aliases: [] };
}

export const definitions: readonly CommandDefinition[] = [
  {
    name: "image",
    usage: "COMMAND",
    summary: "List, load, save, import, tag and remove images",
    argsMin: 0,
    flags: [],
    commands: COMMANDS,
  },
  shortForm("images", "ls"),
  shortForm("rmi", "rm"),
  PUSH,
  SEARCH,
  ...["load", "save", "import", "pull", "build", "tag", "history"].map((verb) => shortForm(verb, verb)),
];
