/**
 * How fast a container may write its log: lines of 100 bytes from one process through the json-file driver, for Shoal and (where Debian's
 * docker.io is installed) for Docker, in turn in one run. Prints megabytes of lines a second, the CPU time of the engine's own processes,
 * and that every line is in the file. Needs root and twice the volume as free disk.
 *
 *   node bench/logs.ts      after `npm run build`; `--help` names its options
 */
import { createReadStream, readFileSync } from "node:fs";
import path from "node:path";
import { createInterface } from "node:readline";
import { nodeCodeOf } from "../common/errors.ts";
import { count, toggle, toolOptions } from "../dev/tool-options.ts";
import { create, remove, start, startEngine } from "./container-lives.ts";
import { type Contender, hasDocker, startDocker, startShoal } from "./contenders.ts";
import { ask } from "./docker-http.ts";
import { processesWith } from "./idle-memory.ts";
import { median } from "./statistics.ts";

const LINE_BYTES = 100;
/** Linux's USER_HZ, on every machine that this runs on. */
const TICKS_PER_SECOND = 100;

interface Run {
  readonly megabytesPerSecond: number;
  readonly cpuSeconds: number;
  /** Missing, or not where they should stand. */
  readonly lostLines: number;
}

/** Busy time of the processes, with that of children that have ended. */
function cpuSeconds(pids: readonly number[]): number {
  let ticks = 0;
  for (const pid of pids) {
    try {
      const text = readFileSync(`/proc/${pid}/stat`, "utf8");
      const fields = text.slice(text.lastIndexOf(")") + 2).split(" ");
      ticks += [11, 12, 13, 14].reduce((sum, index) => sum + Number(fields[index] ?? 0), 0);
    } catch (caught) {
      // Ended meanwhile: its parent's figure has it.
      if (nodeCodeOf(caught) === "") throw caught;
    }
  }
  return ticks / TICKS_PER_SECOND;
}

/** Numbered lines of exactly LINE_BYTES, newline included: what is lost or out of order is seen. */
function writer(lineCount: number): readonly string[] {
  const width = LINE_BYTES - 1;
  return ["/bin/busybox", "awk", `BEGIN { for (i = 0; i < ${lineCount}; i++) printf "%0${width}d\\n", i }`];
}

/** Lines that are missing or stand where another should. */
async function lostLines(file: string, lineCount: number): Promise<number> {
  let expected = 0;
  let wrong = 0;
  for await (const text of createInterface({ input: createReadStream(file) })) {
    const at = text.indexOf('"log":"') + 7;
    if (Number(text.slice(at, at + LINE_BYTES - 1)) !== expected) wrong++;
    expected++;
  }
  return wrong + Math.abs(lineCount - expected);
}

async function once(engine: Contender, lineCount: number): Promise<Run> {
  const folder = path.dirname(engine.socket);
  const id = await create(engine.socket, writer(lineCount));
  const watched = new Set(processesWith(folder, []));
  const before = cpuSeconds([...watched]);
  const ended = ask(engine.socket, "POST", `/containers/${id}/wait?condition=next-exit`);
  const begin = performance.now();
  await start(engine.socket, id);
  // A shim or monitor of this container is gone at its end: its last figure before that counts.
  let latest = before;
  const timer = setInterval(() => {
    latest = Math.max(latest, cpuSeconds(processesWith(folder, [])));
  }, 50);
  await ended;
  const seconds = (performance.now() - begin) / 1000;
  clearInterval(timer);
  const { LogPath } = (await ask(engine.socket, "GET", `/containers/${id}/json`)) as {
    readonly LogPath: string;
  };
  const lost = await lostLines(LogPath, lineCount);
  await remove(engine.socket, id);
  return {
    megabytesPerSecond: (lineCount * LINE_BYTES) / 1e6 / seconds,
    cpuSeconds: latest - before,
    lostLines: lost,
  };
}

function print(name: string, runs: readonly Run[], megabytes: number): void {
  const of = (key: keyof Run): number => median(runs.map((run) => run[key]));
  console.log(
    `  ${name.padEnd(8)} ${of("megabytesPerSecond").toFixed(1)} MB/s   ${of("cpuSeconds").toFixed(2)} s of CPU for ${megabytes} MB   ` +
      `${Math.max(...runs.map((run) => run.lostLines))} lines lost   (medians of ${runs.length} runs)`,
  );
}

async function main(): Promise<void> {
  const { megabytes, noPeer, rounds } = toolOptions(
    {
      run: "node bench/logs.ts",
      about: "Measures how fast a container may write its log, beside Docker. Needs root.",
    },
    {
      megabytes: count("size of the container's lines in all", { fallback: 1000 }),
      rounds: count("rounds of the measurement", { fallback: 1 }),
      noPeer: toggle("without Docker"),
    },
  );
  const lineCount = Math.floor((megabytes * 1e6) / LINE_BYTES);
  const withPeer = !noPeer && hasDocker();
  if (!withPeer) console.log("dockerd is not installed or not wanted: Shoal alone");
  const engines: { readonly engine: Contender; readonly runs: Run[] }[] = [];
  try {
    engines.push({ engine: await startEngine("shoal", startShoal), runs: [] });
    if (withPeer) engines.push({ engine: await startEngine("docker", startDocker), runs: [] });
    for (let round = 0; round < rounds; round++)
      for (const { engine, runs } of engines) runs.push(await once(engine, lineCount));
  } finally {
    for (const { engine } of engines) await engine.stop();
  }
  console.log(`\nLog of lines of ${LINE_BYTES} bytes, json-file`);
  for (const { engine, runs } of engines) print(engine.name, runs, megabytes);
  const [ours, peer] = engines.map(({ runs }) => median(runs.map((run) => run.megabytesPerSecond)));
  if (ours !== undefined && peer !== undefined) console.log(`  ${(ours / peer).toFixed(1)} x`);
}

await main();
