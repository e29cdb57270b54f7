/** What may stand at the end of a half-typed command line. Asks the daemon for names where a command takes objects. */
import type { ApiClient } from "./client/api-client.ts";
import type { CommandDefinition } from "./command.ts";
import { GROUPS } from "./groups.ts";
import { loadModule } from "./load-module.ts";

interface NamedObject {
  readonly ID?: string;
  readonly Name?: string;
  readonly Names?: readonly string[];
  readonly RepoTags?: readonly string[] | null;
  readonly Spec?: { readonly Name?: string };
  readonly Description?: { readonly Hostname?: string };
}

/** The list that holds the objects a usage line names, by its first upper-case word. */
const OBJECT_PATHS: Readonly<Record<string, string>> = {
  SERVICE: "/services",
  NODE: "/nodes",
  NETWORK: "/networks",
  SECRET: "/secrets",
  CONFIG: "/configs",
  CONTAINER: "/containers/json?all=1",
  IMAGE: "/images/json",
  PLUGIN: "/plugins",
};

async function objectNames(client: ApiClient, usage: string): Promise<string[]> {
  const noun = Object.keys(OBJECT_PATHS).find((each) => new RegExp(`\\b${each}\\b`).test(usage));
  if (noun === undefined) return [];
  try {
    const objects = await client.get<readonly NamedObject[]>(OBJECT_PATHS[noun] ?? "", {
      signal: AbortSignal.timeout(1000),
    });
    return objects.flatMap((each) => [
      ...(each.RepoTags ?? []),
      ...(each.Names ?? []).map((name) => name.replace(/^\//, "")),
      ...[each.Spec?.Name, each.Name, each.Description?.Hostname].filter(
        (name) => name !== undefined && name !== "",
      ),
    ]) as string[];
  } catch {
    // Completion stays quiet when there is no daemon.
    return [];
  }
}

/** `words`: what stands before the last word. */
export async function candidates(
  words: readonly string[],
  last: string,
  client: ApiClient,
): Promise<string[]> {
  const [first, ...rest] = words.filter((word) => !word.startsWith("-"));
  if (first === undefined) return GROUPS.map((group) => group.name);
  const module = await loadModule(first);
  let definition: CommandDefinition | undefined = module?.definitions.find((each) => each.name === first);
  for (const word of rest) {
    definition =
      definition?.commands?.find((each) => each.name === word || each.aliases?.includes(word) === true) ??
      definition;
  }
  if (definition === undefined) return [];
  if (last.startsWith("-")) return [...definition.flags.map((flag) => `--${flag.name}`), "--help"];
  if (definition.commands !== undefined)
    return definition.commands.filter((each) => each.isHidden !== true).map((each) => each.name);
  return await objectNames(client, definition.usage);
}
