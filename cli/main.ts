/**
 * Entry of the `shoal` program: reads the options before the command, loads that one command's file and runs it. Holds
 * nothing else, because every command pays for what is loaded here.
 */
import { loadModule } from "./load-module.ts";
import { ROOT_FLAGS, splitRootFlags } from "./root-flags.ts";

async function run(argv: readonly string[]): Promise<number> {
  const { rootFlags, rest, unknown, lacking } = splitRootFlags(argv);
  const [first, ...others] = rest;
  if (unknown !== undefined) {
    const { didYouMean } = await import("./suggestion.ts");
    const names = ROOT_FLAGS.map((flag) => flag.name);
    const meant = didYouMean(unknown.replace(/^-+|=.*$/gs, ""), names, "--");
    process.stderr.write(`unknown flag: ${unknown}\n${meant}See 'shoal --help'.\n`);
    return 125;
  }
  if (lacking !== undefined) {
    process.stderr.write(`flag needs an argument: ${lacking}\nSee 'shoal --help'.\n`);
    return 125;
  }
  if (rootFlags.bool("version")) {
    const { printVersion } = await import("./commands/help.ts");
    return printVersion();
  }
  if (first === undefined || first === "help" || rootFlags.bool("help")) {
    if (first === "help" && others.length > 0) return await run([...others, "--help"]);
    const { printHelp } = await import("./commands/help.ts");
    return printHelp();
  }
  const module = await loadModule(first);
  const definition = module?.definitions.find((each) => each.name === first);
  if (module === undefined || definition === undefined) {
    const { didYouMean } = await import("./suggestion.ts");
    const { GROUPS } = await import("./groups.ts");
    const meant = didYouMean(
      first,
      GROUPS.map((group) => group.name),
      "shoal ",
    );
    process.stderr.write(`shoal: '${first}' is not a shoal command.\n${meant}See 'shoal --help'.\n`);
    return 1;
  }
  return await module.runProgram(definition, others, rootFlags);
}

/** True once a command used Node's own stream objects, which may still hold output at the end. */
let areStreamsMade = false;

/** Notes the first use of process.stdout or .stderr, and ends the program when their reader is gone, as others do. */
function watchStream(name: "stdout" | "stderr"): void {
  const own = Object.getOwnPropertyDescriptor(process, name);
  if (own?.get === undefined) return;
  Object.defineProperty(process, name, {
    ...own,
    get: () => {
      const stream = own.get?.call(process) as NodeJS.WriteStream;
      Object.defineProperty(process, name, { ...own, get: () => stream });
      stream.on("error", (caught: NodeJS.ErrnoException) => process.exit(caught.code === "EPIPE" ? 0 : 1));
      areStreamsMade = true;
      return stream;
    },
  });
}

/**
 * Nothing is left to do: does not wait for idle connections, but does wait until what Node's streams hold is taken. Commands
 * that never made those streams (output/stream.ts) don't pay for them here.
 */
function finish(status: number): void {
  if (!areStreamsMade) process.exit(status);
  process.exitCode = status;
  process.stdout.write("", () => process.stderr.write("", () => process.exit(status)));
}

watchStream("stdout");
watchStream("stderr");
run(process.argv.slice(2)).then(finish, (caught: unknown) => {
  process.stderr.write(`shoal: ${caught instanceof Error ? caught.message : String(caught)}\n`);
  finish(1);
});
