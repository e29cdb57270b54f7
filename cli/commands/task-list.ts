/** What `service ps`, `node ps` and `stack ps` share: the flags, and the list of the tasks that a filter finds. */
import type { FilterValues } from "../client/api-client.ts";
import type { ApiTask } from "../client/types.ts";
import {
  bool,
  type CommandContext,
  FILTER_FLAG,
  type FlagDefinition,
  FORMAT_FLAG,
  NO_TRUNC_FLAG,
  QUIET_FLAG,
} from "../command.ts";
import { mergeFilters, parseFilters } from "../flag-values.ts";
import { taskNames } from "../lookups.ts";
import { formatList } from "../output/table.ts";
import { taskList, taskRows } from "../output/task-table.ts";

export const TASK_LIST_FLAGS: readonly FlagDefinition[] = [
  FILTER_FLAG,
  FORMAT_FLAG,
  QUIET_FLAG,
  NO_TRUNC_FLAG,
  bool("no-resolve", "Show ids instead of names"),
];

/** Tasks that `own` and the user's filters let through. */
export function findTasks({ client, flags }: CommandContext, own: FilterValues): Promise<ApiTask[]> {
  const filters = mergeFilters(parseFilters(flags.list("filter")), own);
  return client.get<ApiTask[]>("/tasks", { filters });
}

export async function writeTasks(
  { client, flags, out }: CommandContext,
  tasks: readonly ApiTask[],
): Promise<void> {
  const names = await taskNames(client, tasks, !flags.bool("no-resolve"));
  const list = taskList({ isTruncated: !flags.bool("no-trunc"), nowMs: Date.now() });
  const options = { format: flags.string("format"), isQuiet: flags.bool("quiet") };
  out.write(formatList(taskRows(tasks, names), list, options));
}
