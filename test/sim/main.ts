/**
 * Starts command.ts, whose usage see, in a process of its own settings: a single run is over before V8's best compiler pays,
 * and makes much that is soon garbage. A hunt is long, and better off with what V8 does by itself.
 */
const FLAGS: readonly string[] = [
  // Maglev, the compiler before the last, is the last.
  "--no-opt",
  // Nor does all that it can do pay: these two cost more to compile than so short a run gets back.
  "--no-maglev-loop-peeling",
  "--no-maglev-poly-calls",
  // The collector's helper threads cost more processor time than they save.
  "--single-threaded-gc",
  // MiB. What lives for an event or a few is gone before the young generation is full.
  "--min-semi-space-size=64",
  "--max-semi-space-size=64",
  // MiB. More than a run keeps: nothing old is worth looking for.
  "--initial-old-space-size=1000",
  // The same for its buffers, which have a far lower limit of their own.
  "--external-memory-accounted-in-global-limit",
];

const { argv, env, execArgv, execPath } = process;
const isHunt = argv.some((each) => each === "--hunt" || each.startsWith("--hunt="));
const isSet = FLAGS.every((flag) => execArgv.includes(flag));
if (isHunt || isSet || process.execve === undefined) await import("./command.ts");
else process.execve(execPath, [execPath, ...execArgv, ...FLAGS, ...argv.slice(1)], env);
