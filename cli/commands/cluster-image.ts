/** `shoal image push`, `image ls --cluster` and `image rm --cluster`: images that the cluster itself keeps. */
import { ClusterError } from "../../common/errors.ts";
import { imagePath } from "../client/api-client.ts";
import type { CommandContext } from "../command.ts";
import { humanDuration, humanSize } from "../../model/units.ts";
import { parseFilters } from "../flag-values.ts";
import { type ProgressLine, showProgress } from "../output/json-progress.ts";
import { formatList, type ListFormat, shortId } from "../output/table.ts";
import { forEachArgument } from "./verbs.ts";

interface ClusterImage {
  readonly ID: string;
  readonly Name: string;
  readonly Digest: string;
  readonly ImageID: string;
  readonly Size: number;
  readonly PushedAt: string;
  readonly Copies: readonly { readonly NodeID: string; readonly Node: string; readonly State: string }[];
}

export async function pushToCluster(context: CommandContext): Promise<void> {
  const { client, flags, args, signal, out } = context;
  if (flags.bool("all-tags")) {
    throw new ClusterError(
      "invalid_argument",
      "Cannot push all tags into the cluster: name one tag, or upload to a registry with --registry",
    );
  }
  const lines = client.jsonLines<ProgressLine>("POST", "/shoal/v1/images", {
    query: { name: args[0] ?? "", node: flags.string("node") },
    signal,
  });
  await showProgress(lines, out, flags.bool("quiet"));
}

function copiesText(image: ClusterImage): string {
  const complete = image.Copies.filter((copy) => copy.State === "complete").length;
  return `${complete}/${image.Copies.length}`;
}

function clusterImageList(isTruncated: boolean, nowMs: number): ListFormat<ClusterImage> {
  const cut = (name: string): number => name.lastIndexOf(":");
  const id = (image: ClusterImage): string => (isTruncated ? shortId(image.ImageID) : image.ImageID);
  return {
    columns: {
      ID: { header: "IMAGE ID", get: id },
      Repository: { header: "REPOSITORY", get: (image) => image.Name.slice(0, cut(image.Name)) },
      Tag: { header: "TAG", get: (image) => image.Name.slice(cut(image.Name) + 1) },
      Digest: { header: "DIGEST", get: (image) => image.Digest },
      Size: { header: "SIZE", get: (image) => humanSize(image.Size, 3) },
      Pushed: {
        header: "PUSHED",
        get: (image) => `${humanDuration(Math.max(0, nowMs - Date.parse(image.PushedAt)))} ago`,
      },
      Copies: { header: "COPIES", get: copiesText },
      Nodes: {
        header: "NODES",
        get: (image) => image.Copies.map((copy) => copy.Node || copy.NodeID).join(","),
      },
    },
    defaults: ["Repository", "Tag", "ID", "Size", "Pushed", "Copies", "Nodes"],
    quiet: id,
  };
}

export async function listClusterImages(context: CommandContext): Promise<void> {
  const { client, flags, args, out } = context;
  const refused = ["all", "digests"].find((flag) => flags.bool(flag));
  if (refused !== undefined || Object.keys(parseFilters(flags.list("filter"))).length > 0) {
    throw new ClusterError(
      "invalid_argument",
      `Cannot use --${refused ?? "filter"} with --cluster: name a repository or use --format`,
    );
  }
  const wanted = args[0];
  const images = (await client.get<ClusterImage[]>("/shoal/v1/images")).filter(
    (image) => wanted === undefined || image.Name === wanted || image.Name.startsWith(`${wanted}:`),
  );
  const format = clusterImageList(!flags.bool("no-trunc"), Date.now());
  out.write(formatList(images, format, { format: flags.string("format"), isQuiet: flags.bool("quiet") }));
}

export async function removeClusterImages(context: CommandContext): Promise<void> {
  const { client, flags, out } = context;
  if (flags.bool("no-prune")) {
    throw new ClusterError("invalid_argument", "Cannot use --no-prune with --cluster");
  }
  await forEachArgument(context, async (name) => {
    await client.delete(`/shoal/v1/images/${imagePath(name)}`, { query: { force: flags.bool("force") } });
    out.write(`Removed from the cluster: ${name}\n`);
  });
}
