/**
 * Standard output and error of the CLI. Text is written with one system call, because Node's own stream objects cost
 * milliseconds to make and most commands print once. A reader that is gone ends the program quietly, as it does others.
 */
import { writeSync } from "node:fs";
import { isatty } from "node:tty";
import { hasNodeCode } from "../../common/errors.ts";
import type { Output } from "../command.ts";

const DEFAULT_COLUMNS = 80;
const STDOUT = 1;

function streamOf(fd: number): NodeJS.WriteStream {
  return fd === STDOUT ? process.stdout : process.stderr;
}

/** An output on file descriptor 1 or 2. */
export function createOutput(fd: number): Output {
  /** The descriptor does not block and was full once: Node's stream queues the rest, and all that follows in order. */
  let isQueued = false;

  const write = (text: string): void => {
    let rest = Buffer.from(text);
    while (!isQueued && rest.length > 0) {
      try {
        rest = rest.subarray(writeSync(fd, rest));
      } catch (caught) {
        if (hasNodeCode(caught, "EPIPE")) process.exit(0);
        if (!hasNodeCode(caught, "EAGAIN")) throw caught;
        isQueued = true;
      }
    }
    if (rest.length > 0) streamOf(fd).write(rest);
  };
  return {
    write,
    get isTty() {
      return isatty(fd);
    },
    get columns() {
      return streamOf(fd).columns ?? DEFAULT_COLUMNS;
    },
  };
}
