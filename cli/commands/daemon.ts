/**
 * `shoal daemon`: hands its options to the daemon, which is loaded only here. The daemon is no part of the CLI: it is found
 * beside it at run time.
 */
import path from "node:path";
import { pathToFileURL } from "node:url";
import { ClusterError } from "../../common/errors.ts";
import type { DaemonCommandLine } from "../../model/daemon-command-line.ts";
import type { CommandContext, CommandDefinition } from "../command.ts";
import { bool, list, text } from "../command.ts";
import { choiceFlag, unsignedFlag } from "../flag-values.ts";
import { SERVER_FLAGS } from "../server-flags.ts";

export { runProgram } from "../program.ts";

/** Replaced by the bundler: the bundle lies one folder above the compiled files. */
declare const SHOAL_BUNDLE: boolean | undefined;

/** dist/daemon/main.js for the bundle and the compiled CLI, daemon/main.ts for the sources. */
function daemonModule(): string {
  if (typeof SHOAL_BUNDLE !== "undefined")
    return path.join(path.dirname(process.argv[1] ?? ""), "daemon", "main.js");
  const own = import.meta.filename;
  return path.join(path.dirname(own), "..", "..", "daemon", `main${path.extname(own)}`);
}

function optionsOf({ flags, rootFlags }: CommandContext): DaemonCommandLine {
  const given = <K extends string>(key: K, name: string): { readonly [P in K]?: string } => {
    const value = flags.string(name) ?? rootFlags.string(name);
    return (value === undefined ? {} : { [key]: value }) as { readonly [P in K]?: string };
  };
  const port = unsignedFlag(flags, "data-path-port");
  const level =
    choiceFlag(flags, "log-level", ["debug", "info", "warn", "error"]) ??
    (rootFlags.bool("debug") ? "debug" : undefined);
  const format = choiceFlag(flags, "log-format", ["json", "text"]);
  const isVerified = flags.bool("tlsverify") || rootFlags.bool("tlsverify");
  return {
    hosts: [...rootFlags.list("host"), ...flags.list("host")],
    labels: flags.list("label"),
    insecureRegistries: flags.list("insecure-registry"),
    registryMirrors: flags.list("registry-mirror"),
    ...given("dataRoot", "data-root"),
    ...given("execRoot", "exec-root"),
    ...given("pidfile", "pidfile"),
    ...given("listenAddr", "listen-addr"),
    ...given("advertiseAddr", "advertise-addr"),
    ...given("dataPathAddr", "data-path-addr"),
    ...given("tlsCaCert", "tlscacert"),
    ...given("tlsCert", "tlscert"),
    ...given("tlsKey", "tlskey"),
    ...given("configFile", "config"),
    ...given("usernsRemap", "userns-remap"),
    ...given("defaultRuntime", "default-runtime"),
    ...given("logDriver", "log-driver"),
    logOpts: flags.list("log-opt"),
    addRuntimes: flags.list("add-runtime"),
    addressPools: flags.list("default-address-pool"),
    ...(port === undefined ? {} : { dataPathPort: port }),
    ...(level === undefined ? {} : { logLevel: level }),
    ...(format === undefined ? {} : { logFormat: format }),
    ...(isVerified ? { tlsVerify: true } : {}),
    ...(flags.bool("tls") || rootFlags.bool("tls") ? { tls: true } : {}),
  };
}

/** Set by bin/shoal for a quick start of short commands. It fixes the seed of hash tables, which a server must not have. */
const QUICK_START_FLAG = "--no-rehash-snapshot";

/** Replaces this process by one with a server's flags, if it has the one of quick starts. NODE_OPTIONS may say otherwise. */
function leaveQuickStart(): void {
  if (!process.execArgv.includes(QUICK_START_FLAG) || process.execve === undefined) return;
  const chosen = (process.env["NODE_OPTIONS"] ?? "").replaceAll("_", "-");
  const isChosen = (flag: string): boolean => chosen.includes(flag.slice("--".length).replace(/=.*/, ""));
  const args = process.execArgv.filter((each) => each !== QUICK_START_FLAG);
  args.push(...SERVER_FLAGS.filter((flag) => !isChosen(flag)));
  process.execve(process.execPath, [process.execPath, ...args, ...process.argv.slice(1)], process.env);
}

async function run(context: CommandContext): Promise<number> {
  leaveQuickStart();
  // The daemon handles its own signals: its stop is orderly.
  process.removeAllListeners("SIGINT").removeAllListeners("SIGTERM");
  const file = daemonModule();
  const module = (await import(pathToFileURL(file).href)) as {
    runDaemon?: (options: DaemonCommandLine) => Promise<number | void>;
  };
  if (module.runDaemon === undefined)
    throw new ClusterError("internal", `Cannot start the daemon: "${file}" must export runDaemon`);
  return (await module.runDaemon(optionsOf(context))) ?? 0;
}

const daemon: CommandDefinition = {
  name: "daemon",
  usage: "[OPTIONS]",
  summary: "Run the daemon of this machine",
  argsMin: 0,
  argsMax: 0,
  flags: [
    list("add-runtime", "name=path", "Another OCI runtime for containers that ask for it"),
    text("advertise-addr", "address", "Address that other nodes use"),
    text("config", "file", "JSON file with these options"),
    text("data-path-addr", "address", "Address for the traffic of containers"),
    text("data-path-port", "port", "UDP port of the overlay networks"),
    text("data-root", "folder", "Folder of lasting state (default /var/lib/shoal)"),
    list("default-address-pool", "base=CIDR,size=BITS", "Pool for subnets of networks; may be given often"),
    text("default-runtime", "name", "Runtime of containers that ask for none (default shoal)"),
    text("exec-root", "folder", "Folder of state until reboot (default /run/shoal)"),
    list(
      "host",
      "URL",
      "Socket to serve the API on: unix:///path or tcp://ADDRESS:PORT; may be given often",
      "H",
    ),
    list("insecure-registry", "host|net", "Registry (or network of them) without TLS or with an unknown CA"),
    list("label", "key=value", "Label of this machine"),
    text("listen-addr", "address", "Address for the cluster's traffic (default 0.0.0.0:2377)"),
    text("log-driver", "driver", "Log driver of containers that ask for none (default json-file)"),
    text("log-format", "text|json", "Form of the log"),
    text("log-level", "level", "debug, info, warn or error"),
    list("log-opt", "key=value", "Option of that log driver; may be given often"),
    text("pidfile", "file", "File to write the process id to"),
    list("registry-mirror", "URL", "Asked before Docker Hub"),
    bool("tls", "Serve TCP with TLS"),
    text("tlscacert", "file", "CA that clients' certificates must be signed by"),
    text("tlscert", "file", "Certificate of the server"),
    text("tlskey", "file", "Key of the server"),
    bool("tlsverify", "Demand certificates of clients"),
    text("userns-remap", "user", "User[:group] whose subordinate ids containers get, or default"),
  ],
  run,
};

export const definitions: readonly CommandDefinition[] = [daemon];
