/**
 * How long short commands take, beside the docker CLI against the same daemon, in turn in one run: `service ls`, `node ls`,
 * `ps`, `images` and `--help`. Wall and CPU time as the shell's `time` gives them; medians. The daemon, a manager with a
 * few services of no replicas, is started here with folders of its own, and removed.
 *
 *   node bench/cli.ts      after `npm run build`; `--help` names its options
 */
import { spawnSync } from "node:child_process";
import path from "node:path";
import { packageRoot } from "../common/package-root.ts";
import { freePort } from "../common/testing/free-port.ts";
import { count, toolOptions } from "../dev/tool-options.ts";
import { startShoal } from "./contenders.ts";
import { ask } from "./docker-http.ts";
import { median } from "./statistics.ts";

const SERVICE_COUNT = 5;
const COMMANDS = ["service ls", "node ls", "ps", "images", "--help"];

interface Sample {
  readonly wallMs: number;
  readonly cpuMs: number;
}

/** Runs it once, its output thrown away. */
function time(command: readonly string[], host: string): Sample {
  const result = spawnSync(
    "bash",
    ["-c", 'TIMEFORMAT="%3R %3U %3S"; time "$@" >/dev/null', "bash", ...command],
    {
      env: { ...process.env, DOCKER_HOST: host },
      encoding: "utf8",
    },
  );
  const [wall = Number.NaN, user = Number.NaN, system = Number.NaN] = (
    result.stderr.trim().split("\n").at(-1) ?? ""
  )
    .split(" ")
    .map(Number);
  if (result.status !== 0 || Number.isNaN(wall)) throw new Error(`${command.join(" ")}: ${result.stderr}`);
  return { wallMs: wall * 1000, cpuMs: (user + system) * 1000 };
}

async function prepare(socket: string): Promise<void> {
  const address = `127.0.0.1:${await freePort()}`;
  await ask(socket, "POST", "/swarm/init", { ListenAddr: address, AdvertiseAddr: address });
  for (let index = 0; index < SERVICE_COUNT; index += 1) {
    await ask(socket, "POST", "/services/create", {
      Name: `web${index}`,
      TaskTemplate: { ContainerSpec: { Image: "web:1" } },
      Mode: { Replicated: { Replicas: 0 } },
    });
  }
}

function compare(host: string, rounds: number): void {
  const hasDocker = spawnSync("docker", ["--version"]).status === 0;
  if (!hasDocker) console.log("  no docker CLI is installed: only our own times");
  for (const command of COMMANDS) {
    const words = command.split(" ");
    const ours: Sample[] = [];
    const peer: Sample[] = [];
    for (let round = 0; round < rounds; round += 1) {
      ours.push(time([path.join(packageRoot(import.meta.dirname), "bin", "shoal"), ...words], host));
      if (hasDocker) peer.push(time(["docker", ...words], host));
    }
    const line = (samples: readonly Sample[]): string =>
      `${median(samples.map((each) => each.wallMs)).toFixed(0)} ms (cpu ${median(samples.map((each) => each.cpuMs)).toFixed(0)} ms)`;
    const ratio = (key: keyof Sample): string =>
      (median(ours.map((each) => each[key])) / median(peer.map((each) => each[key]))).toFixed(2);
    console.log(
      `  ${command.padEnd(12)} shoal ${line(ours)}` +
        (hasDocker ? `   docker ${line(peer)}   ratio ${ratio("wallMs")} (cpu ${ratio("cpuMs")})` : ""),
    );
  }
}

const { rounds } = toolOptions(
  {
    run: "node bench/cli.ts",
    about: "Measures short commands of the shoal CLI beside the docker CLI, against one daemon.",
  },
  {
    rounds: count("runs of each command", { fallback: 15 }),
  },
);
const daemon = await startShoal();
try {
  await prepare(daemon.socket);
  console.log(`\nShort commands, medians of ${rounds} runs each, in turn`);
  compare(`unix://${daemon.socket}`, rounds);
} finally {
  await daemon.stop();
}
