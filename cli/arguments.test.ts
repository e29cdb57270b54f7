/** Command lines as docker's parser takes them, and the options before the command. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { parseArguments } from "./arguments.ts";
import { bool, list, text } from "./command.ts";
import { endpointOptions, splitRootFlags } from "./root-flags.ts";

const flags = [
  bool("detach", "", "d"),
  bool("tty", "", "t"),
  text("name", "", "", "n"),
  list("publish", "", "", "p"),
];

function parsed(argv: readonly string[], stopsAtArgument = false): unknown[] {
  const result = parseArguments({ flags, stopsAtArgument }, argv);
  if (result.kind !== "command") return [result.kind === "refused" ? result.message : result.kind];
  const given = flags
    .filter((flag) => result.flags.has(flag.name))
    .map((flag) => {
      const { kind, name } = flag;
      if (kind === "bool") return `${name}=${result.flags.bool(name)}`;
      return `${name}=${kind === "string" ? result.flags.string(name) : result.flags.list(name).join("+")}`;
    });
  return [given.join(" "), ...result.args];
}

test("parseArguments() reads --bool=value, values with =, glued values and clusters", () => {
  assert.deepEqual(parsed(["--detach=false", "--tty=true", "-p=80:80", "--name=a=b", "X"]), [
    "detach=false tty=true name=a=b publish=80:80",
    "X",
  ]);
  assert.deepEqual(parsed(["-dtnweb", "-p", "1", "X", "--publish", "2", "-d=0"]), [
    "detach=false tty=true name=web publish=1+2",
    "X",
  ]);
});

test("parseArguments() leaves what follows -- alone, or the first argument where the command says so", () => {
  assert.deepEqual(parsed(["-d", "-n", "web", "image", "ls", "-l", "--detach=false"], true), [
    "detach=true name=web",
    "image",
    "ls",
    "-l",
    "--detach=false",
  ]);
  assert.deepEqual(parsed(["X", "-d", "--", "--tty=false"]), ["detach=true", "X", "--tty=false"]);
  assert.deepEqual(parsed(["-", "-d"]), ["detach=true", "-"]);
});

test("parseArguments() does not take a flag's value for a flag", () => {
  assert.deepEqual(parsed(["-n", "--detach=false", "-tn", "-p=1"]), ["tty=true name=-p=1"]);
});

test("parseArguments() says what is wrong, in docker's words", () => {
  assert.deepEqual(parsed(["--nope=1"]), ["unknown flag: --nope"]);
  assert.deepEqual(parsed(["-dx"]), ["unknown shorthand flag: 'x' in -dx"]);
  assert.deepEqual(parsed(["--name"]), ["flag needs an argument: --name"]);
  assert.deepEqual(parsed(["-tn"]), ["flag needs an argument: 'n' in -tn"]);
  assert.deepEqual(parsed(["--tty=maybe"]), [
    'invalid argument "maybe" for "--tty" flag: expected true or false',
  ]);
});

test("parseArguments() finds the wish for help, unless the command uses -h itself", () => {
  assert.deepEqual(parsed(["X", "-h"]), ["help"]);
  assert.deepEqual(parsed(["--help"]), ["help"]);
  assert.equal(parseArguments({ flags: [text("hostname", "", "", "h")] }, ["-h", "a"]).kind, "command");
});

test("splitRootFlags() cuts at the command", () => {
  const { rootFlags, rest } = splitRootFlags([
    "-H",
    "unix:///a",
    "--tlsverify",
    "--context=x",
    "service",
    "ls",
    "-q",
  ]);
  assert.deepEqual(rest, ["service", "ls", "-q"]);
  assert.deepEqual(rootFlags.list("host"), ["unix:///a"]);
  assert.deepEqual(endpointOptions(rootFlags, {}), {
    env: {},
    host: "unix:///a",
    context: "x",
    tlsVerify: true,
  });
  assert.equal(splitRootFlags(["--nope", "x"]).unknown, "--nope");
  assert.equal(splitRootFlags(["-H"]).lacking, "-H");
});
