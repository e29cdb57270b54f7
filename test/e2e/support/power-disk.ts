/**
 * A disk that can lose its power: an ext4 of its own (a loop device) that is cut off in the middle, as the kernel's
 * file system tests do it: what was not yet on the disk is gone. Needs root and loop devices.
 */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import * as fs from "node:fs";
import path from "node:path";
import koffi from "koffi";

/** FS_IOC_SHUTDOWN, and not even the journal is written any more. */
const SHUTDOWN = 0x8004587d;
const NO_LOG_FLUSH = 2;

const ioctl = koffi.load(null).func("int ioctl(int fd, unsigned long request, const void *value)");

export class PowerDisk {
  readonly #image: string;
  readonly folder: string;

  constructor(root: string) {
    this.#image = path.join(root, "disk.img");
    this.folder = path.join(root, "disk");
    fs.mkdirSync(this.folder);
    fs.writeFileSync(this.#image, "");
    fs.truncateSync(this.#image, 400 * 1024 * 1024);
    execFileSync("mkfs.ext4", ["-q", this.#image]);
    this.mount();
  }

  mount(): void {
    execFileSync("mount", ["-o", "loop", this.#image, this.folder]);
  }

  unmount(): void {
    execFileSync("umount", [this.folder]);
  }

  powerOff(): void {
    const fd = fs.openSync(this.folder, "r");
    const how = Buffer.alloc(4);
    how.writeUInt32LE(NO_LOG_FLUSH);
    assert.equal(ioctl(fd, SHUTDOWN, how), 0);
    fs.closeSync(fd);
  }
}

const OTHER_BOOT = { bootId: "an-earlier-boot" };

/** What images note of the boot they were made in is of an earlier one now. */
export function forgetBoot(images: string): void {
  const chains = fs.readdirSync(path.join(images, "layers"));
  const files = chains.map((chain) => path.join(images, "layers", chain, "layer.json"));
  for (const file of [path.join(images, "synced.json"), ...files]) {
    const text = fs.existsSync(file) ? fs.readFileSync(file, "utf8") : "";
    if (text === "") continue;
    const known = JSON.parse(text) as { readonly bootId: string };
    // "" is a layer that was known to be durable.
    if (known.bootId !== "") fs.writeFileSync(file, JSON.stringify({ ...known, ...OTHER_BOOT }));
  }
}
