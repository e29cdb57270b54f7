/**
 * Flags of a container that `run` and `create` have under the same name and in the same words as the commands of
 * services. Data only.
 */
import type { FlagDefinition } from "./command.ts";
import { bool, list, text } from "./command.ts";

export const WORKLOAD_FLAGS: readonly FlagDefinition[] = [
  list("cap-add", "name", "Add a Linux capability"),
  list("cap-drop", "name", "Drop a Linux capability"),
  text("entrypoint", "command", "Replace the image's entrypoint"),
  text("health-cmd", "command", "Command that checks health"),
  text("health-interval", "duration", "Time between checks"),
  text("health-retries", "count", "Failures in a row until unhealthy"),
  text("health-start-interval", "duration", "Time between checks in the start period"),
  text("health-start-period", "duration", "Time in which failures don't count"),
  text("health-timeout", "duration", "Longest time of one check"),
  text("log-driver", "name", "Log driver"),
  list("log-opt", "key=value", "Option of the log driver"),
  bool("no-healthcheck", "Turn the image's health check off"),
  text("oom-score-adj", "score", "-1000 to 1000"),
  bool("read-only", "Mount the root file system read-only"),
];

/** In the order in which help and completion show them. */
export function byName(flags: readonly FlagDefinition[]): readonly FlagDefinition[] {
  return flags.toSorted((left, right) => (left.name < right.name ? -1 : 1));
}
