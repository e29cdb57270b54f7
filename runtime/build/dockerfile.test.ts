import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { ClusterError } from "../../common/errors.ts";
import { applyChanges, exposedPorts } from "./config-changes.ts";
import { parseDockerfile } from "./dockerfile-parser.ts";
import { parseDuration, toInstruction, type Instruction } from "./instructions.ts";
import { expandText, expandWord, expandWords } from "./shell-words.ts";

function instructions(text: string): readonly Instruction[] {
  const parsed = parseDockerfile(text);
  return parsed.instructions.map((raw) => toInstruction(raw, parsed.escape));
}

function only(text: string): Instruction {
  const [first] = instructions(text);
  assert.ok(first !== undefined);
  return first;
}

test("parseDockerfile() joins continued lines and drops comments inside them", () => {
  const parsed = parseDockerfile("FROM a\n# note\nRUN one \\\n  # inner\n\n  two\\\n three\n");
  assert.deepEqual(
    parsed.instructions.map((each) => each.original),
    ["FROM a", "RUN one   two three"],
  );
  assert.equal(parsed.instructions[1]?.line, 3);
});

test("parseDockerfile() takes directives only at the top", () => {
  const windows = parseDockerfile("# escape=`\nFROM a\nRUN one `\n two \\\nCMD x\n");
  assert.equal(windows.escape, "`");
  assert.equal(windows.instructions[1]?.original, "RUN one  two \\");
  assert.equal(parseDockerfile("FROM a\n# escape=`\n").escape, "\\");
  assert.throws(() => parseDockerfile("# escape=x\nFROM a"), /invalid escape token/);
});

test("parseDockerfile() reads heredocs", () => {
  const [run, copy] = instructions(
    'RUN <<EOF\necho one\necho two\nEOF\nCOPY <<-A <<"B" /x/\n\t$a\nA\n$b\nB\nCMD z',
  );
  assert.deepEqual(run?.kind === "RUN" && run.command, { isShell: true, args: ["echo one\necho two\n"] });
  assert.deepEqual(copy?.raw.heredocs, [
    { name: "A", content: "$a\n", expands: true },
    { name: "B", content: "$b\n", expands: false },
  ]);
  const own = only('RUN <<"EOF"\n#!/usr/bin/env python3\nprint(1)\nEOF\n');
  assert.ok(own.kind === "RUN");
  assert.deepEqual(own.command, { isShell: true, args: ["/dev/pipes/EOF"] });
  assert.deepEqual(own.script, { name: "EOF", content: "#!/usr/bin/env python3\nprint(1)\n" });
  const mixed = only("RUN cat <<EOF > /x\nbody\nEOF\n");
  assert.deepEqual(mixed.kind === "RUN" && mixed.command.args, ["cat <<EOF > /x\nbody\nEOF"]);
  assert.throws(() => parseDockerfile("RUN <<EOF\nx\n"), /unterminated heredoc "EOF"/);
});

