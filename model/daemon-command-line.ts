/** What `shoal daemon` was told on its command line: the CLI parses it, the daemon is handed it. Types only. */
import type { LogLevel } from "../common/log.ts";

/** What is absent was not given: then the daemon's configuration file decides, else its default. */
export interface DaemonCommandLine {
  readonly dataRoot?: string;
  readonly execRoot?: string;
  readonly hosts: readonly string[];
  readonly pidfile?: string;
  readonly listenAddr?: string;
  readonly advertiseAddr?: string;
  readonly dataPathAddr?: string;
  readonly dataPathPort?: number;
  readonly logLevel?: LogLevel;
  readonly logFormat?: "json" | "text";
  readonly logDriver?: string;
  /** KEY=VALUE each. */
  readonly logOpts: readonly string[];
  readonly tls?: boolean;
  readonly tlsVerify?: boolean;
  readonly tlsCaCert?: string;
  readonly tlsCert?: string;
  readonly tlsKey?: string;
  readonly labels: readonly string[];
  readonly insecureRegistries: readonly string[];
  readonly registryMirrors: readonly string[];
  readonly configFile?: string;
  readonly usernsRemap?: string;
  readonly defaultRuntime?: string;
  /** NAME=PATH each. */
  readonly addRuntimes: readonly string[];
  /** "base=CIDR,size=BITS" each. */
  readonly addressPools: readonly string[];
}
