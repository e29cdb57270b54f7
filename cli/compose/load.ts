/**
 * Loads a stack from one or several Compose files: reads, puts variables in, checks, merges, reads env files, and checks that
 * all that services name is defined. All problems of all files are told at once; nothing is sent anywhere.
 */
import { existsSync, readFileSync } from "node:fs";
import path from "node:path";
import { ClusterError } from "../../common/errors.ts";
import { parseEnvFile } from "./interpolate.ts";
import { mergeStacks } from "./merge.ts";
import { placeOf } from "./places.ts";
import type { Value, ValueMap } from "./readers.ts";
import { composeFile } from "./schema.ts";
import { type MapNode, parseSource, Problems } from "./source.ts";
import type {
  ComposeFileObject,
  ComposeNetwork,
  ComposeService,
  ComposeStack,
  ComposeVolume,
} from "./types.ts";

export interface LoadOptions {
  /** Paths, or "-" for `stdin`. */
  readonly files: readonly string[];
  readonly stdin?: string;
  readonly env: Readonly<Record<string, string | undefined>>;
  readonly cwd: string;
  readonly skipsInterpolation?: boolean;
}

export interface LoadedStack {
  readonly stack: ComposeStack;
  readonly warnings: readonly string[];
}

function readText(file: string, options: LoadOptions): string {
  if (file === "-") return options.stdin ?? "";
  const found = path.resolve(options.cwd, file);
  try {
    return readFileSync(found, "utf8");
  } catch (caught) {
    throw new ClusterError("not_found", `Cannot read compose file "${file}": ${(caught as Error).message}`, {
      cause: caught,
    });
  }
}

/** The environment over the .env file beside the first Compose file. */
function variablesOf(folder: string, env: LoadOptions["env"]): ReadonlyMap<string, string> {
  const own = new Map(
    Object.entries(env).filter((entry): entry is [string, string] => entry[1] !== undefined),
  );
  const file = path.join(folder, ".env");
  if (!existsSync(file)) return own;
  try {
    return new Map([...parseEnvFile(readFileSync(file, "utf8"), own), ...own]);
  } catch (caught) {
    throw new ClusterError("invalid_argument", `${file}: ${(caught as Error).message}`, { cause: caught });
  }
}

function envOfFiles(
  service: ComposeService,
  folder: string,
  variables: ReadonlyMap<string, string>,
): Record<string, string> {
  const result: Record<string, string> = {};
  for (const entry of service.env_file ?? []) {
    const given = typeof entry === "string" ? entry : entry.path;
    const file = path.resolve(folder, given);
    if (!existsSync(file) && typeof entry !== "string" && entry.required === false) continue;
    try {
      Object.assign(result, Object.fromEntries(parseEnvFile(readFileSync(file, "utf8"), variables)));
    } catch (caught) {
      throw new ClusterError(
        "invalid_argument",
        `Cannot read env_file "${given}": ${(caught as Error).message}`,
        { cause: caught },
      );
    }
  }
  return result;
}

function withEnvFiles(
  service: ComposeService,
  folder: string,
  variables: ReadonlyMap<string, string>,
): ComposeService {
  if (service.env_file === undefined) return service;
  const fromFiles = envOfFiles(service, folder, variables);
  const merged: Record<string, string | null> = { ...fromFiles };
  for (const [name, value] of Object.entries(service.environment ?? {}))
    merged[name] = value ?? fromFiles[name] ?? null;
  return { ...service, environment: merged };
}

/** `external: {name: x}` and `external: true` to a name. */
function withExternalName<T extends { readonly name?: string; readonly external?: boolean }>(
  key: string,
  definition: T,
): T {
  const external = definition.external as boolean | { readonly name?: string } | undefined;
  if (external === undefined || external === false) return definition;
  const name = typeof external === "object" ? (external.name ?? key) : (definition.name ?? key);
  return { ...definition, name, external: true };
}

