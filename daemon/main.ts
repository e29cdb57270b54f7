/** The process of `shoal daemon`: options, log, signals, exit status. */
import { createLogger, type Logger } from "../common/log.ts";
import { ClusterError } from "../common/errors.ts";
import type { DaemonCommandLine } from "../model/daemon-command-line.ts";
import { parseAddressPool } from "../runtime/network/address-pools.ts";
import { Daemon, nativeBinary } from "./daemon.ts";
import { enterRootless, rootlessSide } from "./rootless.ts";
import {
  type DaemonFlags,
  type DaemonOptions,
  parseLogOpts,
  parseRuntimes,
  resolveOptions,
} from "./options.ts";

function flagsOf(line: DaemonCommandLine): DaemonFlags {
  const { addRuntimes, addressPools, logOpts, hosts, labels, ...lists } = line;
  const { insecureRegistries, registryMirrors, ...others } = lists;
  const { pidfile, configFile, tls, ...rest } = others;
  return {
    ...rest,
    ...(addRuntimes.length > 0 ? { runtimes: parseRuntimes(addRuntimes) } : {}),
    ...(logOpts.length > 0 ? { logOpts: parseLogOpts(logOpts) } : {}),
    ...(addressPools.length > 0 ? { defaultAddressPools: addressPools.map(parseAddressPool) } : {}),
    ...(hosts.length > 0 ? { hosts } : {}),
    ...(labels.length > 0 ? { labels } : {}),
    ...(insecureRegistries.length > 0 ? { insecureRegistries } : {}),
    ...(registryMirrors.length > 0 ? { registryMirrors } : {}),
    pidFile: pidfile,
    config: configFile,
    tlsOn: tls,
  };
}

/** After a stop signal, how long parts may take before the process ends anyway. */
const STOP_TIMEOUT_MS = 30_000;

/**
 * As dockerd's, whatever the daemon was started under: names and name servers of a container must be readable to its users,
 * and nothing may be there for all to write before it gets its own mode.
 */
const UMASK = 0o022;

function daemonLogger(options: DaemonOptions): Logger {
  return createLogger({
    level: options.logLevel,
    format: options.logFormat,
    wallMs: () => Date.now(),
    write: (line) => process.stderr.write(`${line}\n`),
  });
}

/**
 * Runs the daemon until a stop signal. Resolves with the exit status: 0 after an orderly stop, 1 when it could not start
 * or a part broke. SIGTERM and SIGINT stop it; a second one ends it at once. Containers go on either way.
 */
export async function runDaemon(line: DaemonCommandLine): Promise<number> {
  process.umask(UMASK);
  let options: DaemonOptions;
  try {
    options = await resolveOptions(flagsOf(line));
    if (rootlessSide() === "outside")
      await enterRootless({ execRoot: options.execRoot, nativeBinary: nativeBinary() });
  } catch (caught) {
    process.stderr.write(`shoal daemon: ${ClusterError.from(caught).message}\n`);
    return 1;
  }
  const log = daemonLogger(options);
  const { promise: ended, resolve: end } = Promise.withResolvers<number>();
  const fatal = (error: ClusterError): void => {
    log.error("the daemon can't go on", { error, stack: error.stack });
    end(1);
  };
  process.on("uncaughtException", (error) => fatal(ClusterError.from(error)));
  process.on("unhandledRejection", (reason) => fatal(ClusterError.from(reason)));
  let signalCount = 0;
  const stopBySignal = (signal: string): void => {
    signalCount += 1;
    log.info("stopping", { signal });
    if (signalCount > 1) process.exit(1);
    end(0);
  };
  process.on("SIGTERM", () => stopBySignal("SIGTERM"));
  process.on("SIGINT", () => stopBySignal("SIGINT"));

  const daemon = new Daemon({ options, log, fatal });
  try {
    await daemon.start();
  } catch (caught) {
    log.error("the daemon could not start", { error: ClusterError.from(caught) });
    return 1;
  }
  const status = await ended;
  const guard = setTimeout(() => {
    log.error("stopping took too long", { timeoutMs: STOP_TIMEOUT_MS });
    process.exit(1);
  }, STOP_TIMEOUT_MS);
  await daemon.stop();
  clearTimeout(guard);
  return status;
}
