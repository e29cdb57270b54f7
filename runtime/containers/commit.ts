/** `docker commit`: an image of a container's writable layer, with a config changed by `--change`. */
import { ClusterError } from "../../common/errors.ts";
import type { ContainerConfig, ContainerEngine } from "../../model/engine.ts";
import { familiarForm, parseReference, withDefaultTag } from "../../model/image-reference.ts";
import type { RootfsSource } from "../ports.ts";
import { applyChanges } from "../build/config-changes.ts";
import { commandOf } from "./config-merge.ts";
import type { LiveContainer } from "./live-container.ts";

export type CommitRequest = Parameters<ContainerEngine["commit"]>[1];

/** What the new image is called, as people say it; empty if it has no name. */
export function committedName({ repo = "", tag = "" }: Pick<CommitRequest, "repo" | "tag">): string {
  if (repo === "") return "";
  return familiarForm(withDefaultTag(parseReference(tag === "" ? repo : `${repo}:${tag}`)));
}

/** Hostname and streams belong to the container, not to the image. */
function imageConfigOf(config: ContainerConfig): ContainerConfig {
  const kept = { ...config } as Record<string, unknown>;
  for (const key of [
    "Hostname",
    "Domainname",
    "AttachStdin",
    "AttachStdout",
    "AttachStderr",
    "Tty",
    "OpenStdin",
    "StdinOnce",
    "MacAddress",
  ]) {
    delete kept[key];
  }
  return kept as ContainerConfig;
}

export async function commitContainer(
  live: LiveContainer,
  request: CommitRequest,
  rootfs: RootfsSource,
): Promise<string> {
  const { record } = live;
  if (live.isRemoving)
    throw new ClusterError("conflict", `You cannot commit container ${live.id} which is being removed`);
  const base = imageConfigOf({ ...record.config, ...withoutSilent(request.config ?? {}) });
  const config = applyChanges(base, request.changes);
  const imageId = await rootfs.commit(live.id, {
    config,
    comment: request.comment ?? "",
    author: request.author ?? "",
    containerId: live.id,
    createdBy: commandOf(record.config).join(" "),
  });
  if ((request.repo ?? "") !== "") await rootfs.tagImage(imageId, request.repo ?? "", request.tag ?? "");
  return imageId;
}

/** The CLI sends a whole config of silent fields along with every commit. */
function withoutSilent(config: ContainerConfig): ContainerConfig {
  const entries = Object.entries(config).filter(([, value]) => {
    if (value === null || value === undefined || value === "" || value === false) return false;
    return typeof value !== "object" || Object.keys(value).length > 0;
  });
  return Object.fromEntries(entries);
}
