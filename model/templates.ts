/**
 * Placeholders in service specs and in secrets and configs with a template driver, as Docker has them: {{.Service.Name}},
 * {{.Node.Hostname}}, {{.Task.Slot}}… Expanded where a task runs, with what is known of it there; checked with made-up
 * values when a spec is accepted. Pure.
 */
import { ClusterError } from "../common/errors.ts";
import { compileTemplate, type TemplateFunction } from "../common/go-template.ts";
import type { Node, Task } from "./objects.ts";
import type { ContainerSpec, Mount } from "./specs.ts";

/** What placeholders can name. */
export interface TemplateContext {
  readonly Service: {
    readonly ID: string;
    readonly Name: string;
    readonly Labels: Readonly<Record<string, string>>;
  };
  readonly Node: {
    readonly ID: string;
    readonly Hostname: string;
    readonly Platform: { readonly OS: string; readonly Architecture: string };
  };
  readonly Task: { readonly ID: string; readonly Name: string; readonly Slot: string };
}

/** A secret or config of at most 1000 KiB, expanded. */
const OUTPUT_CHARS_MAX = 2 * 1024 * 1024;

/** The slot of a global task is its node's id. */
export function templateContext(
  task: Pick<Task, "id" | "name" | "slot" | "serviceId" | "serviceName" | "serviceLabels">,
  node: { readonly id: string } & Pick<Partial<Node>, "description">,
): TemplateContext {
  return {
    Service: { ID: task.serviceId, Name: task.serviceName, Labels: task.serviceLabels },
    Node: {
      ID: node.id,
      Hostname: node.description?.Hostname ?? "",
      Platform: {
        OS: node.description?.Platform.OS ?? "linux",
        Architecture: node.description?.Platform.Architecture ?? "",
      },
    },
    Task: { ID: task.id, Name: task.name, Slot: task.slot > 0 ? String(task.slot) : node.id },
  };
}

/** Expands one text. Throws invalid_argument naming `what` on a bad template. */
export function expand(text: string, context: TemplateContext, what: string): string {
  return text.includes("{{") ? run(text, context, { what, functions: {} }) : text;
}

function run(
  text: string,
  context: TemplateContext,
  options: { readonly what: string; readonly functions: Readonly<Record<string, TemplateFunction>> },
): string {
  try {
    const template = compileTemplate(text, {
      strict: "everywhere",
      outputCharsMax: OUTPUT_CHARS_MAX,
      functions: {
        join: (separator, ...parts) => parts.map(String).join(String(separator)),
        ...options.functions,
      },
    });
    return template(context);
  } catch (caught) {
    const error = ClusterError.from(caught);
    throw new ClusterError("invalid_argument", `invalid template in ${options.what}: ${error.message}`, {
      cause: caught,
    });
  }
}

/** The spec with the fields expanded that Docker expands: hostname, environment, mounts' sources, targets and labels. */
export function expandContainerSpec(spec: ContainerSpec, context: TemplateContext): ContainerSpec {
  return {
    ...spec,
    ...(spec.Hostname === undefined ? {} : { Hostname: expand(spec.Hostname, context, "hostname") }),
    ...(spec.Env === undefined
      ? {}
      : { Env: spec.Env.map((entry) => expand(entry, context, "environment")) }),
    ...(spec.Mounts === undefined ? {} : { Mounts: spec.Mounts.map((mount) => expandMount(mount, context)) }),
  };
}

function expandMount(mount: Mount, context: TemplateContext): Mount {
  const { VolumeOptions: volume } = mount;
  const values = (map: Readonly<Record<string, string>>): Record<string, string> =>
    Object.fromEntries(Object.entries(map).map(([key, value]) => [key, expand(value, context, "mount")]));
  const driver = volume?.DriverConfig;
  return {
    ...mount,
    Target: expand(mount.Target, context, "mount target"),
    ...(mount.Source === undefined ? {} : { Source: expand(mount.Source, context, "mount source") }),
    ...(volume === undefined
      ? {}
      : {
          VolumeOptions: {
            ...volume,
            ...(volume.Labels === undefined ? {} : { Labels: values(volume.Labels) }),
            ...(driver?.Options === undefined
              ? {}
              : { DriverConfig: { ...driver, Options: values(driver.Options) } }),
          },
        }),
  };
}

/** What a templated secret or config may read of the task's other ones, by target name, and of its environment. */
export interface PayloadSources {
  /** "NAME=value" entries, expanded. */
  readonly env: readonly string[];
  /** By the target's file name. */
  readonly secret: (target: string) => string | undefined;
  readonly config: (target: string) => string | undefined;
}

/** Expands a secret's or config's data that has the "golang" template driver. */
export function expandPayload(
  data: Uint8Array,
  context: TemplateContext,
  sources: PayloadSources,
): Uint8Array {
  const env = new Map(
    sources.env.map((entry) => {
      const at = entry.indexOf("=");
      return at < 0 ? [entry, ""] : [entry.slice(0, at), entry.slice(at + 1)];
    }),
  );
  const named = (kind: string, find: (target: string) => string | undefined): TemplateFunction => {
    return (target) => {
      const value = find(String(target));
      if (value !== undefined) return value;
      throw new ClusterError("invalid_argument", `${kind} target ${String(target)} not found`);
    };
  };
  const functions = {
    env: (name: unknown): string => env.get(String(name)) ?? "",
    secret: named("secret", sources.secret),
    config: named("config", sources.config),
  };
  const text = new TextDecoder().decode(data);
  return new TextEncoder().encode(run(text, context, { what: "template payload", functions }));
}

const SAMPLE: TemplateContext = {
  Service: { ID: "service", Name: "service", Labels: {} },
  Node: { ID: "node", Hostname: "host", Platform: { OS: "linux", Architecture: "amd64" } },
  Task: { ID: "task", Name: "service.1.task", Slot: "1" },
};

/** Throws invalid_argument if a placeholder of the spec is no valid template, or names what no task has. */
export function checkTemplates(
  spec: ContainerSpec,
  serviceLabels: Readonly<Record<string, string>> = {},
): void {
  expandContainerSpec(spec, { ...SAMPLE, Service: { ...SAMPLE.Service, Labels: serviceLabels } });
}
