/** Signals by name or number, as `docker kill` and stop-signal take them. Pure. */
import { constants } from "node:os";
import { ClusterError } from "../../common/errors.ts";

const SIGRTMIN = 34;
const SIGRTMAX = 64;
const SIGNAL_MAX = 64;

/** "SIGTERM", "term", "15", "RTMIN+3". Throws with Docker's words. */
export function parseSignal(text: string): number {
  const upper = text.toUpperCase().replace(/^SIG/, "");
  if (/^\d+$/.test(upper)) {
    const number = Number(upper);
    if (number >= 1 && number <= SIGNAL_MAX) return number;
  }
  const realtime = /^RT(MIN|MAX)(?:([+-])(\d+))?$/.exec(upper);
  if (realtime !== null) {
    const base = realtime[1] === "MIN" ? SIGRTMIN : SIGRTMAX;
    const number = base + (realtime[2] === "-" ? -1 : 1) * Number(realtime[3] ?? "0");
    if (number >= SIGRTMIN && number <= SIGRTMAX) return number;
  }
  const number = (constants.signals as Readonly<Record<string, number>>)[`SIG${upper}`];
  if (number === undefined) throw new ClusterError("invalid_argument", `invalid signal: ${text}`);
  return number;
}
