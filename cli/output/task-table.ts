/**
 * The task lists of `service ps`, `node ps` and `stack ps`: docker's columns, order and `\_` marks of a slot's older tasks.
 * Pure.
 */
import { humanDuration } from "../../model/units.ts";
import type { ApiTask } from "../client/types.ts";
import type { TaskNames } from "../lookups.ts";
import type { ListFormat } from "./table.ts";
import { ellipsis, shortId } from "./table.ts";

export interface TaskRow {
  readonly task: ApiTask;
  /** With the mark of older tasks. */
  readonly name: string;
  readonly node: string;
}

function naturalKey(text: string): string {
  return text.replaceAll(/\d+/g, (digits) => digits.padStart(12, "0"));
}

function compareText(left: string, right: string): number {
  return left < right ? -1 : left > right ? 1 : 0;
}

/** By name (numbers as numbers), newest task of a slot first; the others of the slot are marked. */
export function taskRows(tasks: readonly ApiTask[], names: TaskNames): TaskRow[] {
  const sorted = [...tasks].sort(
    (left, right) =>
      compareText(naturalKey(names.taskName(left)), naturalKey(names.taskName(right))) ||
      compareText(right.CreatedAt, left.CreatedAt),
  );
  let before = "";
  return sorted.map((task) => {
    const name = names.taskName(task);
    const isOlder = name === before;
    before = name;
    return { task, name: isOlder ? ` \\_ ${name}` : name, node: names.nodeName(task) };
  });
}

const capital = (word: string): string => word.slice(0, 1).toUpperCase() + word.slice(1);
const ERROR_LENGTH = 30;

function trimDigest(image: string): string {
  return image.replace(/@sha256:[0-9a-f]+$/, "");
}

function portsText(task: ApiTask): string {
  return (task.Status.PortStatus?.Ports ?? [])
    .map((port) => `*:${port.PublishedPort ?? 0}->${port.TargetPort}/${port.Protocol ?? "tcp"}`)
    .join(",");
}

/** A task that can't be placed has its reasons, counted by node, in the message; in the short form they stand alone. */
function errorOf(task: ApiTask, isShort: boolean): string {
  const { Err: error = "", Message: message = "", State: state } = task.Status;
  if (error === "" || state !== "pending" || !/^\d+ nodes?: /.test(message)) return error;
  return isShort ? message : `${error}: ${message}`;
}

export function taskList(options: {
  readonly isTruncated: boolean;
  readonly nowMs: number;
}): ListFormat<TaskRow> {
  const { isTruncated, nowMs } = options;
  const stateText = (row: TaskRow): string => {
    const age = humanDuration(Math.max(0, nowMs - Date.parse(row.task.Status.Timestamp)));
    return `${capital(row.task.Status.State)} ${age.toLowerCase()} ago`;
  };
  const errorText = (row: TaskRow): string => {
    const error = errorOf(row.task, isTruncated);
    if (error === "") return "";
    return isTruncated ? `"${ellipsis(error, ERROR_LENGTH)}"` : `"${error}"`;
  };
  return {
    columns: {
      ID: { header: "ID", get: (row) => (isTruncated ? shortId(row.task.ID) : row.task.ID) },
      Name: { header: "NAME", get: (row) => row.name },
      Image: {
        header: "IMAGE",
        get: (row) =>
          isTruncated ? trimDigest(row.task.Spec.ContainerSpec.Image) : row.task.Spec.ContainerSpec.Image,
      },
      Node: { header: "NODE", get: (row) => row.node },
      DesiredState: { header: "DESIRED STATE", get: (row) => capital(row.task.DesiredState) },
      CurrentState: { header: "CURRENT STATE", get: stateText },
      Error: { header: "ERROR", get: errorText },
      Ports: { header: "PORTS", get: (row) => portsText(row.task) },
    },
    defaults: ["ID", "Name", "Image", "Node", "DesiredState", "CurrentState", "Error", "Ports"],
    quiet: (row) => row.task.ID,
  };
}
