/** Small managed plugins for tests: a script with Node.js from the host, so that making one takes no time. */
import { execFileSync } from "node:child_process";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import * as fs from "node:fs/promises";
import path from "node:path";
import { Readable } from "node:stream";
import { packageRoot } from "../../../common/package-root.ts";

const ROOT = packageRoot(import.meta.dirname);
export const EXAMPLE_FOLDER: string = path.join(ROOT, "examples/volume-plugin");

/** A bind mount in a plugin's config. */
function readOnly(source: string): object {
  return {
    name: source.slice(1).replaceAll("/", "-"),
    source,
    destination: source === process.execPath ? "/bin/node" : source,
    type: "bind",
    options: ["rbind", "ro"],
  };
}

export interface PluginFolder {
  /** Added to a config that runs plugin.mjs as a volume driver on folders.sock. */
  readonly config?: object;
  /** Instead of the example's. */
  readonly script?: string;
}

/** The tar that `docker plugin create` sends. */
export async function pluginTar(folder: string, plugin: PluginFolder = {}): Promise<Readable> {
  const rootfs = path.join(folder, "rootfs");
  await fs.rm(folder, { recursive: true, force: true });
  await fs.mkdir(path.join(rootfs, "bin"), { recursive: true });
  await fs.copyFile("/bin/busybox", path.join(rootfs, "bin/busybox"));
  const script = plugin.script ?? (await fs.readFile(path.join(EXAMPLE_FOLDER, "plugin.mjs"), "utf8"));
  await fs.writeFile(path.join(rootfs, "plugin.mjs"), script);
  const libraries = ["/lib", "/lib64", "/usr/lib"].filter((each) => existsSync(each));
  const config = {
    description: "for tests",
    entrypoint: ["/bin/node", "/plugin.mjs"],
    args: {
      name: "args",
      settable: ["value"],
      value: ["--socket", "/run/docker/plugins/folders.sock", "--root", "/volumes"],
    },
    env: [{ name: "MODE", settable: ["value"], value: "0755" }],
    interface: { types: ["docker.volumedriver/1.0"], socket: "folders.sock" },
    network: { type: "none" },
    mounts: [process.execPath, ...libraries].map(readOnly),
    ...plugin.config,
  };
  await fs.writeFile(path.join(folder, "config.json"), JSON.stringify(config));
  return Readable.from([execFileSync("tar", ["-C", folder, "-c", "."], { maxBuffer: 512 * 1024 * 1024 })]);
}

/** Processes whose root is `rootfs`, by what the kernel calls it: its path on the file system that it is on. */
export function pluginProcesses(rootfs: string): readonly number[] {
  return readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name))
    .map(Number)
    .filter((pid) => {
      try {
        return readFileSync(`/proc/${pid}/mountinfo`, "utf8")
          .split("\n")
          .some((line) => line.split(" ")[4] === "/" && rootfs.endsWith(line.split(" ")[3] ?? "-"));
      } catch {
        // Gone meanwhile.
        return false;
      }
    });
}

/** Mounts of this namespace on `folder` and below. */
export function mountsBelow(folder: string): readonly string[] {
  return readFileSync("/proc/self/mountinfo", "utf8")
    .split("\n")
    .flatMap((line) => line.split(" ")[4] ?? [])
    .filter((target) => target === folder || target.startsWith(`${folder}/`));
}
