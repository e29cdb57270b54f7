/** The root help and `--version`. */
import { GROUPS } from "../groups.ts";
import { ROOT_FLAGS } from "../root-flags.ts";
import { createOutput } from "../output/stream.ts";
import { VERSION } from "../version.ts";

const STDOUT = 1;
const NAME_WIDTH = 13;

export function printVersion(): number {
  createOutput(STDOUT).write(`Shoal version ${VERSION}\n`);
  return 0;
}

export function printHelp(): number {
  const sections = [...new Set(GROUPS.map((group) => group.section))].map((section) => {
    const lines = GROUPS.filter((group) => group.section === section).map(
      (group) => `  ${group.name.padEnd(NAME_WIDTH)}${group.summary}`,
    );
    return `${section}:\n${lines.join("\n")}\n`;
  });
  const options = ROOT_FLAGS.map((flag) => {
    const short = flag.short === undefined ? "    " : `-${flag.short}, `;
    const value = flag.kind === "bool" ? "" : ` ${flag.value ?? ""}`;
    return `  ${short}${`--${flag.name}${value}`.padEnd(22)}${flag.help}`;
  });
  createOutput(STDOUT).write(
    `Usage:  shoal [OPTIONS] COMMAND\n\nRuns containers on a fleet.\n\n${sections.join("\n")}\nOptions:\n${options.join("\n")}\n\n` +
      "Run 'shoal COMMAND --help' for more on a command.\n",
  );
  return 0;
}
