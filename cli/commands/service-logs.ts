/** Shows the logs of a service or task: one line each with task and node before it, as docker prints them. */
import { ClusterError } from "../../common/errors.ts";
import { parseDuration } from "../../model/units.ts";
import { readFrames } from "../client/stdcopy.ts";
import type { ApiNode, ApiService, ApiTask } from "../client/types.ts";
import type { CommandContext, CommandDefinition } from "../command.ts";
import { bool, text } from "../command.ts";
import type { ApiClient } from "../client/api-client.ts";

/** A time as docker's --since takes it: RFC 3339, unix seconds, or a duration back from now. Unix seconds as text. */
export function sinceText(given: string | undefined, nowMs: number): string | undefined {
  if (given === undefined) return undefined;
  if (/^\d+(\.\d+)?$/.test(given)) return given;
  const parsed = /^\d{4}-/.test(given) ? Date.parse(given) : nowMs - parseDuration(given) / 1e6;
  return Number.isNaN(parsed) ? String(parseDuration(given)) : (parsed / 1000).toFixed(9);
}

interface Details {
  readonly attrs: ReadonlyMap<string, string>;
  readonly timestamp: string;
  readonly message: string;
}

/** "[TIME ]k=v,k=v MESSAGE". */
function splitDetails(line: string, hasTimestamp: boolean): Details {
  const timeEnd = hasTimestamp ? line.indexOf(" ") : -1;
  const timestamp = hasTimestamp ? line.slice(0, timeEnd) : "";
  const rest = line.slice(timeEnd + 1);
  const cut = rest.indexOf(" ");
  const pairs = (cut < 0 ? rest : rest.slice(0, cut)).split(",").map((pair) => {
    const at = pair.indexOf("=");
    return [decodeURIComponent(pair.slice(0, at)), decodeURIComponent(pair.slice(at + 1))] as const;
  });
  return { attrs: new Map(pairs), timestamp, message: cut < 0 ? "" : rest.slice(cut + 1) };
}

/** Looks names up once per task and node. */
class LineNames {
  readonly #client: ApiClient;
  readonly #known = new Map<string, Promise<string>>();

  constructor(client: ApiClient) {
    this.#client = client;
  }

  async node(id: string): Promise<string> {
    return await this.#once(`node ${id}`, async () => {
      const node = await this.#client.find<ApiNode>(`/nodes/${id}`);
      return node?.Description?.Hostname ?? id;
    });
  }

  async task(id: string, isShort: boolean): Promise<string> {
    return await this.#once(`task ${id}`, async () => {
      const task = await this.#client.find<ApiTask>(`/tasks/${id}`);
      if (task === undefined) return id;
      const service = await this.#client.find<ApiService>(`/services/${task.ServiceID}`);
      const name = `${service?.Spec.Name ?? task.ServiceID}.${(task.Slot ?? 0) > 0 ? task.Slot : (task.NodeID ?? "")}`;
      return isShort ? name : `${name}.${id.slice(0, 12)}`;
    });
  }

  async #once(key: string, load: () => Promise<string>): Promise<string> {
    const found = this.#known.get(key) ?? load();
    this.#known.set(key, found);
    return await found;
  }
}

async function prefixOf(
  context: CommandContext,
  names: LineNames,
  attrs: ReadonlyMap<string, string>,
): Promise<string> {
  const { flags } = context;
  const taskId = attrs.get("com.docker.swarm.task.id") ?? "";
  const nodeId = attrs.get("com.docker.swarm.node.id") ?? "";
  if (flags.bool("no-resolve")) return `${taskId}@${nodeId}`;
  return `${await names.task(taskId, flags.bool("no-task-ids"))}@${await names.node(nodeId)}`;
}

async function runLogs(context: CommandContext): Promise<void> {
  const { client, flags, out, err, signal } = context;
  const name = context.args[0] ?? "";
  const service = await client.find<ApiService>(`/services/${encodeURIComponent(name)}`);
  const task =
    service === undefined ? await client.find<ApiTask>(`/tasks/${encodeURIComponent(name)}`) : undefined;
  if (service === undefined && task === undefined)
    throw new ClusterError("not_found", `No such task or service: ${name}`);
  const isTty = (service?.Spec.TaskTemplate ?? task?.Spec)?.ContainerSpec.TTY === true;
  const path = service === undefined ? `/tasks/${task?.ID ?? name}/logs` : `/services/${service.ID}/logs`;
  const response = await client.call("GET", path, {
    query: {
      stdout: true,
      stderr: true,
      follow: flags.bool("follow"),
      timestamps: flags.bool("timestamps"),
      details: true,
      tail: flags.string("tail") ?? "all",
      since: sinceText(flags.string("since"), Date.now()),
    },
    signal,
  });
  if (isTty || flags.bool("raw")) {
    if (isTty) for await (const chunk of response) out.write(String(chunk));
  }
  const names = new LineNames(client);
  for await (const frame of readFrames(response)) {
    const details = splitDetails(frame.payload.toString("utf8"), flags.bool("timestamps"));
    const target = frame.stream === 2 ? err : out;
    if (flags.bool("raw")) {
      target.write(details.message);
      continue;
    }
    const shown = [...details.attrs].filter(([key]) => !key.startsWith("com.docker.swarm."));
    const extra = flags.bool("details") ? `${shown.map(([key, value]) => `${key}=${value}`).join(",")} ` : "";
    const time = details.timestamp === "" ? "" : `${details.timestamp} `;
    target.write(`${time}${await prefixOf(context, names, details.attrs)}    | ${extra}${details.message}`);
  }
}

export const serviceLogs: CommandDefinition = {
  name: "logs",
  usage: "[OPTIONS] SERVICE|TASK",
  summary: "Show the logs of a service or task",
  argsMin: 1,
  argsMax: 1,
  flags: [
    bool("details", "Show extra details of the log"),
    bool("follow", "Follow what comes", "f"),
    bool("no-resolve", "Show ids instead of names"),
    bool("no-task-ids", "Leave task ids out"),
    bool("no-trunc", "Don't cut long values"),
    bool("raw", "Print the lines as they are"),
    text("since", "time", "From this time (2026-01-02T13:23:37Z) or this long ago (42m)"),
    text("tail", "count", "Only so many lines of the end", "n"),
    bool("timestamps", "Show times", "t"),
  ],
  run: runLogs,
};
