/** Tables, templates and JSON of lists. */
import assert from "node:assert/strict";
import { test } from "node:test";
import type { ListFormat } from "./table.ts";
import { ellipsis, formatInspect, formatList, shortId } from "./table.ts";

interface Row {
  readonly id: string;
  readonly name: string;
}
const rows: readonly Row[] = [
  { id: "sha256:0123456789abcdef", name: "web" },
  { id: "b", name: "a-much-longer-name" },
];
const list: ListFormat<Row> = {
  columns: {
    ID: { header: "ID", get: (row) => shortId(row.id) },
    Name: { header: "NAME", get: (row) => row.name },
  },
  defaults: ["ID", "Name"],
  quiet: (row) => row.id,
};

test("formatList() aligns the default table as docker does", () => {
  assert.equal(
    formatList(rows, list),
    "ID             NAME\n0123456789ab   web\nb              a-much-longer-name\n",
  );
  assert.equal(formatList([], list), "ID        NAME\n");
});

test("formatList() knows json, templates, table templates and -q", () => {
  assert.equal(
    formatList(rows.slice(1), list, { format: "json" }),
    '{"ID":"b","Name":"a-much-longer-name"}\n',
  );
  assert.equal(formatList(rows.slice(0, 1), list, { format: "{{.Name}}!" }), "web!\n");
  assert.equal(
    formatList(rows.slice(0, 1), list, { format: "table {{.Name}}\\t{{.ID}}" }),
    "NAME      ID\nweb       0123456789ab\n",
  );
  assert.equal(formatList(rows.slice(1), list, { isQuiet: true }), "b\n");
});

test("formatInspect() prints indented JSON or a template", () => {
  assert.equal(formatInspect([{ A: 1 }], undefined), '[\n    {\n        "A": 1\n    }\n]\n');
  assert.equal(formatInspect([{ A: 1 }, { A: 2 }], "{{.A}}"), "1\n2\n");
});

test("ellipsis() cuts with one character for the dots", () => {
  assert.equal(ellipsis("abcdef", 4), "abc…");
  assert.equal(ellipsis("abcd", 4), "abcd");
});
