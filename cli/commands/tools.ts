/** `shoal context …` and `shoal completion`: names for daemons, and completion scripts for shells. */
import { existsSync, mkdirSync, renameSync, writeFileSync } from "node:fs";
import path from "node:path";
import { ClusterError } from "../../common/errors.ts";
import type { ContextEntry, ContextsFile, ContextTls } from "../client/endpoint.ts";
import {
  CONTEXTS_FILE,
  configFolder,
  DEFAULT_HOST,
  readContexts,
  resolveEndpoint,
} from "../client/endpoint.ts";
import type { CommandContext, CommandDefinition, FlagDefinition } from "../command.ts";
import { bool, FORMAT_FLAG, INSPECT_FORMAT_FLAG, QUIET_FLAG, text } from "../command.ts";
import { given } from "../flag-values.ts";
import { GROUPS } from "../groups.ts";
import type { ListFormat } from "../output/table.ts";
import { formatInspect, formatList } from "../output/table.ts";

export { runProgram } from "../program.ts";

/** The context of this machine's own daemon, which is always there. */
const DEFAULT_NAME = "default";
const ENTRY_FLAGS: readonly FlagDefinition[] = [
  text("host", "URL", "unix:///path or tcp://HOST:PORT"),
  text("description", "text", "What it is"),
  bool("tlsverify", "Use TLS and verify the daemon"),
  text("tlscacert", "file", "Trust certificates signed by this CA"),
  text("tlscert", "file", "Certificate of the client"),
  text("tlskey", "file", "Key of the client"),
];

interface ContextRow {
  readonly name: string;
  readonly host: string;
  readonly description: string;
  readonly isCurrent: boolean;
}

const contextList: ListFormat<ContextRow> = {
  columns: {
    Name: { header: "NAME", get: (row) => (row.isCurrent ? `${row.name} *` : row.name) },
    Description: { header: "DESCRIPTION", get: (row) => row.description },
    Host: { header: "HOST", get: (row) => row.host },
    Current: { header: "CURRENT", get: (row) => row.isCurrent },
  },
  defaults: ["Name", "Description", "Host"],
  quiet: (row) => row.name,
};

function write(env: CommandContext["env"], file: ContextsFile): void {
  const folder = configFolder(env);
  const target = path.join(folder, CONTEXTS_FILE);
  mkdirSync(folder, { recursive: true, mode: 0o700 });
  writeFileSync(`${target}.tmp`, `${JSON.stringify(file, null, 2)}\n`, { mode: 0o600 });
  renameSync(`${target}.tmp`, target);
}

/** From the flags, here or before the command; without them there is no TLS. Files of DOCKER_CERT_PATH are remembered too. */
function contextTls({ env, flags, rootFlags }: CommandContext): ContextTls | undefined {
  const verify = flags.bool("tlsverify") || rootFlags.bool("tlsverify");
  const file = (flag: string, name: string): string | undefined => {
    const written = flags.string(flag) ?? rootFlags.string(flag);
    if (written !== undefined) return path.resolve(written);
    const usual = path.resolve(env["DOCKER_CERT_PATH"] ?? "", name);
    return env["DOCKER_CERT_PATH"] !== undefined && existsSync(usual) ? usual : undefined;
  };
  const isAsked = ["tlscacert", "tlscert", "tlskey"].some(
    (flag) => (flags.string(flag) ?? rootFlags.string(flag)) !== undefined,
  );
  if (!verify && !rootFlags.bool("tls") && !isAsked) return undefined;
  const [caCert, cert, key] = [
    file("tlscacert", "ca.pem"),
    file("tlscert", "cert.pem"),
    file("tlskey", "key.pem"),
  ];
  return {
    verify,
    ...(caCert === undefined ? {} : { caCert }),
    ...(cert === undefined ? {} : { cert }),
    ...(key === undefined ? {} : { key }),
  };
}

