/** The canonical form of a stack file, as `stack config` prints it and specs are made from. All fields are checked already. */

export interface ComposePort {
  readonly mode?: "ingress" | "host";
  readonly target: number;
  readonly published?: number;
  readonly protocol?: "tcp" | "udp" | "sctp";
  readonly name?: string;
}

export interface ComposeVolumeMount {
  readonly type?: "bind" | "volume" | "tmpfs" | "cluster" | "npipe" | "image";
  readonly source?: string;
  readonly target: string;
  readonly read_only?: boolean;
  readonly consistency?: string;
  readonly bind?: { readonly propagation?: string };
  readonly volume?: { readonly nocopy?: boolean; readonly subpath?: string };
  readonly image?: { readonly subpath?: string };
  readonly tmpfs?: { readonly size?: number; readonly mode?: number };
}

export interface ComposeFileReference {
  readonly source: string;
  readonly target?: string;
  readonly uid?: string;
  readonly gid?: string;
  readonly mode?: number;
}

export interface ComposeUpdateConfig {
  readonly parallelism?: number;
  readonly delay?: string;
  readonly failure_action?: "continue" | "pause" | "rollback";
  readonly monitor?: string;
  readonly max_failure_ratio?: number;
  readonly order?: "start-first" | "stop-first";
}

export interface ComposeResources {
  readonly cpus?: string;
  readonly memory?: string;
  readonly pids?: number;
  readonly generic_resources?: readonly {
    readonly discrete_resource_spec?: { readonly kind: string; readonly value: number };
  }[];
}

export interface ComposeDeploy {
  readonly mode?: "replicated" | "global" | "replicated-job" | "global-job";
  readonly replicas?: number;
  readonly labels?: Readonly<Record<string, string>>;
  readonly update_config?: ComposeUpdateConfig;
  readonly rollback_config?: ComposeUpdateConfig;
  readonly resources?: { readonly limits?: ComposeResources; readonly reservations?: ComposeResources };
  readonly restart_policy?: {
    readonly condition?: "none" | "on-failure" | "any";
    readonly delay?: string;
    readonly max_attempts?: number;
    readonly window?: string;
  };
  readonly placement?: {
    readonly constraints?: readonly string[];
    readonly preferences?: readonly { readonly spread?: string }[];
    readonly max_replicas_per_node?: number;
  };
  readonly endpoint_mode?: "vip" | "dnsrr";
}

export interface ComposeHealthcheck {
  readonly test?: readonly string[];
  readonly interval?: string;
  readonly timeout?: string;
  readonly retries?: number;
  readonly start_period?: string;
  readonly start_interval?: string;
  readonly disable?: boolean;
}

export interface ComposeServiceNetwork {
  readonly aliases?: readonly string[];
  readonly driver_opts?: Readonly<Record<string, string>>;
}

export interface ComposeService {
  readonly image?: string;
  readonly command?: readonly string[];
  readonly entrypoint?: readonly string[];
  readonly environment?: Readonly<Record<string, string | null>>;
  readonly env_file?: readonly (string | { readonly path: string; readonly required?: boolean })[];
  readonly labels?: Readonly<Record<string, string>>;
  readonly hostname?: string;
  readonly user?: string;
  readonly group_add?: readonly string[];
  readonly working_dir?: string;
  readonly ports?: readonly ComposePort[];
  readonly volumes?: readonly ComposeVolumeMount[];
  readonly tmpfs?: readonly string[];
  readonly networks?: Readonly<Record<string, ComposeServiceNetwork | null>>;
  readonly secrets?: readonly ComposeFileReference[];
  readonly configs?: readonly ComposeFileReference[];
  readonly healthcheck?: ComposeHealthcheck;
  readonly deploy?: ComposeDeploy;
  readonly logging?: { readonly driver?: string; readonly options?: Readonly<Record<string, string>> };
  readonly cap_add?: readonly string[];
  readonly cap_drop?: readonly string[];
  readonly dns?: readonly string[];
  readonly dns_search?: readonly string[];
  readonly dns_opt?: readonly string[];
  readonly extra_hosts?: readonly string[];
  readonly init?: boolean;
  readonly read_only?: boolean;
  readonly stdin_open?: boolean;
  readonly tty?: boolean;
  readonly stop_grace_period?: string;
  readonly stop_signal?: string;
  readonly sysctls?: Readonly<Record<string, string>>;
  readonly ulimits?: Readonly<Record<string, number | { readonly soft?: number; readonly hard?: number }>>;
  readonly oom_score_adj?: number;
  readonly isolation?: string;
}

interface Definition {
  readonly name?: string;
  readonly external?: boolean;
  readonly labels?: Readonly<Record<string, string>>;
}

export interface ComposeNetwork extends Definition {
  readonly driver?: string;
  readonly driver_opts?: Readonly<Record<string, string>>;
  readonly ipam?: {
    readonly driver?: string;
    readonly options?: Readonly<Record<string, string>>;
    readonly config?: readonly {
      readonly subnet?: string;
      readonly gateway?: string;
      readonly ip_range?: string;
      readonly aux_addresses?: Readonly<Record<string, string>>;
    }[];
  };
  readonly internal?: boolean;
  readonly attachable?: boolean;
  readonly enable_ipv6?: boolean;
}

export interface ComposeVolume extends Definition {
  readonly driver?: string;
  readonly driver_opts?: Readonly<Record<string, string>>;
}

export interface ComposeFileObject extends Definition {
  readonly file?: string;
  readonly environment?: string;
  readonly content?: string;
  readonly template_driver?: string;
  readonly driver?: string;
  readonly driver_opts?: Readonly<Record<string, string>>;
}

export interface ComposeStack {
  readonly version?: string;
  readonly services: Readonly<Record<string, ComposeService>>;
  readonly networks: Readonly<Record<string, ComposeNetwork>>;
  readonly volumes: Readonly<Record<string, ComposeVolume>>;
  readonly secrets: Readonly<Record<string, ComposeFileObject>>;
  readonly configs: Readonly<Record<string, ComposeFileObject>>;
  readonly [extension: `x-${string}`]: unknown;
}
