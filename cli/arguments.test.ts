/** Command lines as docker's parser takes them, and the options before the command. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { normalizeArguments } from "./arguments.ts";
import { bool, list, text } from "./command.ts";
import { endpointOptions, splitRootFlags } from "./root-flags.ts";

const flags = [
  bool("detach", "", "d"),
  bool("tty", "", "t"),
  text("name", "", "", "n"),
  list("publish", "", "", "p"),
];

test("normalizeArguments() reads --bool=value and short flags with =", () => {
  const { argv, falseFlags } = normalizeArguments({ flags }, [
    "--detach=false",
    "--tty=true",
    "-p=80:80",
    "--name=a=b",
    "X",
  ]);
  assert.deepEqual(argv, ["--tty", "--publish=80:80", "--name=a=b", "X"]);
  assert.deepEqual(falseFlags, ["detach"]);
});

test("normalizeArguments() leaves what follows the first argument alone where the command says so", () => {
  const definition = { flags, stopsAtArgument: true };
  assert.deepEqual(
    normalizeArguments(definition, ["-d", "-n", "web", "image", "ls", "-l", "--detach=false"]).argv,
    ["-d", "-n", "web", "--", "image", "ls", "-l", "--detach=false"],
  );
  assert.deepEqual(normalizeArguments({ flags }, ["X", "-d", "--", "--tty=false"]).argv, [
    "X",
    "-d",
    "--",
    "--tty=false",
  ]);
});

test("normalizeArguments() does not take a flag's value for a flag", () => {
  assert.deepEqual(normalizeArguments({ flags }, ["-n", "--detach=false", "-dtn", "-p=1"]).argv, [
    "-n",
    "--detach=false",
    "-dtn",
    "-p=1",
  ]);
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
  assert.equal(splitRootFlags(["-H"]).unknown, "-H");
});
