/** The Go template engine against what text/template prints. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { hasCode } from "./errors.ts";
import { compileTemplate } from "./go-template.ts";

const service = {
  ID: "abc",
  Name: "web",
  Spec: { Labels: { b: "2", a: "1" }, Replicas: 3, Args: ["x", "y"], Empty: [], Nil: null },
  Ports: [
    { Target: 80, Published: 8080 },
    { Target: 90, Published: 9090 },
  ],
};

const CASES: readonly (readonly [string, string])[] = [
  ["plain", "plain"],
  ["{{.ID}}:{{ .Name }}", "abc:web"],
  ['{{.Spec.Labels.a}} {{index .Spec.Labels "b"}}', "1 2"],
  ["{{json .Spec.Args}}", '["x","y"]'],
  ["{{.Spec.Labels}} {{.Spec.Args}}", "map[a:1 b:2] [x y]"],
  ["{{.Nope}} {{.Spec.Nope.Deeper}}", "<no value> <no value>"],
  ["{{range .Ports}}{{.Published}}->{{.Target}} {{end}}", "8080->80 9090->90 "],
  ["{{range $i, $p := .Ports}}{{$i}}={{$p.Target}};{{end}}", "0=80;1=90;"],
  ["{{range $k, $v := .Spec.Labels}}{{$k}}={{$v}},{{end}}", "a=1,b=2,"],
  ["{{range .Spec.Empty}}x{{else}}none{{end}}", "none"],
  ['{{if .Spec.Nil}}a{{else if eq .Name "web"}}b{{else}}c{{end}}', "b"],
  ["{{if and .ID (not .Spec.Empty)}}yes{{end}}", "yes"],
  ["{{with .Spec}}{{.Replicas}} {{$.Name}}{{end}}", "3 web"],
  ['{{.Name | upper | printf "%-6s|"}}', "WEB   |"],
  ['{{printf "%d %05.1f %q %v %x" 3 2.55 "a" true 255}}', '3 002.5 "a" true ff'],
  ['{{join .Spec.Args ", "}} {{len .Ports}} {{title "ab cd"}}', "x, y 2 Ab Cd"],
  ['{{$x := .Name}}{{if true}}{{$x = "new"}}{{end}}{{$x}}', "new"],
  ["a  {{- .ID -}}  b", "aabcb"],
  ["{{/* note }} */}}z", "z"],
  ["{{ `raw}}` }}", "raw}}"],
  ["{{(index .Ports 1).Published}}", "9090"],
  ['{{index .Ports 0 "Target"}}', "80"],
  ["{{range .Ports}}{{if eq .Target 90}}{{break}}{{end}}{{.Target}}{{end}}", "80"],
  ['{{lt 1 2}} {{ge "b" "a"}} {{ne 1 1}} {{or "" "x"}}', "true true false x"],
  ['{{pad .Name 1 2}}|{{truncate .Name 2}}|{{split "a:b" ":"}}', " web  |we|[a b]"],
  ["{{println .ID 1}}", "abc 1\n"],
];

test("compileTemplate() prints what Go prints", () => {
  for (const [source, expected] of CASES) assert.equal(compileTemplate(source)(service), expected, source);
});

test("compileTemplate() refuses bad templates with the place", () => {
  for (const source of [
    "{{",
    "{{.A",
    "{{if}}x{{end}}",
    "{{if .A}}",
    "{{end}}",
    "{{nosuch 1}}",
    "{{.A | }}",
    "{{(.A}}",
    "{{$x}}",
    "{{break}}",
  ]) {
    assert.throws(
      () => compileTemplate(source)({ A: 1 }),
      (caught) => hasCode(caught, "invalid_argument"),
      source,
    );
  }
});

test("strict templates name the fields that exist", () => {
  assert.throws(
    () => compileTemplate("{{.Nope}}", { strict: "top" })({ ID: 1, Name: 2 }),
    /fields: ID, Name/,
  );
  const nested = { Node: { ID: 1 } };
  assert.equal(compileTemplate("{{.Node.Nope}}", { strict: "top" })(nested), "<no value>");
  assert.throws(
    () => compileTemplate("{{.Node.Nope}}", { strict: "everywhere" })(nested),
    /there is no field "Nope"; fields: ID/,
  );
});

test("fields that are functions take arguments", () => {
  const row = { Label: (key: unknown) => `value of ${String(key)}` };
  assert.equal(compileTemplate('{{.Label "k"}}')(row), "value of k");
});
