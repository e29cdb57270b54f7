/** `shoal node …`: the machines of the cluster. */
import { setTimeout as sleep } from "node:timers/promises";
import { ClusterError } from "../../common/errors.ts";
import type { NodeSpec } from "../../model/specs.ts";
import { binarySize } from "../../model/units.ts";
import { ApiError } from "../client/api-client.ts";
import type { ApiClient } from "../client/api-client.ts";
import type { ApiInfo, ApiNode } from "../client/types.ts";
import type { CommandContext, CommandDefinition } from "../command.ts";
import { bool, FILTER_FLAG, FORMAT_FLAG, list, QUIET_FLAG, text } from "../command.ts";
import { choiceFlag, parseFilters, parsePairs } from "../flag-values.ts";
import { getNode } from "../lookups.ts";
import type { ListFormat } from "../output/table.ts";
import { formatList } from "../output/table.ts";
import { isPassing } from "../progress/passing-errors.ts";
import { findTasks, TASK_LIST_FLAGS, writeTasks } from "./task-list.ts";
import { forEachArgument, inspectCommand, removeCommand } from "./verbs.ts";

export { runProgram } from "../program.ts";

const UPDATE_RETRIES = 5;
const capital = (word: string): string => word.slice(0, 1).toUpperCase() + word.slice(1);

function managerText(node: ApiNode): string {
  const status = node.ManagerStatus;
  if (status === undefined || status === null) return "";
  return status.Leader === true ? "Leader" : capital(status.Reachability ?? "");
}

function nodeList(info: ApiInfo): ListFormat<ApiNode> {
  const selfId = info.Swarm?.NodeID ?? "";
  const isSelf = (node: ApiNode): boolean => node.ID === selfId;
  const root = info.Swarm?.Cluster?.TLSInfo?.TrustRoot ?? "";
  const tlsText = (node: ApiNode): string => {
    const own = node.Description?.TLSInfo?.TrustRoot ?? "";
    if (own === "" || root === "") return "Unknown";
    return own === root ? "Ready" : "Needs Rotation";
  };
  return {
    columns: {
      ID: { header: "ID", get: (node) => (isSelf(node) ? `${node.ID} *` : node.ID) },
      Self: { header: "SELF", get: isSelf },
      Hostname: { header: "HOSTNAME", get: (node) => node.Description?.Hostname ?? "" },
      Status: { header: "STATUS", get: (node) => capital(node.Status.State) },
      Availability: { header: "AVAILABILITY", get: (node) => capital(node.Spec.Availability) },
      ManagerStatus: { header: "MANAGER STATUS", get: managerText },
      Address: { header: "ADDRESS", get: (node) => node.Status.Addr ?? "" },
      TLSStatus: { header: "TLS STATUS", get: tlsText },
      EngineVersion: {
        header: "ENGINE VERSION",
        get: (node) => node.Description?.Engine?.EngineVersion ?? "",
      },
    },
    defaults: ["ID", "Hostname", "Status", "Availability", "ManagerStatus", "EngineVersion"],
    quiet: (node) => node.ID,
  };
}

async function runList(context: CommandContext): Promise<void> {
  const { client, flags } = context;
  const nodes = await client.get<ApiNode[]>("/nodes", { filters: parseFilters(flags.list("filter")) });
  const info = flags.bool("quiet") ? {} : await client.get<ApiInfo>("/info");
  nodes.sort((left, right) =>
    (left.Description?.Hostname ?? left.ID) < (right.Description?.Hostname ?? right.ID) ? -1 : 1,
  );
  context.out.write(
    formatList(nodes, nodeList(info), { format: flags.string("format"), isQuiet: flags.bool("quiet") }),
  );
}

async function runPs(context: CommandContext): Promise<void> {
  const { client } = context;
  const ids: string[] = [];
  const named = context.args.length === 0 ? ["self"] : context.args;
  await forEachArgument({ ...context, args: named }, async (name) => {
    ids.push((await getNode(client, name)).ID);
  });
  await writeTasks(context, await findTasks(context, { node: ids }));
}

/** False if the change left the spec as it was. */
async function changeNode(
  client: ApiClient,
  name: string,
  change: (spec: NodeSpec) => NodeSpec,
): Promise<boolean> {
  for (let attempt = 1; ; attempt += 1) {
    const node = await getNode(client, name);
    const spec = change(node.Spec);
    if (spec === node.Spec) return false;
    try {
      await client.post(`/nodes/${node.ID}/update`, { query: { version: node.Version.Index }, body: spec });
      return true;
    } catch (caught) {
      const isStale = caught instanceof ApiError && caught.isStale;
      if (!isStale || attempt >= UPDATE_RETRIES) throw caught;
    }
  }
}

async function runUpdate(context: CommandContext): Promise<void> {
  const { client, flags } = context;
  const role = choiceFlag(flags, "role", ["worker", "manager"]);
  const availability = choiceFlag(flags, "availability", ["active", "pause", "drain"]);
  const removed = flags.list("label-rm");
  const added = parsePairs(flags.list("label-add"));
  if (!flags.hasAny("role", "availability", "label-add", "label-rm")) {
    throw new ClusterError(
      "invalid_argument",
      "Nothing to change: give --role, --availability, --label-add or --label-rm",
    );
  }
  const name = context.args[0] ?? "";
  await changeNode(client, name, (spec) => ({
    ...spec,
    ...(role === undefined ? {} : { Role: role }),
    ...(availability === undefined ? {} : { Availability: availability }),
    Labels: {
      ...Object.fromEntries(Object.entries(spec.Labels ?? {}).filter(([key]) => !removed.includes(key))),
      ...added,
    },
  }));
  context.out.write(`${name}\n`);
}