function mapValues<T, U>(
  record: Readonly<Record<string, T>>,
  change: (value: T, key: string) => U,
): Record<string, U> {
  return Object.fromEntries(Object.entries(record).map(([key, value]) => [key, change(value, key)]));
}

/** Networks, volumes, secrets and configs that services name and no section defines. */
function checkReferences(stack: ComposeStack, sources: readonly MapNode[], problems: Problems): void {
  const start = { file: sources[0]?.at.file ?? "", line: 1, column: 1 };
  const check = (
    service: string,
    kind: "networks" | "volumes" | "secrets" | "configs",
    name: string,
  ): void => {
    if (!Object.hasOwn(stack[kind], name)) {
      problems.error(
        placeOf(sources, service, { section: kind, name }) ?? start,
        `service "${service}" names ${kind.slice(0, -1)} "${name}", which is not defined under "${kind}"`,
      );
    }
  };
  for (const [name, service] of Object.entries(stack.services)) {
    for (const network of Object.keys(service.networks ?? {}))
      if (network !== "default") check(name, "networks", network);
    for (const mount of service.volumes ?? []) {
      if (mount.type === "volume" && (mount.source ?? "") !== "") check(name, "volumes", mount.source ?? "");
    }
    for (const secret of service.secrets ?? []) check(name, "secrets", secret.source);
    for (const config of service.configs ?? []) check(name, "configs", config.source);
    if ((service.image ?? "") === "")
      problems.error(placeOf(sources, name) ?? start, `service "${name}" has no image`);
  }
}

function complete(value: ValueMap, folder: string, variables: ReadonlyMap<string, string>): ComposeStack {
  const section = <T>(name: string): Readonly<Record<string, T>> =>
    (value[name] ?? {}) as unknown as Readonly<Record<string, T>>;
  return {
    ...(value as unknown as ComposeStack),
    services: mapValues(section<ComposeService>("services"), (service) =>
      withEnvFiles(service, folder, variables),
    ),
    networks: mapValues(section<ComposeNetwork>("networks"), (each, key) => withExternalName(key, each)),
    volumes: mapValues(section<ComposeVolume>("volumes"), (each, key) => withExternalName(key, each)),
    secrets: mapValues(section<ComposeFileObject>("secrets"), (each, key) => withExternalName(key, each)),
    configs: mapValues(section<ComposeFileObject>("configs"), (each, key) => withExternalName(key, each)),
  };
}

function fail(errors: readonly string[]): never {
  throw new ClusterError(
    "invalid_argument",
    errors.length === 1
      ? (errors[0] ?? "")
      : `${errors.length} problems:\n${errors.map((each) => `  ${each}`).join("\n")}`,
  );
}

/** Throws invalid_argument with every problem, each with file:line:column. */
export function loadStack(options: LoadOptions): LoadedStack {
  const [first] = options.files;
  if (first === undefined)
    throw new ClusterError("invalid_argument", "Please specify a Compose file (with --compose-file)");
  const folder = first === "-" ? options.cwd : path.dirname(path.resolve(options.cwd, first));
  const variables = variablesOf(folder, options.env);
  const problems = new Problems();
  const sources: MapNode[] = [];
  let merged: ValueMap | undefined;
  for (const file of options.files) {
    const name = file === "-" ? "stdin" : file;
    const source = parseSource(name, readText(file, options), {
      problems,
      variables: options.skipsInterpolation === true ? undefined : variables,
    });
    if (source === undefined) continue;
    sources.push(source);
    const value = composeFile(source, { problems, folder, variables, path: "" }) as
      | Readonly<Record<string, Value>>
      | undefined;
    if (value !== undefined) merged = merged === undefined ? value : mergeStacks(merged, value);
  }
  if (problems.errors.length > 0 || merged === undefined) fail(problems.errors);
  const stack = complete(merged, folder, variables);
  checkReferences(stack, sources, problems);
  if (problems.errors.length > 0) fail(problems.errors);
  return { stack, warnings: problems.warnings };
}