const REFUSED: readonly (readonly [string, RegExp])[] = [
  ["\n\n", /file with no instructions/],
  ["FRM x", /unknown instruction: FRM/],
  ["FROM", /FROM requires either one or three arguments/],
  ["FROM a AS 1x", /invalid name for build stage/],
  ["COPY a", /COPY requires at least two arguments/],
  ["COPY --colour=red a b", /unknown flag: --colour/],
  ["COPY --from=a --from=b a b", /duplicate flag specified: from/],
  ["ENV a", /ENV must have two arguments/],
  ["ENV a=b c", /can't find = in "c"/],
  ["ARG =x", /ARG names can not be blank/],
  ["SHELL /bin/sh -c", /SHELL requires the arguments to be in JSON form/],
  ["ONBUILD ONBUILD RUN x", /Chaining ONBUILD/],
  ["ONBUILD FROM x", /FROM isn't allowed as an ONBUILD trigger/],
  ["HEALTHCHECK --interval=5 CMD x", /invalid duration "5"/],
  ["HEALTHCHECK FOO x", /Unknown type "FOO"/],
  ["RUN --security=insecure y", /--security option requires BuildKit/],
  ["RUN --mount=type=nosuch,target=/x y", /unsupported mount type "nosuch"/],
];

for (const [text, message] of REFUSED) {
  test(`a Dockerfile with ${JSON.stringify(text)} is refused`, () => {
    assert.throws(() => instructions(text), { code: "invalid_argument", message });
  });
}

test("expandWord() knows quotes, escapes and modifiers", () => {
  const options = {
    escape: "\\",
    variables: new Map([
      ["a", "1"],
      ["empty", ""],
      ["path", "/x/y/z.tar.gz"],
    ]),
  };
  const cases: readonly (readonly [string, string])[] = [
    ["$a", "1"],
    ["${a}b", "1b"],
    ["$ab", ""],
    ["'$a'", "$a"],
    ['"$a x"', "1 x"],
    ["\\$a", "$a"],
    ["${no:-d}", "d"],
    ["${empty:-d}", "d"],
    ["${empty-d}", ""],
    ["${a:+y}", "y"],
    ["${no:+y}", ""],
    ["${no:-${a}}", "1"],
    ["${path##*/}", "z.tar.gz"],
    ["${path#*/}", "x/y/z.tar.gz"],
    ["${path%.*}", "/x/y/z.tar"],
    ["${path%%.*}", "/x/y/z"],
    ["${path/\\//-}", "-x/y/z.tar.gz"],
    ["${path//\\//-}", "-x-y-z.tar.gz"],
    ["a\\ b", "a b"],
    ["$", "$"],
  ];
  for (const [text, wanted] of cases) assert.equal(expandWord(text, options), wanted, text);
  assert.throws(() => expandWord("${no:?gone}", options), /gone/);
  assert.throws(() => expandWord("${a", options), /missing '}'/);
  assert.throws(() => expandWord("'a", options), /single-quote/);
});

test("expandWords() splits at blanks of the text and of variables", () => {
  const options = { escape: "\\", variables: new Map([["ports", "80 443/udp"]]) };
  assert.deepEqual(expandWords("$ports 22", options), ["80", "443/udp", "22"]);
  assert.deepEqual(expandWords('"a b" c', options), ["a b", "c"]);
});

test("expandText() leaves quotes alone", () => {
  const options = { escape: "\\", variables: new Map([["a", "1"]]) };
  assert.equal(expandText('it\'s "$a" \\$a ${a:-x} $', options), 'it\'s "1" $a 1 $');
});

test("applyChanges() applies what commit -c may change", () => {
  const config = applyChanges({ Env: ["PATH=/bin"], WorkingDir: "/w" }, [
    'CMD ["cat","/etc/x"]',
    'ENV Q=1 B="two words" C=${PATH}:/x',
    "LABEL a=b",
    "WORKDIR sub/../deep",
    "EXPOSE 80 8000-8001/udp",
    "VOLUME /v /w",
    "ENTRYPOINT echo hi",
    "HEALTHCHECK --interval=3s --retries=2 CMD true",
    "STOPSIGNAL SIGUSR1",
    "USER 1:2",
    "ONBUILD RUN true",
  ]);
  assert.deepEqual(config, {
    Env: ["PATH=/bin", "Q=1", "B=two words", "C=/bin:/x"],
    WorkingDir: "/w/deep",
    Cmd: ["cat", "/etc/x"],
    Labels: { a: "b" },
    ExposedPorts: { "80/tcp": {}, "8000/udp": {}, "8001/udp": {} },
    Volumes: { "/v": {}, "/w": {} },
    Entrypoint: ["/bin/sh", "-c", "echo hi"],
    Healthcheck: { Test: ["CMD-SHELL", "true"], Interval: 3e9, Retries: 2 },
    StopSignal: "SIGUSR1",
    User: "1:2",
    OnBuild: ["RUN true"],
  });
  assert.throws(() => applyChanges({}, ["RUN x"]), /run is not a valid change command/);
  assert.throws(() => applyChanges({}, ["STOPSIGNAL 99"]), /invalid signal: 99/);
});

test("exposedPorts() and parseDuration() refuse nonsense", () => {
  assert.deepEqual(exposedPorts("53/UDP"), ["53/udp"]);
  for (const text of ["x", "70000", "9-8", "80/icmp", ""])
    assert.throws(() => exposedPorts(text), /invalid containerPort/);
  assert.equal(parseDuration("1m30s"), 90e9);
  assert.equal(parseDuration("5"), undefined);
});

test("anything is parsed or refused, quickly and without another error", () => {
  fc.assert(
    fc.property(fc.string({ maxLength: 300 }), (text) => {
      for (const prefix of ["", "FROM a\nRUN ", "ENV ", "COPY <<E "]) {
        try {
          instructions(prefix + text);
        } catch (caught) {
          assert.ok(caught instanceof ClusterError);
        }
      }
    }),
  );
});
