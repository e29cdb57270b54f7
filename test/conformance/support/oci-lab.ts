/**
 * Bundles and an OCI runtime to run them with: each lab has a folder of its own for state, bundles and logs. The same
 * lab drives any runtime with runc's command line, so that a case can be shown to hold for another one too.
 */
import assert from "node:assert/strict";
import { spawn, spawnSync, type ChildProcess } from "node:child_process";
import { existsSync } from "node:fs";
import * as fs from "node:fs/promises";
import os from "node:os";
import path from "node:path";
import { until, type UntilOptions } from "../../../dev/until.ts";

const BUSYBOX = ["/bin/busybox", "/usr/bin/busybox"].find((file) => existsSync(file)) ?? "/bin/busybox";
const NATIVE = path.resolve(import.meta.dirname, "../../../runtime/native/build/shoal-runtime");
const NATIVE_OF_DIST = path.resolve(import.meta.dirname, "../../../../runtime/native/build/shoal-runtime");
/** What must come may take its time on a machine that does much else. */
export const WAIT: UntilOptions = { timeoutMs: 120_000, pollMs: 10 };

/** As config.json has it; tests change what they are about. */
export interface OciConfig {
  ociVersion: string;
  process: Record<string, unknown>;
  root: { path: string; readonly?: boolean };
  hostname?: string;
  mounts: Record<string, unknown>[];
  hooks?: Record<string, unknown[]>;
  annotations?: Record<string, string>;
  linux: Record<string, unknown>;
}

export interface VerbResult {
  readonly status: number;
  readonly stdout: string;
  readonly stderr: string;
}

export interface OciState {
  readonly id: string;
  readonly pid: number;
  readonly status: string;
  readonly bundle: string;
  readonly ociVersion: string;
  readonly annotations?: Readonly<Record<string, string>>;
}

const CAPABILITIES = [
  "CAP_CHOWN",
  "CAP_DAC_OVERRIDE",
  "CAP_FOWNER",
  "CAP_FSETID",
  "CAP_KILL",
  "CAP_MKNOD",
  "CAP_NET_BIND_SERVICE",
  "CAP_NET_RAW",
  "CAP_SETFCAP",
  "CAP_SETGID",
  "CAP_SETPCAP",
  "CAP_SETUID",
  "CAP_SYS_CHROOT",
];

const NO_EXEC = ["nosuid", "noexec", "nodev"];

/** A container as most engines ask for one: own namespaces, /dev, /proc, /sys, the usual capabilities. */
export function usualConfig(...args: readonly string[]): OciConfig {
  return {
    ociVersion: "1.0.2",
    process: {
      terminal: false,
      user: { uid: 0, gid: 0 },
      args,
      env: ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
      cwd: "/",
      capabilities: {
        bounding: CAPABILITIES,
        effective: CAPABILITIES,
        permitted: CAPABILITIES,
      },
      rlimits: [{ type: "RLIMIT_NOFILE", hard: 1024, soft: 1024 }],
    },
    root: { path: "rootfs" },
    hostname: "lab",
    mounts: [
      { destination: "/proc", type: "proc", source: "proc" },
      {
        destination: "/dev",
        type: "tmpfs",
        source: "tmpfs",
        options: ["nosuid", "strictatime", "mode=755", "size=65536k"],
      },
      {
        destination: "/dev/pts",
        type: "devpts",
        source: "devpts",
        options: ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
      },
      {
        destination: "/dev/shm",
        type: "tmpfs",
        source: "shm",
        options: [...NO_EXEC, "mode=1777", "size=65536k"],
      },
      { destination: "/dev/mqueue", type: "mqueue", source: "mqueue", options: NO_EXEC },
      { destination: "/sys", type: "sysfs", source: "sysfs", options: [...NO_EXEC, "ro"] },
    ],
    linux: {
      resources: { devices: [{ allow: false, access: "rwm" }] },
      namespaces: ["pid", "network", "ipc", "uts", "mount"].map((type) => ({ type })),
    },
  };
}

export function namespacesOf(config: OciConfig): { type: string; path?: string }[] {
  return config.linux["namespaces"] as { type: string; path?: string }[];
}

export function resourcesOf(config: OciConfig): Record<string, unknown> {
  return config.linux["resources"] as Record<string, unknown>;
}

let labCount = 0;

export class OciLab {
  readonly folder: string;
  readonly name: string;
  readonly #command: readonly string[];
  #containerCount = 0;
  readonly #ids: string[] = [];

  private constructor(folder: string, command: readonly string[]) {
    this.folder = folder;
    this.#command = command;
    labCount += 1;
    this.name = `lab-${process.pid}-${labCount}`;
  }

  /** `runtime`: a program with runc's command line; absent: ours. */
  static async create(runtime?: string): Promise<OciLab> {
    const folder = await fs.mkdtemp(path.join(os.tmpdir(), "shoal-oci-"));
    await fs.chmod(folder, 0o755);
    const native = existsSync(NATIVE) ? NATIVE : NATIVE_OF_DIST;
    const lab = new OciLab(folder, runtime === undefined ? [native, "oci"] : [runtime]);
    await lab.#makeRootfs();
    return lab;
  }

