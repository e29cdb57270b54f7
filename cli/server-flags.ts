/** V8's flags of a process that serves for long: the daemon, and the members that bench/consensus measures. */
export const SERVER_FLAGS: readonly string[] = [
  // MiB. By itself V8 lets a burst of requests take 16, twice, and never gives them back.
  "--max-semi-space-size=8",
  // By itself V8 marks the whole heap each time that so many bytes of buffers came to be, however soon they are garbage. A
  // manager that takes in batches did so three times a second, for a tenth of its processor time.
  "--external-memory-accounted-in-global-limit",
];
