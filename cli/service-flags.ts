/** The flags of `service create` and `service update`: docker's names. Data only; service-spec.ts gives them meaning. */
import type { FlagDefinition } from "./command.ts";
import { bool, DETACH_FLAG, list, text } from "./command.ts";
import { byName, WORKLOAD_FLAGS } from "./workload-flags.ts";

const DURATION = "duration";

/** Flags that both commands have under the same name. */
const SHARED: readonly FlagDefinition[] = [
  ...WORKLOAD_FLAGS,
  text("credential-spec", "spec", "Windows only; refused"),
  DETACH_FLAG,
  text("endpoint-mode", "vip|dnsrr", "How the service's name resolves"),
  text("hostname", "name", "Host name in the containers"),
  bool("init", "Run an init in the containers"),
  text("isolation", "mode", "Windows only; must be default"),
  text("limit-cpu", "decimal", "Most CPUs a task may use"),
  text("limit-memory", "bytes", "Most memory a task may use"),
  text("limit-pids", "count", "Most processes of a task (0: no limit)"),
  text("max-concurrent", "count", "Tasks of a job at one time"),
  bool("no-resolve-image", "Don't ask the registry for the image's digest"),
  bool("quiet", "No progress output", "q"),
  text("replicas", "count", "Number of tasks"),
  text("replicas-max-per-node", "count", "Most tasks on one node (0: no limit)"),
  text("reserve-cpu", "decimal", "CPUs a node must have free for a task"),
  text("reserve-memory", "bytes", "Memory a node must have free for a task"),
  text("restart-condition", "none|on-failure|any", "When to restart (default any)"),
  text("restart-delay", DURATION, "Wait before a restart (default 5s)"),
  text("restart-max-attempts", "count", "Most restarts (default: no limit)"),
  text("restart-window", DURATION, "Time in which restarts are counted"),
  text("rollback-delay", DURATION, "Wait between batches of a rollback"),
  text("rollback-failure-action", "pause|continue", "What to do if a rollback fails"),
  text("rollback-max-failure-ratio", "ratio", "Failures a rollback tolerates"),
  text("rollback-monitor", DURATION, "Time a new task is watched in a rollback"),
  text("rollback-order", "start-first|stop-first", "Order in a rollback"),
  text("rollback-parallelism", "count", "Tasks rolled back at once (0: all)"),
  text("stop-grace-period", DURATION, "Time from the stop signal to the kill (default 10s)"),
  text("stop-signal", "signal", "Signal that stops a container"),
  bool("tty", "Give the containers a terminal", "t"),
  text("update-delay", DURATION, "Wait between batches of an update"),
  text("update-failure-action", "pause|continue|rollback", "What to do if an update fails"),
  text("update-max-failure-ratio", "ratio", "Failures an update tolerates"),
  text("update-monitor", DURATION, "Time a new task is watched in an update"),
  text("update-order", "start-first|stop-first", "Order in an update"),
  text("update-parallelism", "count", "Tasks updated at once (0: all)"),
  text("user", "user[:group]", "User in the containers", "u"),
  text("wait-timeout", DURATION, "Give up waiting after this time (default 10m, 0: never)"),
  bool("with-registry-auth", "Send registry credentials to the nodes"),
  text("workdir", "path", "Working folder in the containers", "w"),
];

interface ListFlag {
  readonly name: string;
  readonly short?: string;
  readonly value: string;
  readonly help: string;
}

/** `--X` at create; `--X-add` and `--X-rm` at update. */
const LISTS: readonly ListFlag[] = [
  {
    name: "config",
    value: "config",
    help: "Config for the containers (name or source=,target=,uid=,gid=,mode=)",
  },
  { name: "constraint", value: "expression", help: "Placement constraint, as node.labels.zone==a" },
  { name: "container-label", value: "key=value", help: "Label of the containers" },
  { name: "dns", value: "address", help: "Name server" },
  { name: "dns-option", value: "option", help: "Resolver option" },
  { name: "dns-search", value: "domain", help: "Search domain" },
  { name: "env", short: "e", value: "NAME=value", help: "Environment variable" },
  { name: "generic-resource", value: "kind=value", help: "Resource that a node must offer" },
  { name: "group", value: "group", help: "Further group of the user" },
  { name: "host", value: "name:ip", help: "Line of /etc/hosts" },
  { name: "label", short: "l", value: "key=value", help: "Label of the service" },
  { name: "mount", value: "mount", help: "Mount, as type=volume,source=data,target=/data" },
  { name: "network", value: "network", help: "Network (name or name=,alias=,driver-opt=)" },
  { name: "placement-pref", value: "preference", help: "Placement preference, as spread=node.labels.zone" },
  {
    name: "publish",
    short: "p",
    value: "port",
    help: "Published port, as 8080:80 or published=,target=,mode=",
  },
  {
    name: "secret",
    value: "secret",
    help: "Secret for the containers (name or source=,target=,uid=,gid=,mode=)",
  },
  { name: "sysctl", value: "key=value", help: "Kernel parameter" },
  { name: "ulimit", value: "name=soft[:hard]", help: "Resource limit" },
];

export const CREATE_FLAGS: readonly FlagDefinition[] = byName([
  ...SHARED,
  ...LISTS.map((each) => list(each.name, each.value, each.help, each.short)),
  list("env-file", "file", "File of environment variables"),
  text("mode", "replicated|global|replicated-job|global-job", "Kind of service (default replicated)"),
  text("name", "name", "Name of the service"),
]);

export const UPDATE_FLAGS: readonly FlagDefinition[] = byName([
  ...SHARED,
  ...LISTS.flatMap((each) => [
    list(`${each.name}-add`, each.value, `Add or replace: ${each.help.toLowerCase()}`),
    list(
      `${each.name}-rm`,
      "key",
      `Remove: ${each.help
        .toLowerCase()
        .replace(/[,(].*/, "")
        .trim()}`,
    ),
  ]),
  text("args", "command", "Arguments of the containers' command"),
  bool("force", "Restart all tasks even if nothing changed"),
  text("image", "image", "Image of the containers"),
  bool("rollback", "Go back to the previous specification"),
]);
