/** `shoal dev …`: a cluster of several hosts on this machine, by dev/cluster.ts. */
import { ClusterError } from "../../common/errors.ts";
import type { DevHostStatus } from "../../dev/cluster.ts";
import { DEFAULT_NAME, DevCluster, listClusters, removeCluster, startDevCluster } from "../../dev/cluster.ts";
import type { CommandContext, CommandDefinition, FlagDefinition } from "../command.ts";
import { bool, FORMAT_FLAG, QUIET_FLAG, text } from "../command.ts";
import { unsignedFlag } from "../flag-values.ts";
import type { ListFormat } from "../output/table.ts";
import { formatList } from "../output/table.ts";

export { runProgram } from "../program.ts";

const PLACE_FLAGS: readonly FlagDefinition[] = [
  text("name", "name", `Name of the cluster (default ${DEFAULT_NAME})`),
  text("state", "folder", "Folder of its state (default /var/lib/shoal-dev/NAME)"),
];
const DEFAULT_MANAGERS = 3;
const DEFAULT_WORKERS = 2;

interface Place {
  readonly name?: string;
  readonly stateFolder?: string;
}

function placeOf({ flags }: CommandContext): Place {
  const [name, state] = [flags.string("name"), flags.string("state")];
  return { ...(name === undefined ? {} : { name }), ...(state === undefined ? {} : { stateFolder: state }) };
}

/** The place of an existing cluster: where no name is given and there is just one, that one. */
function existingPlace(context: CommandContext): Place {
  const place = placeOf(context);
  const [only, ...more] = listClusters();
  if (place.name !== undefined || place.stateFolder !== undefined || only === undefined || more.length > 0)
    return place;
  return { name: only };
}

function openCluster(context: CommandContext): DevCluster {
  const place = existingPlace(context);
  const cluster = DevCluster.open({ ...place, log: (line) => context.out.write(`${line}\n`) });
  if (cluster !== undefined) return cluster;
  const others = listClusters();
  throw new ClusterError(
    "not_found",
    `There is no dev cluster "${place.name ?? DEFAULT_NAME}"; make it with: shoal dev up${others.length === 0 ? "" : ` (there are: ${others.join(", ")})`}`,
  );
}

async function runUp(context: CommandContext): Promise<void> {
  const { flags, out } = context;
  const daemonFlags = flags.list("daemon-flag");
  const started = performance.now();
  const cluster = await startDevCluster({
    ...placeOf(context),
    managers: unsignedFlag(flags, "managers") ?? DEFAULT_MANAGERS,
    workers: unsignedFlag(flags, "workers") ?? DEFAULT_WORKERS,
    ...(daemonFlags.length === 0 ? {} : { daemonFlags }),
    log: (line) => out.write(`${line}\n`),
  });
  const seconds = ((performance.now() - started) / 1000).toFixed(1);
  out.write(
    `Cluster "${cluster.name}" is up: ${cluster.managers.length} managers, ${cluster.workers.length} workers on ${cluster.subnet}.0/24 (${seconds} s).\n`,
  );
  out.write(
    `To use it:  eval "$(shoal dev env ${cluster.managers[0]?.name ?? ""}${placeArguments(cluster, flags.string("state"))})"\n`,
  );
}

/** What a later command needs to find this cluster. */
function placeArguments(cluster: DevCluster, stateFolder: string | undefined): string {
  const name = cluster.name === DEFAULT_NAME ? "" : ` --name ${cluster.name}`;
  return stateFolder === undefined ? name : `${name} --state ${stateFolder}`;
}

const hostList: ListFormat<DevHostStatus> = {
  columns: {
    Name: { header: "NAME", get: (row) => row.host.name },
    Role: { header: "ROLE", get: (row) => `${row.host.role}${row.isLeader ? " (leader)" : ""}` },
    Address: { header: "ADDRESS", get: (row) => row.host.address },
    Machine: { header: "MACHINE", get: (row) => (row.isOn ? "on" : "off") },
    Daemon: { header: "DAEMON", get: (row) => (row.isDaemonUp ? "up" : "down") },
    Swarm: { header: "SWARM", get: (row) => row.swarmState },
    Socket: { header: "SOCKET", get: (row) => row.host.socketPath },
  },
  defaults: ["Name", "Role", "Address", "Machine", "Daemon", "Swarm", "Socket"],
  quiet: (row) => row.host.name,
};

async function forHosts(
  context: CommandContext,
  each: (cluster: DevCluster, host: string) => Promise<void>,
): Promise<void> {
  const cluster = openCluster(context);
  for (const name of context.args) cluster.host(name);
  for (const name of context.args) {
    await each(cluster, name);
    context.out.write(`${name}\n`);
  }
}

