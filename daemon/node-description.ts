/** What this machine is, as the scheduler and `node inspect` see it. */
import { arch, cpus, hostname, totalmem } from "node:os";
import { LOG_DRIVERS } from "../model/log-drivers.ts";
import type { NodeDescription, TlsInfo } from "../model/objects.ts";
import type { GenericResource } from "../model/specs.ts";
import type { LiveIdentity } from "../proto/rpc-identity.ts";
import type * as MemberParts from "./member-parts.ts";

const ARCHITECTURES: Readonly<Record<string, string>> = { x64: "x86_64", arm64: "aarch64" };

/** "KIND=NUMBER" is discrete, "KIND=NAME" one of a named kind. */
function genericResource(text: string): GenericResource {
  const [Kind = "", value = ""] = text.split("=");
  return /^\d+$/.test(value)
    ? { DiscreteResourceSpec: { Kind, Value: Number(value) } }
    : { NamedResourceSpec: { Kind, Value: value } };
}

export function describeNode(options: {
  readonly version: string;
  readonly labels: readonly string[];
  readonly genericResources: readonly string[];
  readonly volumeDrivers: readonly string[];
}): NodeDescription {
  const labels = Object.fromEntries(
    options.labels.map((label) => {
      const at = label.indexOf("=");
      return [label.slice(0, at), label.slice(at + 1)];
    }),
  );
  return {
    Hostname: hostname(),
    Platform: { Architecture: ARCHITECTURES[arch()] ?? arch(), OS: "linux" },
    Resources: {
      NanoCPUs: cpus().length * 1e9,
      MemoryBytes: totalmem(),
      ...(options.genericResources.length === 0
        ? {}
        : { GenericResources: options.genericResources.map(genericResource) }),
    },
    Engine: {
      EngineVersion: options.version,
      Labels: labels,
      Plugins: [
        ...named(
          "Log",
          LOG_DRIVERS.filter((name) => name !== "none"),
        ),
        ...named("Network", ["bridge", "host", "null", "overlay"]),
        ...named("Volume", options.volumeDrivers),
      ],
    },
  };
}

/** In order, as Docker lists them. */
function named(Type: string, names: readonly string[]): readonly { Type: string; Name: string }[] {
  return names.toSorted().map((Name) => ({ Type, Name }));
}

/** Description with the facts of the root: those are read once for each root, since every task that starts asks. */
export function describedBy(
  description: () => NodeDescription,
  { live, tlsInfoOf }: { readonly live: LiveIdentity } & Pick<typeof MemberParts, "tlsInfoOf">,
): () => NodeDescription {
  let known: { readonly rootCa: string; readonly tlsInfo: TlsInfo } | undefined;
  return () => {
    const { rootCa } = live.current;
    if (known?.rootCa !== rootCa) known = { rootCa, tlsInfo: tlsInfoOf(rootCa) };
    return { ...description(), TLSInfo: known.tlsInfo };
  };
}
