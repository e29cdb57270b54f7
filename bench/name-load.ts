/**
 * Asks one name server the same name for some seconds with many questions under way, and prints the count of answers and
 * the delay that 99 of 100 stayed under, as JSON. Run by bench/network.ts inside of a container's namespace.
 *
 *   node dist/bench/name-load.js SERVER NAME SECONDS
 */
import { createSocket } from "node:dgram";
import { toolWords } from "../dev/tool-options.ts";

const UNDER_WAY = 64;
const DELAYS_MAX = 1_000_000;
const [server = "", name = "", seconds = ""] = toolWords(
  {
    run: "node bench/name-load.ts",
    about:
      "Asks a name server one name as often as it can, and prints the count of answers and the delay as JSON.",
  },
  "<server> <name> <seconds>",
);

const labels = name
  .split(".")
  .map((label) => Buffer.from(`${String.fromCharCode(label.length)}${label}`, "latin1"));
const query = Buffer.concat([
  Buffer.from([0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0]),
  ...labels,
  Buffer.from([0, 0, 1, 0, 1]),
]);
const startedMs = new Map<number, number>();
const delaysMs: number[] = [];
let next = 0;
let answers = 0;
const socket = createSocket("udp4");

function ask(): void {
  next = (next + 1) & 0xffff;
  query.writeUInt16BE(next, 0);
  startedMs.set(next, performance.now());
  socket.send(Buffer.from(query));
}

socket.connect(53, server, () => {
  for (let count = 0; count < UNDER_WAY; count += 1) ask();
});
socket.on("message", (answer) => {
  const sentMs = startedMs.get(answer.readUInt16BE(0));
  if (sentMs !== undefined && delaysMs.length < DELAYS_MAX) delaysMs.push(performance.now() - sentMs);
  answers += 1;
  ask();
});
setTimeout(
  () => {
    socket.close();
    const sorted = delaysMs.toSorted((one, other) => one - other);
    console.log(JSON.stringify({ answers, p99Ms: sorted[Math.floor(sorted.length * 0.99)] ?? 0 }));
  },
  Number(seconds) * 1_000,
);
