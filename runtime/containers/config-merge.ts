/** What a container's config becomes on top of its image's, by Docker's rules. Pure. */
import type { ContainerConfig } from "../../model/engine.ts";
import type { HealthConfig, Labels } from "../../model/specs.ts";

function mergeEnv(given: readonly string[], inherited: readonly string[]): readonly string[] {
  const keyOf = (entry: string): string => entry.split("=", 1)[0] ?? entry;
  const own = new Set(given.map(keyOf));
  return [...given, ...inherited.filter((entry) => !own.has(keyOf(entry)))];
}

function mergeHealth(
  given: HealthConfig | undefined,
  inherited: HealthConfig | undefined,
): HealthConfig | undefined {
  if (inherited === undefined) return given;
  if (given === undefined) return inherited;
  if ((given.Test ?? []).length > 0) return given;
  // Options without a test of their own change those of the image's test.
  const pick = (
    key: "Interval" | "Timeout" | "StartPeriod" | "StartInterval" | "Retries",
  ): Partial<HealthConfig> => {
    const value = (given[key] ?? 0) !== 0 ? given[key] : inherited[key];
    return value === undefined ? {} : { [key]: value };
  };
  return {
    ...(inherited.Test === undefined ? {} : { Test: inherited.Test }),
    ...pick("Interval"),
    ...pick("Timeout"),
    ...pick("StartPeriod"),
    ...pick("StartInterval"),
    ...pick("Retries"),
  };
}

function filled(list: readonly string[] | null | undefined): readonly string[] | undefined {
  return list !== null && list !== undefined && list.length > 0 ? list : undefined;
}

/** Entrypoint given: the image's command is not for it. [""] clears the image's entrypoint. */
function mergeCommand(
  given: ContainerConfig,
  image: ContainerConfig,
): { Entrypoint: readonly string[] | null; Cmd: readonly string[] | null } {
  const entrypoint = filled(given.Entrypoint);
  if (entrypoint !== undefined) {
    const isCleared = entrypoint.length === 1 && entrypoint[0] === "";
    return { Entrypoint: isCleared ? null : entrypoint, Cmd: filled(given.Cmd) ?? null };
  }
  return {
    Entrypoint: filled(image.Entrypoint) ?? null,
    Cmd: filled(given.Cmd) ?? filled(image.Cmd) ?? null,
  };
}

export function mergeConfig(given: ContainerConfig, image: ContainerConfig): ContainerConfig {
  const health = mergeHealth(given.Healthcheck, image.Healthcheck);
  const labels: Labels = { ...image.Labels, ...given.Labels };
  const ports = { ...image.ExposedPorts, ...given.ExposedPorts };
  const volumes = { ...image.Volumes, ...given.Volumes };
  const stopSignal = given.StopSignal ?? image.StopSignal;
  const shell = given.Shell ?? image.Shell;
  const base = { ...given };
  delete (base as { Healthcheck?: HealthConfig }).Healthcheck;
  return {
    ...base,
    ...mergeCommand(given, image),
    Env: mergeEnv(given.Env ?? [], image.Env ?? []),
    User: (given.User ?? "") === "" ? (image.User ?? "") : (given.User ?? ""),
    WorkingDir: (given.WorkingDir ?? "") === "" ? (image.WorkingDir ?? "") : (given.WorkingDir ?? ""),
    Labels: labels,
    ...(Object.keys(ports).length === 0 ? {} : { ExposedPorts: ports }),
    Volumes: Object.keys(volumes).length === 0 ? null : volumes,
    ...(stopSignal === undefined ? {} : { StopSignal: stopSignal }),
    ...(shell === undefined ? {} : { Shell: shell }),
    ...(health === undefined ? {} : { Healthcheck: health }),
  };
}

/** Arguments of the first process. */
export function commandOf(config: ContainerConfig): readonly string[] {
  return [...(config.Entrypoint ?? []), ...(config.Cmd ?? [])];
}