/** How long a demoted manager is waited for to leave Raft. A leader hands over first; one that can't leave is told of. */
const LEAVE_RAFT_MS = 10_000;
const LEAVE_RAFT_POLL_MS = 100;

/** True when the demoted node is no member of Raft any more, so that it can be removed. */
async function hasLeftRaft({ client, signal }: CommandContext, name: string): Promise<boolean> {
  const deadline = performance.now() + LEAVE_RAFT_MS;
  for (;;) {
    try {
      if (((await getNode(client, name)).ManagerStatus ?? undefined) === undefined) return true;
    } catch (caught) {
      // Where the daemon that is spoken to is the demoted one, it can't be asked when it has left.
      if (!isPassing(caught)) throw caught;
      const info = await client.get<ApiInfo>("/info", { signal });
      if (info.Swarm?.ControlAvailable !== true) return true;
    }
    if (performance.now() > deadline) return false;
    await sleep(LEAVE_RAFT_POLL_MS, undefined, { signal });
  }
}

function roleCommand(name: "promote" | "demote", role: "manager" | "worker"): CommandDefinition {
  return {
    name,
    usage: "NODE [NODE...]",
    summary: name === "promote" ? "Make nodes managers" : "Make managers plain workers",
    argsMin: 1,
    flags: [],
    run: async (context) => {
      await forEachArgument(context, async (node) => {
        const isChanged = await changeNode(context.client, node, (spec) =>
          spec.Role === role ? spec : { ...spec, Role: role },
        );
        if (name === "demote" && !(await hasLeftRaft(context, node))) {
          context.err.write(
            `${node} is a member of Raft yet; it leaves as soon as that costs no quorum: see 'shoal node ls'\n`,
          );
        }
        const done = name === "promote" ? "promoted to a manager in the swarm" : "demoted in the swarm";
        context.out.write(
          isChanged
            ? `Manager ${node} ${done}.\n`.replace(/^Manager/, name === "promote" ? "Node" : "Manager")
            : `Node ${node} is already a ${role}.\n`,
        );
      });
    },
  };
}

function prettyNode(node: ApiNode): string {
  const { Description: about } = node;
  const labels = Object.entries(node.Spec.Labels ?? {}).map(([key, value]) => ` - ${key}=${value}`);
  const rows: readonly (readonly [string, string])[] = [
    ["ID", node.ID],
    ["Hostname", about?.Hostname ?? ""],
    ["Joined at", node.CreatedAt],
    ["Role", node.Spec.Role],
    ["State", capital(node.Status.State)],
    ["Message", node.Status.Message ?? ""],
    ["Availability", capital(node.Spec.Availability)],
    ["Address", node.Status.Addr ?? ""],
    ["Manager status", managerText(node)],
    ["Manager address", node.ManagerStatus?.Addr ?? ""],
    ["Platform", `${about?.Platform?.OS ?? ""}/${about?.Platform?.Architecture ?? ""}`],
    ["CPUs", String((about?.Resources?.NanoCPUs ?? 0) / 1e9)],
    ["Memory", binarySize(about?.Resources?.MemoryBytes ?? 0)],
    ["Engine version", about?.Engine?.EngineVersion ?? ""],
  ];
  const lines = rows
    .filter(([, value]) => value !== "")
    .map(([label, value]) => `${`${label}:`.padEnd(18)}${value}`);
  return `${[...lines, ...(labels.length === 0 ? [] : ["Labels:", ...labels])].join("\n")}\n`;
}

const inspect = inspectCommand("NODE", async (client, name) => await getNode(client, name), [
  bool("pretty", "Readable output"),
]);

const node: CommandDefinition = {
  name: "node",
  usage: "COMMAND",
  summary: "Look after the machines of the cluster",
  argsMin: 0,
  flags: [],
  commands: [
    {
      name: "ls",
      aliases: ["list"],
      usage: "[OPTIONS]",
      summary: "List nodes",
      argsMin: 0,
      argsMax: 0,
      flags: [FILTER_FLAG, FORMAT_FLAG, QUIET_FLAG],
      run: runList,
    },
    {
      ...inspect,
      run: async (context) => {
        if (!context.flags.bool("pretty")) return await inspect.run?.(context);
        await forEachArgument(context, async (name) =>
          context.out.write(prettyNode(await getNode(context.client, name))),
        );
      },
    },
    {
      name: "ps",
      usage: "[OPTIONS] [NODE...]",
      summary: "List the tasks on nodes (default: this one)",
      argsMin: 0,
      flags: TASK_LIST_FLAGS,
      run: runPs,
    },
    {
      name: "update",
      usage: "[OPTIONS] NODE",
      summary: "Change a node's role, availability or labels",
      argsMin: 1,
      argsMax: 1,
      flags: [
        text("availability", "active|pause|drain", "Whether the node takes tasks"),
        list("label-add", "key=value", "Add or replace a label"),
        list("label-rm", "key", "Remove a label"),
        text("role", "worker|manager", "Role of the node"),
      ],
      run: runUpdate,
    },
    roleCommand("promote", "manager"),
    roleCommand("demote", "worker"),
    removeCommand(
      "NODE",
      async (client, name, context) =>
        await client.delete(`/nodes/${encodeURIComponent(name)}`, {
          query: { force: context.flags.bool("force") },
        }),
      [bool("force", "Remove a node that is not down", "f")],
    ),
  ],
};

export const definitions: readonly CommandDefinition[] = [node];
