/** An engine of its own in a temporary folder with a busybox image, for tests that run real containers. */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { createReadStream, existsSync } from "node:fs";
import * as fs from "node:fs/promises";
import * as os from "node:os";
import path from "node:path";
import { silentLogger } from "../../../common/log.ts";
import { realEnv } from "../../../common/real-env.ts";
import type { Component } from "../../../common/env.ts";
import type {
  ContainerConfig,
  Engine,
  ExitStatus,
  HostConfig,
  TaskExtras,
  ExecConfig,
} from "../../../model/engine.ts";
import { createEngine, type EngineOptions } from "../../../runtime/engine.ts";
import { WAIT_MS } from "./wait.ts";

const BUSYBOX = ["/bin/busybox", "/usr/bin/busybox"].find((file) => existsSync(file)) ?? "/bin/busybox";

/** The package's folder, from the sources and from dist/ alike. */
function packageRoot(): string {
  let folder = import.meta.dirname;
  while (!existsSync(path.join(folder, "package.json"))) folder = path.dirname(folder);
  return folder;
}

async function buildRootTar(root: string): Promise<string> {
  const tree = path.join(root, "tree");
  for (const name of ["bin", "etc", "proc", "sys", "dev", "tmp", "root", "data"]) {
    await fs.mkdir(path.join(tree, name), { recursive: true });
  }
  await fs.copyFile(BUSYBOX, path.join(tree, "bin/busybox"));
  await fs.chmod(path.join(tree, "bin/busybox"), 0o755);
  for (const applet of execFileSync(BUSYBOX, ["--list"], { encoding: "utf8" }).split("\n")) {
    if (applet !== "" && applet !== "busybox") await fs.symlink("busybox", path.join(tree, "bin", applet));
  }
  await fs.writeFile(
    path.join(tree, "etc/passwd"),
    "root:x:0:0:root:/root:/bin/sh\nweb:x:1000:1000::/home/web:/bin/sh\n",
  );
  await fs.writeFile(path.join(tree, "etc/group"), "root:x:0:\nweb:x:1000:\nextra:x:2000:web\n");
  await fs.writeFile(path.join(tree, "data/seed"), "seed\n");
  const tar = path.join(root, "root.tar");
  execFileSync("tar", ["-C", tree, "-cf", tar, "."]);
  return tar;
}

export interface RunResult extends ExitStatus {
  readonly id: string;
  readonly stdout: string;
  readonly stderr: string;
}

/** `dataRoot` is below the lab's own folder unless given. */
export type LabOptions = Partial<
  Pick<
    EngineOptions,
    "usernsRemap" | "runtimes" | "defaultRuntime" | "dataRoot" | "journalSocket" | "defaultLog"
  >
>;

export class RuntimeLab {
  readonly root: string;
  engine: Engine & Component;

  readonly #options: LabOptions;

  private constructor(root: string, engine: Engine & Component, options: LabOptions) {
    this.root = root;
    this.engine = engine;
    this.#options = options;
  }

  static async open(options: LabOptions = {}): Promise<RuntimeLab> {
    const root = await fs.mkdtemp(path.join(os.tmpdir(), "shoal-runtime-test-"));
    const tar = await buildRootTar(root);
    const lab = new RuntimeLab(root, await RuntimeLab.#engine(root, options), options);
    for await (const line of lab.engine.images.import(createReadStream(tar), {
      repo: "box",
      tag: "1",
      changes: [],
    })) {
      assert.equal(line["error"], undefined);
    }
    return lab;
  }

  static async #engine(root: string, options: LabOptions): Promise<Engine & Component> {
    const engine = await createEngine({
      env: realEnv,
      log: silentLogger,
      dataRoot: path.join(root, "data"),
      execRoot: path.join(root, "run"),
      nativeBinary: path.join(packageRoot(), "runtime/native/build/shoal-runtime"),
      ...options,
    });
    await engine.start();
    return engine;
  }

  /** The daemon goes away and another comes; `between` runs while there is none. */
  async restart(between: () => Promise<void> = () => Promise.resolve()): Promise<void> {
    await this.engine.stop();
    await between();
    this.engine = await RuntimeLab.#engine(this.root, this.#options);
  }

  async create(
    command: readonly string[],
    hostConfig: HostConfig = {},
    options: { readonly config?: ContainerConfig; readonly task?: TaskExtras } = {},
  ): Promise<string> {
    const { Id } = await this.engine.containers.create({
      config: { Image: "box:1", Cmd: command, ...options.config },
      hostConfig: { NetworkMode: "none", ...hostConfig },
      ...(options.task === undefined ? {} : { task: options.task }),
    });
    return Id;
  }

  async output(id: string): Promise<{ readonly stdout: string; readonly stderr: string }> {
    const text = { stdout: "", stderr: "" };
    const options = { follow: true, stdout: true, stderr: true };
    for await (const line of this.engine.containers.logs(id, options, AbortSignal.timeout(WAIT_MS))) {
      text[line.stream] += Buffer.from(line.data).toString();
    }
    return text;
  }

  /** Creates, starts, waits, reads the log. The container stays. */
  async run(
    command: readonly string[],
    hostConfig: HostConfig = {},
    options: { readonly config?: ContainerConfig; readonly task?: TaskExtras } = {},
  ): Promise<RunResult> {
    const id = await this.create(command, hostConfig, options);
    await this.engine.containers.start(id);
    const exit = await this.engine.containers.wait(id, "not-running", {});
    return { id, ...exit, ...(await this.output(id)) };
  }

  async exec(
    id: string,
    command: readonly string[],
    config: Partial<ExecConfig> = {},
  ): Promise<{ readonly output: string; readonly exitCode: number }> {
    const { Id } = await this.engine.containers.createExec(id, {
      ...config,
      Cmd: command,
      AttachStdout: true,
      AttachStderr: true,
    });
    const streams = await this.engine.containers.startExec(Id, { detach: false, tty: false });
    let output = "";
    for await (const chunk of streams?.output ?? []) output += Buffer.from(chunk.data).toString();
    return { output, exitCode: Number((await this.engine.containers.inspectExec(Id))["ExitCode"]) };
  }

  async close(): Promise<void> {
    for (const { id } of this.engine.containers.summaries({})) {
      await this.engine.containers.remove(id, { force: true, volumes: true, link: false });
    }
    await this.engine.stop();
    await fs.rm(this.root, { recursive: true, force: true });
  }
}
