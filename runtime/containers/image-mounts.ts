/** `--mount type=image`: an image's layers as one read-only tree on the host, for as long as somebody mounts them from there. */
import * as fs from "node:fs/promises";
import { mountLayers, unmountBelow } from "../volumes/mount-calls.ts";
import type { RootfsSource } from "../ports.ts";
import type { MountPoint } from "./container-record.ts";

/** `point`: of an image. The caller unmounts it, also where this throws. */
export async function mountImage(
  rootfs: Pick<RootfsSource, "layers">,
  { layerKey = "" }: MountPoint,
  mountpoint: string,
): Promise<void> {
  const { upper, lower, work } = await rootfs.layers(layerKey);
  // Of a start that a former daemon did not finish.
  await unmountBelow(mountpoint);
  await fs.mkdir(mountpoint, { recursive: true, mode: 0o755 });
  // Without the stubs for a container's mount points; two are the least that make a tree, and both of ours are empty.
  await mountLayers([upper, ...lower.slice(1), work], mountpoint);
}
