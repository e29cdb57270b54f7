/**
 * Builds examples/whoami with the machine's musl-gcc and packs it as images `whoami:1` and `whoami:2`. For the demo and
 * tests.
 */
import { mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import path from "node:path";
import { packageRoot } from "../common/package-root.ts";
import { imageTar } from "./image-tar.ts";
import { mustRun, run } from "./run-command.ts";

export interface WhoamiImage {
  readonly reference: string;
  readonly tarPath: string;
}

/** Compiles one version of the server; the program's bytes. */
async function compile(version: string, folder: string): Promise<Buffer> {
  const source = path.join(packageRoot(import.meta.dirname), "examples", "whoami", "whoami.c");
  const output = path.join(folder, `whoami-${version}`);
  const hasMusl = (await run(["sh", "-c", "command -v musl-gcc"])).status === 0;
  const flags = ["-static", "-Os", "-s", "-Wall", "-Wextra", "-D_GNU_SOURCE", `-DVERSION="${version}"`];
  await mustRun([hasMusl ? "musl-gcc" : "gcc", ...flags, "-o", output, source]);
  const program = readFileSync(output);
  rmSync(output);
  return program;
}

/** Writes whoami-VERSION.tar into `folder`. */
export async function buildWhoami(version: string, folder: string): Promise<WhoamiImage> {
  mkdirSync(folder, { recursive: true });
  const reference = `whoami:${version}`;
  const tarPath = path.join(folder, `whoami-${version}.tar`);
  const tar = imageTar({
    reference,
    files: [{ path: "whoami", data: await compile(version, folder), mode: 0o755 }],
    entrypoint: ["/whoami"],
    exposedPorts: ["80/tcp"],
  });
  writeFileSync(tarPath, tar);
  return { reference, tarPath };
}