  async #makeRootfs(): Promise<void> {
    const tree = path.join(this.folder, "rootfs");
    for (const name of ["bin", "etc", "tmp", "proc", "sys", "dev", "root", "place"]) {
      await fs.mkdir(path.join(tree, name), { recursive: true });
    }
    await fs.copyFile(BUSYBOX, path.join(tree, "bin/busybox"));
    await fs.chmod(path.join(tree, "bin/busybox"), 0o755);
    const applets = spawnSync(BUSYBOX, ["--list"], { encoding: "utf8" }).stdout.split("\n");
    for (const applet of applets) {
      if (applet !== "" && applet !== "busybox") await fs.symlink("busybox", path.join(tree, "bin", applet));
    }
    await fs.writeFile(
      path.join(tree, "etc/passwd"),
      "root:x:0:0::/root:/bin/sh\nann:x:1000:1000::/home/ann:/bin/sh\n",
    );
  }

  /** The runtime's own file. */
  get program(): string {
    return this.#command[0] ?? "";
  }

  id(): string {
    this.#containerCount += 1;
    const id = `${this.name}-${this.#containerCount}`;
    this.#ids.push(id);
    return id;
  }

  /** A folder with config.json; the root is a copy of links to one tree, or that tree itself. */
  async bundle(config: OciConfig, options: { readonly ownRoot?: boolean } = {}): Promise<string> {
    const bundle = await fs.mkdtemp(path.join(this.folder, "bundle-"));
    await fs.chmod(bundle, 0o755);
    if (options.ownRoot === true) {
      await fs.cp(path.join(this.folder, "rootfs"), path.join(bundle, "rootfs"), {
        recursive: true,
        verbatimSymlinks: true,
      });
    } else if (config.root.path === "rootfs") {
      config.root.path = path.join(this.folder, "rootfs");
    }
    await this.rewrite(bundle, config);
    return bundle;
  }

  async rewrite(bundle: string, config: OciConfig): Promise<void> {
    await fs.writeFile(path.join(bundle, "config.json"), JSON.stringify(config));
  }

  /** Waits for one verb. Output goes to files: a created container keeps the descriptors, so a pipe would never end. */
  async verb(...args: readonly string[]): Promise<VerbResult> {
    const base = path.join(this.folder, `out-${this.#containerCount}-${Math.random()}`);
    const [out, error] = [await fs.open(`${base}.out`, "w+"), await fs.open(`${base}.err`, "w+")];
    const child = this.spawn(args, ["ignore", out.fd, error.fd]);
    const status = await exitOf(child);
    await out.close();
    await error.close();
    return {
      status,
      stdout: await fs.readFile(`${base}.out`, "utf8"),
      stderr: await fs.readFile(`${base}.err`, "utf8"),
    };
  }

  spawn(args: readonly string[], stdio: readonly ("ignore" | "pipe" | "inherit" | number)[]): ChildProcess {
    const [program = "", ...first] = this.#command;
    const root = path.join(this.folder, "state");
    return spawn(program, [...first, "--root", root, ...args], { stdio: [...stdio] });
  }

  async ok(...args: readonly string[]): Promise<string> {
    const { status, stdout, stderr } = await this.verb(...args);
    assert.equal(status, 0, `${args.join(" ")}: ${stderr}${stdout}`);
    return stdout;
  }

  /** Fails with these words. */
  async refused(words: RegExp, ...args: readonly string[]): Promise<void> {
    const { status, stderr } = await this.verb(...args);
    assert.notEqual(status, 0, `${args.join(" ")} should have failed`);
    assert.match(stderr, words);
  }

  /** Runs to the end in the foreground. */
  async run(config: OciConfig, options: { readonly ownRoot?: boolean } = {}): Promise<VerbResult> {
    const bundle = await this.bundle(config, options);
    return this.verb("run", "--bundle", bundle, this.id());
  }

  /** What a shell script prints in a container of this config. */
  async sh(script: string, change: (config: OciConfig) => void = () => undefined): Promise<string> {
    const config = usualConfig("sh", "-c", script);
    change(config);
    const { status, stdout, stderr } = await this.run(config);
    assert.equal(status, 0, `${script}: ${stderr}${stdout}`);
    return stdout.trim();
  }

  async state(id: string): Promise<OciState> {
    return JSON.parse(await this.ok("state", id)) as OciState;
  }

  async until(id: string, status: string): Promise<OciState> {
    return until(`container ${id} is ${status}`, WAIT, async () => {
      const state = await this.state(id);
      return state.status === status && state;
    });
  }

  /** Created and started, its program running. */
  async start(config: OciConfig, options: { readonly ownRoot?: boolean } = {}): Promise<string> {
    const id = this.id();
    await this.ok("create", "--bundle", await this.bundle(config, options), id);
    await this.ok("start", id);
    return id;
  }

  async remove(id: string): Promise<void> {
    await this.verb("kill", id, "KILL");
    await this.until(id, "stopped");
    await this.ok("delete", id);
  }

  async close(): Promise<void> {
    for (const id of this.#ids) await this.verb("delete", "--force", id);
    // Other runtimes leave mounts behind where a container has no mount namespace.
    spawnSync("umount", ["--lazy", path.join(this.folder, "rootfs")], { stdio: "ignore" });
    await fs.rm(this.folder, { recursive: true, force: true });
  }
}

export async function exitOf(child: ChildProcess): Promise<number> {
  const timer = setTimeout(() => child.kill("SIGKILL"), WAIT.timeoutMs);
  const status = await new Promise<number>((resolve) => {
    child.once("exit", (code, signal) => resolve(code ?? (signal === null ? 1 : 128)));
    child.once("error", () => resolve(127));
  });
  clearTimeout(timer);
  return status;
}

/** Where a v1 controller, or the v2 tree (""), is mounted here. */
export async function cgroupMount(controller: string): Promise<string | undefined> {
  for (const line of (await fs.readFile("/proc/self/mountinfo", "utf8")).split("\n")) {
    const [front = "", back = ""] = line.split(" - ");
    const point = front.split(" ")[4];
    const [type, , options = ""] = back.split(" ");
    if (controller === "" ? type === "cgroup2" : type === "cgroup" && options.split(",").includes(controller))
      return point;
  }
  return undefined;
}