/** What the flags say of a daemon. Throws for an address that is none. */
function contextFields(command: CommandContext): Partial<ContextEntry> {
  const { flags } = command;
  const host = flags.string("host");
  if (host !== undefined) resolveEndpoint({ host, env: {} });
  return given({ host, description: flags.string("description"), tls: contextTls(command) });
}

function notFound(name: string): ClusterError {
  return new ClusterError("not_found", `Context "${name}" not found`);
}

async function runCreate(command: CommandContext): Promise<void> {
  const { env, args, out } = command;
  const name = args[0] ?? "";
  if (!/^[a-zA-Z0-9][a-zA-Z0-9_.+-]*$/.test(name) || name === DEFAULT_NAME) {
    throw new ClusterError("invalid_argument", `Invalid context name "${name}"`);
  }
  const { host, ...others } = contextFields(command);
  if (host === undefined)
    throw new ClusterError("invalid_argument", "--host is required: unix:///path or tcp://HOST:PORT");
  const file = readContexts(env);
  if (file.contexts[name] !== undefined)
    throw new ClusterError("already_exists", `Context "${name}" exists already`);
  write(env, { ...file, contexts: { ...file.contexts, [name]: { host, ...others } } });
  out.write(`${name}\n`);
}

async function runUpdate(command: CommandContext): Promise<void> {
  const { env, args, out } = command;
  const name = args[0] ?? "";
  const file = readContexts(env);
  const known = file.contexts[name];
  if (known === undefined) throw notFound(name);
  const entry = { ...known, ...contextFields(command) };
  write(env, { ...file, contexts: { ...file.contexts, [name]: entry } });
  out.write(`${name}\n`);
}

/** In docker's shape. */
function describeContext(name: string, { description = "", host, tls }: ContextEntry): object {
  return {
    Name: name,
    Metadata: description === "" ? {} : { Description: description },
    Endpoints: { docker: { Host: host, SkipTLSVerify: tls?.verify === false } },
    TLSMaterial: given({ CA: tls?.caCert, Cert: tls?.cert, Key: tls?.key }),
  };
}

async function runInspect({ env, flags, args, out }: CommandContext): Promise<void> {
  const { contexts, current = DEFAULT_NAME } = readContexts(env);
  const found = (args.length > 0 ? args : [current]).map((name) => {
    const entry = name === DEFAULT_NAME ? { host: DEFAULT_HOST } : contexts[name];
    if (entry === undefined) throw notFound(name);
    return describeContext(name, entry);
  });
  out.write(formatInspect(found, flags.string("format")));
}

async function runUse({ env, args, out }: CommandContext): Promise<void> {
  const name = args[0] ?? "";
  const file = readContexts(env);
  if (name !== DEFAULT_NAME && file.contexts[name] === undefined) throw notFound(name);
  write(env, { ...file, current: name });
  out.write(`${name}\n`);
}

async function runRemove({ env, flags, args, out }: CommandContext): Promise<void> {
  for (const name of args) {
    const file = readContexts(env);
    if (file.contexts[name] === undefined) throw notFound(name);
    // Whoever goes on without it would talk to another daemon.
    if (file.current === name && !flags.bool("force")) {
      throw new ClusterError(
        "failed_precondition",
        `context "${name}" is in use, set -f flag to force remove`,
      );
    }
    const contexts = Object.fromEntries(Object.entries(file.contexts).filter(([key]) => key !== name));
    write(
      env,
      file.current === name || file.current === undefined
        ? { contexts }
        : { contexts, current: file.current },
    );
    out.write(`${name}\n`);
  }
}

async function runList({ env, flags, out }: CommandContext): Promise<void> {
  const file = readContexts(env);
  const current = file.current ?? DEFAULT_NAME;
  const rows: ContextRow[] = [
    {
      name: DEFAULT_NAME,
      host: DEFAULT_HOST,
      description: "This machine's daemon",
      isCurrent: current === DEFAULT_NAME,
    },
    ...Object.entries(file.contexts).map(([name, entry]) => ({
      name,
      host: entry.host,
      description: entry.description ?? "",
      isCurrent: current === name,
    })),
  ];
  out.write(formatList(rows, contextList, { format: flags.string("format"), isQuiet: flags.bool("quiet") }));
}

