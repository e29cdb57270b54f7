/**
 * Lists as docker prints them: `table` with a header, `json` one object a line, or any Go template; `-q` prints ids.
 * Each list names its fields once (Column) and its default table; everything else follows from that. Pure.
 */
import { compileTemplate, goString } from "../../common/go-template.ts";

export interface Column<Row> {
  readonly header: string;
  readonly get: (row: Row) => unknown;
}

export type Columns<Row> = Readonly<Record<string, Column<Row>>>;

export interface ListFormat<Row> {
  readonly columns: Columns<Row>;
  /** Field names of the default table, in order. */
  readonly defaults: readonly string[];
  /** Printed by -q. */
  readonly quiet?: (row: Row) => string;
}

export interface ListOptions {
  readonly format?: string | undefined;
  readonly isQuiet?: boolean;
}

const CELL_WIDTH_MIN = 10;
const CELL_PADDING = 3;

/** Aligns tab-separated lines: each column as wide as its widest cell and 3 more, 10 at least; the last is not padded. */
export function alignColumns(lines: readonly (readonly string[])[]): string[] {
  const widths: number[] = [];
  for (const cells of lines) {
    for (const [index, cell] of cells.slice(0, -1).entries()) {
      widths[index] = Math.max(widths[index] ?? CELL_WIDTH_MIN, Array.from(cell).length + CELL_PADDING);
    }
  }
  return lines.map((cells) =>
    cells
      .map((cell, index) =>
        index === cells.length - 1 ? cell : cell + " ".repeat((widths[index] ?? 0) - Array.from(cell).length),
      )
      .join("")
      .replace(/\s+$/, (spaces) => (cells.length > 1 ? spaces : "")),
  );
}

function rowValues<Row>(columns: Columns<Row>, row: Row): Record<string, unknown> {
  return Object.fromEntries(Object.entries(columns).map(([name, column]) => [name, column.get(row)]));
}

function headerValues<Row>(columns: Columns<Row>): Record<string, unknown> {
  const entries = Object.entries(columns).map(([name, column]) => [
    name,
    name === "Label" ? (key: unknown) => String(key).replaceAll(/[-.]/g, " ") : column.header,
  ]);
  return Object.fromEntries(entries) as Record<string, unknown>;
}

function unescape(format: string): string {
  return format.replaceAll("\\t", "\t").replaceAll("\\n", "\n");
}

/** The whole list as text, with a newline at its end unless it is empty. */
export function formatList<Row>(
  rows: readonly Row[],
  list: ListFormat<Row>,
  options: ListOptions = {},
): string {
  const format = options.format ?? "";
  const { quiet } = list;
  if (options.isQuiet === true && quiet !== undefined) return rows.map((row) => `${quiet(row)}\n`).join("");
  if (format === "json" || format === "{{json .}}") {
    return rows.map((row) => `${jsonRow(rowValues(list.columns, row))}\n`).join("");
  }
  const defaults = list.defaults.map((name) => `{{.${name}}}`).join("\t");
  const isTable = format === "" || format === "table" || format.startsWith("table ");
  if (!isTable) {
    const template = compileTemplate(unescape(format), { strict: "top" });
    return rows.map((row) => `${template(rowValues(list.columns, row))}\n`).join("");
  }
  const source = unescape(format.replace(/^table ?/, "")) || defaults;
  const template = compileTemplate(source, { strict: "top" });
  const lines = [headerValues(list.columns), ...rows.map((row) => rowValues(list.columns, row))].map(
    (values) => template(values).split("\t"),
  );
  return `${alignColumns(lines).join("\n")}\n`;
}

/** Docker's JSON of a row: every field as text, keys sorted. */
function jsonRow(values: Record<string, unknown>): string {
  const keys = Object.keys(values)
    .filter((key) => typeof values[key] !== "function")
    .sort();
  return JSON.stringify(Object.fromEntries(keys.map((key) => [key, goString(values[key] ?? "")])));
}

/** `inspect`: an indented JSON array, or a template run on each object. */
export function formatInspect(objects: readonly unknown[], format: string | undefined): string {
  if (format === undefined || format === "" || format === "json") {
    if (format === "json") return `${JSON.stringify(objects)}\n`;
    return `${JSON.stringify(objects, null, 4)}\n`;
  }
  const template = compileTemplate(unescape(format));
  return objects.map((each) => `${template(each)}\n`).join("");
}

const ID_LENGTH = 12;

/** The short form of an id; "sha256:" is dropped. */
export function shortId(id: string): string {
  return id.replace(/^sha256:/, "").slice(0, ID_LENGTH);
}

/** Docker's cut of long cells: at most `length` characters, the last one an ellipsis. */
export function ellipsis(text: string, length: number): string {
  const chars = Array.from(text);
  return chars.length <= length ? text : `${chars.slice(0, length - 1).join("")}…`;
}

/** `k=v` pairs, comma separated, sorted by key. */
export function labelText(labels: Readonly<Record<string, string>> | null | undefined): string {
  return Object.entries(labels ?? {})
    .sort(([left], [right]) => (left < right ? -1 : 1))
    .map(([key, value]) => `${key}=${value}`)
    .join(",");
}
