/** Options that stand before the command: which daemon to talk to. Data and the reading of them. */
import type { FlagDefinition } from "./command.ts";
import { bool, Flags, list, text } from "./command.ts";
import type { EndpointOptions } from "./client/endpoint.ts";

export const ROOT_FLAGS: readonly FlagDefinition[] = [
  list("host", "URL", "Daemon to talk to: unix:///path, tcp://HOST:PORT (SHOAL_HOST, DOCKER_HOST)", "H"),
  text("context", "name", "Named daemon to talk to (see shoal context)", "c"),
  bool("tls", "Use TLS"),
  bool("tlsverify", "Use TLS and verify the daemon"),
  text("tlscacert", "file", "Trust certificates signed by this CA"),
  text("tlscert", "file", "Certificate of the client"),
  text("tlskey", "file", "Key of the client"),
  text("log-level", "level", "debug, info, warn or error"),
  bool("debug", "Show the cause of errors", "D"),
  bool("version", "Print the version and quit", "v"),
  bool("help", "Show help", "h"),
];

export interface SplitCommandLine {
  readonly rootFlags: Flags;
  /** The command and what follows; empty if there was none. */
  readonly rest: readonly string[];
  /** A token before the command that is no known option. */
  readonly unknown?: string;
  /** An option before the command whose value is not there. */
  readonly lacking?: string;
}

/** Cuts the options before the command off. Small on purpose: it runs before anything else is loaded. */
export function splitRootFlags(argv: readonly string[]): SplitCommandLine {
  const values = new Map<string, boolean | string | readonly string[]>();
  let index = 0;
  for (; index < argv.length; index += 1) {
    const token = argv[index] ?? "";
    if (!token.startsWith("-")) break;
    const [, name = "", glued] = /^--([^=]+)(?:=(.*))?$/s.exec(token) ?? [];
    const short = /^-([A-Za-z])(.*)$/s.exec(token);
    const flag = ROOT_FLAGS.find((each) =>
      token.startsWith("--") ? each.name === name : each.short === short?.[1],
    );
    if (flag === undefined) return { rootFlags: new Flags(values), rest: argv.slice(index), unknown: token };
    let value: string | undefined = glued ?? (short?.[2] === "" ? undefined : short?.[2]?.replace(/^=/, ""));
    if (flag.kind === "bool") {
      values.set(flag.name, value !== "false");
      continue;
    }
    if (value === undefined) {
      index += 1;
      value = argv[index];
      if (value === undefined) return { rootFlags: new Flags(values), rest: [], lacking: token };
    }
    if (flag.kind === "list")
      values.set(flag.name, [...((values.get(flag.name) as string[] | undefined) ?? []), value]);
    else values.set(flag.name, value);
  }
  return { rootFlags: new Flags(values), rest: argv.slice(index) };
}

export function endpointOptions(
  flags: Flags,
  env: Readonly<Record<string, string | undefined>>,
): EndpointOptions {
  const host = flags.list("host").at(-1);
  const given = (name: string): string | undefined => flags.string(name);
  const [context, ca, cert, key] = [given("context"), given("tlscacert"), given("tlscert"), given("tlskey")];
  return {
    env,
    ...(host === undefined ? {} : { host }),
    ...(context === undefined ? {} : { context }),
    ...(flags.bool("tls") ? { tls: true } : {}),
    ...(flags.bool("tlsverify") ? { tlsVerify: true } : {}),
    ...(ca === undefined ? {} : { tlsCaCert: ca }),
    ...(cert === undefined ? {} : { tlsCert: cert }),
    ...(key === undefined ? {} : { tlsKey: key }),
  };
}