const COMPLETE = "__complete";

function completionScript(shell: string): string {
  switch (shell) {
    case "bash":
      return `_shoal() { mapfile -t COMPREPLY < <(shoal ${COMPLETE} "\${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null); }\ncomplete -o default -F _shoal shoal\n`;
    case "zsh":
      return `#compdef shoal\n_shoal() { compadd -- $(shoal ${COMPLETE} "\${(@)words[2,CURRENT]}" 2>/dev/null) }\ncompdef _shoal shoal\n`;
    case "fish":
      return `complete -c shoal -f -a '(shoal ${COMPLETE} (commandline -opc)[2..-1] (commandline -ct) 2>/dev/null)'\n`;
    default:
      throw new ClusterError("invalid_argument", `Unknown shell "${shell}": expected bash, zsh or fish`);
  }
}

/** Candidates for the last word. Objects of the daemon are asked for where a command takes them. */
async function complete({ args, out, client }: CommandContext): Promise<void> {
  const words = args.slice(0, -1);
  const last = args.at(-1) ?? "";
  const { candidates } = await import("../completion.ts");
  const found = await candidates(words, last, client);
  out.write(
    found
      .filter((each) => each.startsWith(last))
      .map((each) => `${each}\n`)
      .join(""),
  );
}

export const definitions: readonly CommandDefinition[] = [
  {
    name: "context",
    usage: "COMMAND",
    summary: GROUPS.find((group) => group.name === "context")?.summary ?? "",
    argsMin: 0,
    flags: [],
    commands: [
      {
        name: "create",
        usage: "[OPTIONS] CONTEXT",
        summary: "Name a daemon",
        argsMin: 1,
        argsMax: 1,
        flags: ENTRY_FLAGS,
        run: runCreate,
      },
      {
        name: "inspect",
        usage: "[OPTIONS] [CONTEXT...]",
        summary: "Show contexts as JSON",
        argsMin: 0,
        flags: [INSPECT_FORMAT_FLAG],
        run: runInspect,
      },
      {
        name: "ls",
        aliases: ["list"],
        usage: "[OPTIONS]",
        summary: "List contexts",
        argsMin: 0,
        argsMax: 0,
        flags: [FORMAT_FLAG, QUIET_FLAG],
        run: runList,
      },
      {
        name: "update",
        usage: "[OPTIONS] CONTEXT",
        summary: "Change what is remembered of a daemon",
        argsMin: 1,
        argsMax: 1,
        flags: ENTRY_FLAGS,
        run: runUpdate,
      },
      {
        name: "use",
        usage: "CONTEXT",
        summary: "Talk to this daemon from now on",
        argsMin: 1,
        argsMax: 1,
        flags: [],
        run: runUse,
      },
      {
        name: "show",
        usage: "",
        summary: "Print the current context",
        argsMin: 0,
        argsMax: 0,
        flags: [],
        run: async ({ env, out }) => out.write(`${readContexts(env).current ?? DEFAULT_NAME}\n`),
      },
      {
        name: "rm",
        aliases: ["remove"],
        usage: "CONTEXT [CONTEXT...]",
        summary: "Forget contexts",
        argsMin: 1,
        flags: [bool("force", "Also the current one", "f")],
        run: runRemove,
      },
    ],
  },
  {
    name: "completion",
    usage: "bash|zsh|fish",
    summary: "Print a completion script; load it with: source <(shoal completion bash)",
    argsMin: 1,
    argsMax: 1,
    flags: [],
    run: async ({ args, out }) => out.write(completionScript(args[0] ?? "")),
  },
  {
    name: COMPLETE,
    usage: "WORD...",
    summary: "Candidates for completion",
    argsMin: 0,
    stopsAtArgument: true,
    flags: [],
    isHidden: true,
    run: complete,
  },
];