const HOST_ARGS = { usage: "[OPTIONS] HOST [HOST...]", argsMin: 1 } as const;

const dev: CommandDefinition = {
  name: "dev",
  usage: "COMMAND",
  summary: "A cluster of several hosts on this one machine, to try things and to test",
  argsMin: 0,
  flags: [],
  commands: [
    {
      name: "up",
      usage: "[OPTIONS]",
      summary: "Make the cluster, or repair it",
      argsMin: 0,
      argsMax: 0,
      flags: [
        text("managers", "count", `Manager hosts (default ${DEFAULT_MANAGERS})`),
        text("workers", "count", `Worker hosts (default ${DEFAULT_WORKERS})`),
        {
          name: "daemon-flag",
          kind: "list",
          value: "flag",
          help: "Further flag for every daemon, as --daemon-flag=--log-level=debug",
        },
        ...PLACE_FLAGS,
      ],
      run: runUp,
    },
    {
      name: "ls",
      aliases: ["list"],
      usage: "[OPTIONS]",
      summary: "List the hosts",
      argsMin: 0,
      argsMax: 0,
      flags: [FORMAT_FLAG, QUIET_FLAG, ...PLACE_FLAGS],
      run: async (context) => {
        const rows = await openCluster(context).status();
        context.out.write(
          formatList(rows, hostList, {
            format: context.flags.string("format"),
            isQuiet: context.flags.bool("quiet"),
          }),
        );
      },
    },
    {
      name: "exec",
      usage: "[OPTIONS] HOST COMMAND [ARG...]",
      summary: "Run a command on a host",
      argsMin: 2,
      stopsAtArgument: true,
      flags: PLACE_FLAGS,
      run: async (context) => {
        const [host = "", ...argv] = context.args;
        return await openCluster(context).execInteractive(host, argv);
      },
    },
    {
      name: "env",
      usage: "[OPTIONS] HOST",
      summary: "Print the environment that makes shoal and docker talk to a host",
      argsMin: 1,
      argsMax: 1,
      flags: PLACE_FLAGS,
      run: async (context) => {
        const env = openCluster(context).env(context.args[0] ?? "");
        context.out.write(
          Object.entries(env)
            .map(([name, value]) => `export ${name}=${value}\n`)
            .join(""),
        );
      },
    },
    {
      name: "kill",
      ...HOST_ARGS,
      summary: "Pull a host's plug: daemon and containers die, its address falls silent",
      flags: [bool("daemon-only", "Kill only the daemon; containers go on"), ...PLACE_FLAGS],
      run: async (context) => {
        await forHosts(context, async (cluster, host) => {
          if (context.flags.bool("daemon-only")) await cluster.killDaemon(host);
          else await cluster.killHost(host);
        });
      },
    },
    {
      name: "start",
      ...HOST_ARGS,
      summary: "Switch hosts on again",
      flags: PLACE_FLAGS,
      run: async (context) => await forHosts(context, async (cluster, host) => await cluster.startHost(host)),
    },
    {
      name: "stop-daemon",
      ...HOST_ARGS,
      summary: "Stop only the daemon of hosts, as an upgrade does",
      flags: PLACE_FLAGS,
      run: async (context) =>
        await forHosts(context, async (cluster, host) => await cluster.stopDaemon(host)),
    },
    {
      name: "partition",
      usage: "[OPTIONS] HOST[,HOST...] [HOST[,HOST...]...]",
      summary: "Cut groups of hosts off from each other; hosts that are not named are one more group",
      argsMin: 1,
      flags: PLACE_FLAGS,
      run: async (context) => {
        await openCluster(context).partition(context.args.map((group) => group.split(",")));
      },
    },
    {
      name: "heal",
      usage: "[OPTIONS]",
      summary: "End the partition",
      argsMin: 0,
      argsMax: 0,
      flags: PLACE_FLAGS,
      run: async (context) => await openCluster(context).heal(),
    },
    {
      name: "down",
      usage: "[OPTIONS]",
      summary: "Remove the cluster with everything it left on this machine",
      argsMin: 0,
      argsMax: 0,
      flags: PLACE_FLAGS,
      run: async (context) => {
        const place = existingPlace(context);
        await removeCluster(place);
        context.out.write(`Cluster "${place.name ?? DEFAULT_NAME}" is removed.\n`);
      },
    },
  ],
};

export const definitions: readonly CommandDefinition[] = [dev];
