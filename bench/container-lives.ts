/**
 * A container's life through the three doors that bench/runtime compares: an engine's API socket (Shoal's and Docker's
 * alike), the docker command line, and `runc run`.
 */
import { execFile, execFileSync } from "node:child_process";
import { existsSync } from "node:fs";
import * as fs from "node:fs/promises";
import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { promisify } from "node:util";
import type { Contender, ContenderOptions } from "./contenders.ts";
import { ask } from "./docker-http.ts";
import { busyboxTar } from "./test-image.ts";

const run = promisify(execFile);
export const IMAGE = "bench-runtime:1";

export type NetworkMode = "none" | "bridge";

/** One engine with the image, in a network namespace of its own: bridges and packet filters of two never meet. */
export async function startEngine(
  name: string,
  begin: (options: ContenderOptions) => Promise<Contender>,
): Promise<Contender> {
  const namespace = `bench-${name}-${process.pid}`;
  execFileSync("ip", ["netns", "add", namespace]);
  execFileSync("ip", ["-n", namespace, "link", "set", "lo", "up"]);
  let engine: Contender | undefined;
  const stop = async (): Promise<void> => {
    await engine?.stop();
    execFileSync("ip", ["netns", "delete", namespace]);
  };
  try {
    engine = await begin({ namespace, beforeStop: removeAll });
    const [repo, tag] = IMAGE.split(":");
    await ask(engine.socket, "POST", `/images/create?fromSrc=-&repo=${repo}&tag=${tag}`, busyboxTar());
    return { ...engine, stop };
  } catch (caught) {
    await stop();
    throw caught;
  }
}

/** One that hangs in a request is killed anyway, with all that it runs. */
const REMOVE_ALL_MS_MAX = 30_000;

async function removeAll(socket: string): Promise<void> {
  await Promise.race([removeEach(socket), sleep(REMOVE_ALL_MS_MAX, undefined, { ref: false })]);
}

async function removeEach(socket: string): Promise<void> {
  const all = (await ask(socket, "GET", "/containers/json?all=true")) as readonly { readonly Id: string }[];
  await Promise.all(all.map(({ Id }) => remove(socket, Id)));
}

export async function create(
  socket: string,
  command: readonly string[],
  network: NetworkMode = "none",
): Promise<string> {
  const body = { Image: IMAGE, Cmd: command, HostConfig: { NetworkMode: network } };
  return ((await ask(socket, "POST", "/containers/create", body)) as { readonly Id: string }).Id;
}

export function start(socket: string, id: string): Promise<unknown> {
  return ask(socket, "POST", `/containers/${id}/start`);
}

export function remove(socket: string, id: string): Promise<unknown> {
  return ask(socket, "DELETE", `/containers/${id}?force=true&v=true`);
}

/** Created, started, waited for and removed. */
export async function life(socket: string, network: NetworkMode): Promise<void> {
  const id = await create(socket, ["/bin/true"], network);
  const ended = ask(socket, "POST", `/containers/${id}/wait?condition=next-exit`) as Promise<{
    readonly StatusCode: number;
  }>;
  await start(socket, id);
  const { StatusCode: code } = await ended;
  if (code !== 0) throw new Error(`true ended with ${code}`);
  await remove(socket, id);
}

/** As the docker command does it, until the output's end. */
export async function exec(socket: string, id: string): Promise<void> {
  const made = (await ask(socket, "POST", `/containers/${id}/exec`, {
    Cmd: ["/bin/true"],
    AttachStdout: true,
    AttachStderr: true,
  })) as { readonly Id: string };
  await ask(socket, "POST", `/exec/${made.Id}/start`, { Detach: false, Tty: false });
}

export function dockerRun(socket: string, network: NetworkMode): Promise<unknown> {
  return run("docker", ["-H", `unix://${socket}`, "run", "--rm", "--network", network, IMAGE, "/bin/true"]);
}

export function dockerExec(socket: string, id: string): Promise<unknown> {
  return run("docker", ["-H", `unix://${socket}`, "exec", id, "/bin/true"]);
}

export function isInstalled(program: string): boolean {
  return (process.env["PATH"] ?? "").split(":").some((folder) => existsSync(path.join(folder, program)));
}

/** `runc run` of the same tree: its bundle is made once. Undefined where runc isn't installed. */
export async function runcLife(root: string): Promise<(() => Promise<unknown>) | undefined> {
  if (!isInstalled("runc")) return undefined;
  const bundle = path.join(root, "bundle");
  await fs.mkdir(path.join(bundle, "rootfs"), { recursive: true });
  execFileSync("tar", ["-C", path.join(bundle, "rootfs"), "-xf", "-"], { input: busyboxTar() });
  await run("runc", ["spec"], { cwd: bundle });
  const file = path.join(bundle, "config.json");
  const config = JSON.parse(await fs.readFile(file, "utf8")) as {
    process: { terminal: boolean; args: string[] };
  };
  config.process.terminal = false;
  config.process.args = ["/bin/true"];
  await fs.writeFile(file, JSON.stringify(config));
  let count = 0;
  return () => {
    const id = `shoal-bench-${process.pid}-${count++}`;
    return run("runc", ["--root", path.join(root, "runc"), "run", "--bundle", bundle, id]);
  };
}
