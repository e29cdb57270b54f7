/** Which file holds which command. main.ts loads one, completion the one it completes. */
import type { CommandDefinition } from "./command.ts";
import type { runProgram } from "./program.ts";
import { GROUPS } from "./groups.ts";

/** What every file in commands/ exports. */
export interface CommandModule {
  readonly definitions: readonly CommandDefinition[];
  readonly runProgram: typeof runProgram;
}

const CONTAINER_VERBS = new Set(
  GROUPS.filter((group) => group.section === "Containers").map((group) => group.name),
);
const IMAGE_VERBS = new Set([
  "image",
  "images",
  "load",
  "save",
  "import",
  "pull",
  "push",
  "build",
  "tag",
  "rmi",
  "history",
  "search",
]);
const SYSTEM_VERBS = new Set(["system", "info", "version", "events", "inspect"]);
const SWARM_VERBS = new Set(["swarm", "init", "join"]);

/** Undefined: there is no such command. */
export async function loadModule(name: string): Promise<CommandModule | undefined> {
  if (CONTAINER_VERBS.has(name)) return await import("./commands/container.ts");
  if (IMAGE_VERBS.has(name)) return await import("./commands/image.ts");
  if (SYSTEM_VERBS.has(name)) return await import("./commands/system.ts");
  if (SWARM_VERBS.has(name)) return await import("./commands/swarm.ts");
  switch (name) {
    case "service":
      return await import("./commands/service.ts");
    case "stack":
      return await import("./commands/stack.ts");
    case "node":
      return await import("./commands/node.ts");
    case "secret":
    case "config":
      return await import("./commands/secret-config.ts");
    case "network":
      return await import("./commands/network.ts");
    case "login":
    case "logout":
      return await import("./commands/login.ts");
    case "builder":
      return await import("./commands/builder.ts");
    case "plugin":
      return await import("./commands/plugin.ts");
    case "volume":
      return await import("./commands/volume.ts");
    case "daemon":
      return await import("./commands/daemon.ts");
    case "dev":
      return await import("./commands/dev.ts");
    case "context":
    case "completion":
    case "__complete":
      return await import("./commands/tools.ts");
    default:
      return undefined;
  }
}
