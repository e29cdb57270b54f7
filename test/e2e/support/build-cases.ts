/**
 * Dockerfiles whose outcome is the same here and with Docker's classic builder: image, files, what is told, and errors. Those
 * of build-like-docker.test.ts, which builds each with both.
 */
import { gzipSync } from "node:zlib";
import { tarOf, type TestMember } from "../../../runtime/images/testing/archives.ts";

export interface BuildCase {
  readonly name: string;
  readonly dockerfile: string;
  readonly query?: Readonly<Record<string, string>>;
  /** Context's files beside BUILD_FILES. */
  readonly files?: readonly TestMember[];
  /** Images built first, by name: what the case is built FROM. */
  readonly bases?: Readonly<Record<string, string>>;
  /** Why the words of the failure are others here; that it fails counts. */
  readonly differs?: string;
}

export const BUILD_FILES: readonly TestMember[] = [
  { name: "one", content: "1", mode: 0o640, uid: 1000, gid: 1000 },
  { name: "two.txt", content: "22", mode: 0o755 },
  { name: "three.txt", content: "333" },
  { name: "name with space", content: "spaced" },
  { name: "br[a]cket", content: "bracket" },
  { name: ".hidden", content: "hidden" },
  { name: "empty", content: "" },
  { name: "tree/", mode: 0o750 },
  { name: "tree/in", content: "in", mode: 0o600, uid: 5 },
  { name: "tree/sub/", mode: 0o711 },
  { name: "tree/sub/deep", content: "deep" },
  { name: "tree/sub/more.txt", content: "more" },
  { name: "tree/link", type: "symlink", linkName: "sub/deep" },
  { name: "tree/dangling", type: "symlink", linkName: "nowhere" },
  { name: "tolink", type: "symlink", linkName: "tree/in" },
  { name: "totree", type: "symlink", linkName: "tree" },
  { name: "hollow/" },
  {
    name: "a.tar",
    content: tarOf([{ name: "packed/" }, { name: "packed/f", content: "f", uid: 7, gid: 8 }]),
  },
  { name: "a.tgz", content: gzipSync(tarOf([{ name: "zipped", content: "z", mode: 0o604 }])) },
  { name: "data.gz", content: gzipSync(Buffer.from("no archive")) },
];

const IMAGE_CASES: readonly BuildCase[] = [
  {
    name: "RUN in both forms, with output and removed files",
    dockerfile: `FROM bench-base:1
RUN mkdir /d && echo a > /d/a && echo b > /d/b && chmod 640 /d/b
RUN ["/bin/sh", "-c", "rm /d/a && ln -s b /d/l && ln /d/b /d/hard"]
RUN rm -rf /d && mkdir /d && echo new > /d/new`,
  },
  {
    name: "COPY of files, folders, patterns, with owner",
    dockerfile: `FROM bench-base:1
COPY one /
COPY one /renamed
COPY two.txt three.txt /both/
COPY *.txt /glob/
COPY tree /tree
COPY tree/ /there/under/
COPY --chown=12:34 tree one /owned/
COPY . /all
WORKDIR /app/dir
COPY one here
COPY one ./folder/`,
  },
  {
    name: "ADD of archives and of what only looks like one",
    dockerfile: `FROM bench-base:1
ADD a.tar /x/
ADD a.tgz /x/
ADD data.gz one /y/
ADD tree /z`,
  },
  {
    name: "the config's instructions",
    dockerfile: `FROM bench-base:1
MAINTAINER somebody <a@b.c>
LABEL a=1 b="two words" c='x'
LABEL "d"="e\\
f"
ENV ONE 1 and more
ENV TWO=2 THREE="a $ONE b" FOUR=\${TWO:-x}\${NONE:+y}
EXPOSE 80 53/udp 8000-8002/tcp
VOLUME /v1 /v2
VOLUME ["/v3"]
USER nobody:nogroup
WORKDIR /w
WORKDIR sub
STOPSIGNAL SIGQUIT
HEALTHCHECK --interval=5s --timeout=2s --start-period=1m --retries=3 CMD exit 0
ENTRYPOINT ["/bin/sh", "-c"]
CMD echo hi
SHELL ["/bin/sh", "-x", "-c"]
CMD echo again
ONBUILD RUN echo triggered`,
  },
  {
    name: "entry points and commands forget each other as they should",
    dockerfile: `FROM bench-base:1
CMD ["a"]
ENTRYPOINT b c
HEALTHCHECK NONE`,
  },
  {
    name: "arguments",
    dockerfile: `ARG BASE=bench-base
ARG TAG=1
FROM \${BASE}:\${TAG}
ARG TAG
ARG GIVEN=default
ARG NOT_GIVEN=fallback
ENV FROM_ARG=\${GIVEN}
RUN echo "$TAG $GIVEN $NOT_GIVEN $FROM_ARG" > /args
ENV GIVEN=env
RUN echo "$GIVEN" > /env`,
    query: { buildargs: JSON.stringify({ GIVEN: "from the client" }) },
  },
  {
    name: "arguments end with their stage, and those nobody takes are told",
    dockerfile: `ARG GLOBAL=global
FROM bench-base:1 AS first
ARG A=one
RUN echo "[$A] [$GLOBAL]" > /a
FROM bench-base:1
RUN echo "[$A] [$GLOBAL]" > /b
ARG GLOBAL
ARG HTTP_PROXY
RUN echo "[$A] [$GLOBAL] [$HTTP_PROXY] [$https_proxy]" > /c
COPY --from=first /a /a`,
    query: {
      buildargs: JSON.stringify({
        HTTP_PROXY: "http://p:1",
        https_proxy: "http://s:2",
        NOBODY: "x",
        A: "given",
      }),
    },
  },
  {
    name: "stages by name, number and from scratch",
    dockerfile: `FROM bench-base:1 AS builder
RUN mkdir -p /out/bin && echo program > /out/bin/p && chmod 4755 /out/bin/p
FROM bench-base:1 as other
COPY --from=builder /out /taken
FROM scratch
COPY --from=0 /out/bin /bin
COPY --from=other /taken/bin/p /p2
COPY --from=bench-base:1 /bin/busybox /sh
CMD ["/bin/p"]`,
  },
  {
    name: "a target and labels of the request",
    dockerfile: `FROM bench-base:1 AS first
ENV A=first
FROM first AS second
ENV A=second`,
    query: { target: "first", labels: JSON.stringify({ z: "1", a: "2" }) },
  },
  {
    name: "comments, continued lines and the escape directive",
    dockerfile: `# escape=\`
FROM bench-base:1
# a comment
RUN echo a \`
  # inside
  && echo b > /file
ENV P=c:\\dir`,
  },
  {
    name: "continued lines with comments and empty lines in between",
    dockerfile: `FROM bench-base:1
RUN echo one > /f && \\
# comment
   # indented comment

    echo two >> /f && \\

    echo three >> /f
ENV A=1 \\
    # not a value
    B=2 \\
    C="3 \\
4"
LABEL x=\\
y
CMD echo \\\\ \\
 a`,
  },
  {
    name: "CRLF line ends and a byte order mark",
    dockerfile:
      "\uFEFF# comment\r\nFROM bench-base:1\r\nENV A=1 \\\r\n  B=2\r\nRUN echo $A > /a\r\nLABEL l=x\r\n",
  },
  {
    name: "variables in all their forms",
    dockerfile: `FROM bench-base:1
ENV A=a EMPTY= B='$A' C="$A" D=\\$A E=\${A} F=\${A}b G=$A-b H="\\$A" I='it''s' J="a\\"b" K=\${NO:-"d e"} L=\${A:+\${A}x} M=\${EMPTY:-def} O=\${EMPTY:+set} P=a\\ b Q=\\\\ R=$NO
ENV A=b X=$A
ENV S $A and "quoted" \\$A  two
LABEL "with space"="$A" single='$A' v=$A "dotted.name"=a=b
ENV U=\${A:-\${B}} V="\${A}\${A}" W=a$ Y=$$ Z="tab	in"`,
  },
  {
    name: "variables in the instructions that take them",
    dockerfile: `FROM bench-base:1
ENV DIR=/data FILE=one PORT=80 USR=me SIG=SIGTERM PORTS="1 2/udp" DIRS="/a /b"
WORKDIR $DIR/sub
COPY $FILE \${DIR}/copied
ADD \${FILE} $DIR/added
EXPOSE $PORT \${PORT}1/udp $PORTS
VOLUME $DIR $DIRS
USER $USR
STOPSIGNAL $SIG
CMD echo $DIR
ENTRYPOINT ["$DIR"]
LABEL $USR=$DIR`,
  },
  {
    name: "WORKDIR: made, relative, through links, kept as it is, of root whatever USER",
    dockerfile: `FROM bench-base:1
RUN mkdir -m 700 /real && ln -s real /lnk
USER 1000
WORKDIR /lnk/in
WORKDIR ../up
WORKDIR /
WORKDIR a/b/
WORKDIR /real
WORKDIR /x/y
RUN pwd > /tmp/pwd`,
  },
  {
    name: "USER decides who runs, not who owns copies",
    dockerfile: `FROM bench-base:1
COPY --chown=7:8 one /seven
USER 5:6
RUN echo x > /tmp/by-user
COPY one /by-copy
USER 9
RUN echo x > /tmp/by-nine`,
  },
  {
    name: "--chown by names of the image",
    dockerfile: `FROM bench-base:1
RUN mkdir /etc && echo 'root:x:0:0:root:/:/bin/sh' > /etc/passwd && echo 'web:x:33:44::/:' >> /etc/passwd && echo 'staff:x:50:' > /etc/group && echo 'web:x:45:' >> /etc/group
COPY --chown=web one /a
COPY --chown=web:staff tree /b
COPY --chown=33:staff one /c
ADD --chown=web:7 a.tar /d/
ADD --chown=web:7 tree /e/`,
  },
  {
    name: "COPY onto what is there already",
    dockerfile: `FROM bench-base:1
RUN mkdir -m 700 /dir && echo old > /dir/one && mkdir /target && ln -s target /lnk && ln -s /target /abs && ln -s nowhere /broken && echo f > /file && mkdir -p /tree/sub && chmod 777 /tree /tree/sub && echo keep > /tree/kept
COPY one /dir
COPY one /lnk
COPY two.txt /abs/
COPY tree /lnk/
COPY one /file
COPY tree /tree
COPY tree/sub /tree/sub
COPY one /broken`,
  },
  {
    name: "COPY of odd names and of links",
    dockerfile: `FROM bench-base:1
COPY ["name with space", "/spaces here/"]
COPY br[[]a]cket /b/
COPY tolink /l/link
COPY totree /l/tree
COPY tree/link /l/file
COPY .hidden empty /h/
COPY hollow /hollow
COPY hollow/ /hollow2/
COPY t*e /stars/
COPY tree/*/d* /deep/
COPY ?ne /q/
COPY [a-p]ne /range/
COPY ./one /dot/
COPY tree/../one /up/
COPY /one /slash
COPY tree/. /point/`,
  },
  {
    name: "destinations with and without a slash, dots, relative",
    dockerfile: `FROM bench-base:1
COPY one new/
COPY one .
COPY one ./
WORKDIR /w
COPY one .
COPY two.txt ..
COPY one ../up/
COPY tree newtree
COPY tree/sub deep/er/
COPY one /w/./a/../b`,
  },
  {
    name: "COPY from a stage: links, patterns, folders, modes",
    dockerfile: `FROM bench-base:1 AS s
RUN mkdir -p /src/d && echo a > /src/d/a && ln -s d /src/l && ln -s /src/d/a /src/abs && chmod 700 /src/d && echo t > /src/t.txt && chown -R 5:6 /src && chmod 4711 /src/t.txt && ln /src/t.txt /src/hard
FROM bench-base:1
COPY --from=s /src /1
COPY --from=s /src/l /2
COPY --from=s /src/abs /3
COPY --from=s /src/*.txt /4/
COPY --from=s src/d/ /5/
COPY --from=s --chown=1:2 /src/d /6
COPY --from=0 /src/l/a /7`,
  },
  {
    name: "ONBUILD chains",
    bases: {
      "like-onbuild:1": `FROM bench-base:1
ONBUILD ARG WHO=nobody
ONBUILD ENV TRIGGERED=$WHO
ONBUILD COPY one /from-trigger
ONBUILD RUN echo $WHO > /who
ONBUILD WORKDIR /made
ENV BASE=1`,
      "like-onbuild:2": `FROM like-onbuild:1
ONBUILD LABEL second=yes
ENV MIDDLE=1`,
    },
    dockerfile: `FROM like-onbuild:2
ENV LAST=1
FROM like-onbuild:1
RUN pwd > /pwd`,
    query: { buildargs: JSON.stringify({ WHO: "me" }) },
  },
  {
    name: "SHELL changes both forms' shell",
    dockerfile: `FROM bench-base:1
SHELL ["/bin/sh", "-ec"]
RUN echo a > /a
CMD echo $0
SHELL ["/bin/busybox", "sh", "-c"]
RUN echo b > /b
ENTRYPOINT exec top
HEALTHCHECK CMD test -e /a`,
  },
  {
    name: "HEALTHCHECK in its forms",
    dockerfile: `FROM bench-base:1
HEALTHCHECK --interval=1m30s --retries=2 --timeout=500ms CMD ["a", "b c"]`,
  },
  {
    name: "what a RUN writes to a VOLUME is lost, what COPY brings is not",
    dockerfile: `FROM bench-base:1
RUN mkdir /v && echo before > /v/before
VOLUME /v
RUN echo after > /v/after; ls /v
COPY one /v/copied`,
  },
  {
    name: "VOLUME and EXPOSE several times and in JSON",
    dockerfile: `FROM bench-base:1
EXPOSE 80/TCP 80/udp
EXPOSE 7000-7002
EXPOSE 443
VOLUME ["/a b", "/c"]
VOLUME /c /d`,
  },
  {
    name: "ENTRYPOINT after CMD of the base",
    bases: {
      "like-base:1": `FROM bench-base:1\nCMD ["from", "base"]\nENTRYPOINT ["old"]\nENV PATH=/own\nUSER 4\nWORKDIR /b\nLABEL a=b`,
    },
    dockerfile: `FROM like-base:1
ENTRYPOINT ["new"]`,
  },
  {
    name: "CMD and ENTRYPOINT without words, in broken JSON, with quotes",
    dockerfile: `FROM bench-base:1
ENTRYPOINT []
CMD ["a", 'b']
CMD [ "x" , "y\\u0041\\n" ]
ENTRYPOINT   a   "b  c"   $HOME`,
  },
  {
    name: "instructions in lower case, with blanks and tabs around",
    dockerfile: `from bench-base:1
  env	A=1   B=2
	run	echo   two   blanks  > /f
label   x=1
Copy one   /one
cmd	["a"]`,
  },
  {
    name: "a very long line",
    dockerfile: `FROM bench-base:1\nENV LONG=${"x".repeat(20_000)}\nRUN echo \${#LONG} > /length # ${"y".repeat(30_000)}`,
  },
  {
    name: "files that RUN deletes, replaces and changes",
    bases: {
      "like-files:1": `FROM bench-base:1
RUN mkdir -p /d/sub /e && echo 1 > /d/1 && echo 2 > /d/sub/2 && echo 3 > /e/3 && ln -s 1 /d/l && echo x > /x`,
    },
    dockerfile: `FROM like-files:1
RUN rm -rf /d/sub && mkdir /d/sub && echo new > /d/sub/new
RUN rm /d/1 && ln -s /e /d/1
RUN rm -rf /e && echo file > /e
RUN rm /x && mkdir /x && echo in > /x/in
RUN chmod 600 /d/l ; chown 3:4 /x && touch /x/in && mv /d /moved
RUN mkfifo /fifo && rm -rf /moved/sub`,
  },
  {
    name: "ADD: archives by content, into folders, over what is there",
    dockerfile: `FROM bench-base:1
RUN mkdir -p /t/packed && chmod 700 /t/packed && echo old > /t/packed/f
ADD a.tar /t
ADD a.tgz /new
ADD a.tar a.tgz one /several/
COPY a.tar /kept.tar
ADD empty /empty
ADD data.gz /data
ADD arch*.bin /byglob/`,
    files: [{ name: "archive.bin", content: tarOf([{ name: "inside", content: "i" }]) }],
  },
  {
    name: ".dockerignore of a raw context counts only for itself and the Dockerfile",
    dockerfile: `FROM bench-base:1\nCOPY . /all`,
    files: [{ name: ".dockerignore", content: "*.txt\ntree\n.dockerignore\nDockerfile\n!tree/in\n" }],
  },
  {
    name: ".dockerignore that names neither itself nor the Dockerfile",
    dockerfile: `FROM bench-base:1\nCOPY . /all`,
    files: [{ name: ".dockerignore", content: "*.txt\n" }],
  },
  {
    name: "a Dockerfile elsewhere in the context",
    dockerfile: "FROM nowhere",
    files: [{ name: "sub/My.dockerfile", content: "FROM bench-base:1\nCOPY sub /s\n" }],
    query: { dockerfile: "sub/My.dockerfile" },
  },
  {
    name: "quiet",
    dockerfile: `FROM bench-base:1\nRUN echo out; echo err >&2`,
    query: { q: "1" },
  },
  {
    name: "output on both streams, and containers that stay",
    dockerfile: `FROM bench-base:1\nRUN echo out\nRUN echo err >&2`,
    query: { rm: "0" },
  },
  {
    name: "scratch without anything in it but config",
    dockerfile: 'FROM scratch\nENV A=1\nLABEL b=c\nCMD ["x"]',
  },
  {
    name: "the platform's own arguments are none of the classic builder's",
    dockerfile: `FROM bench-base:1
ARG MINE
RUN echo "[$MINE]" > /m`,
  },
  {
    name: "RUN in JSON takes no shell, no variables",
    dockerfile: `FROM bench-base:1
ENV A=1
RUN ["/bin/echo", "$A", "b c"]
RUN [ "/bin/sh", "-c", "echo $A > /a" ]`,
  },
  {
    name: "the escape directive's backtick in values and paths",
    dockerfile: "# escape=`\n\nFROM bench-base:1\nENV A=x` y B=c:\\a\\b\nRUN echo `\n  hi\nCOPY one `\n /w/",
  },
  {
    name: "a directive after a comment is a comment",
    dockerfile: "# first\n# escape=`\nFROM bench-base:1\nRUN echo a && \\\n  echo b",
  },
];

interface Failing {
  readonly query?: Readonly<Record<string, string>>;
  readonly differs?: string;
}

const FAILING: readonly (readonly [string, string, Failing?])[] = [
  ["an empty file", ""],
  ["only a comment", "# nothing\n"],
  ["blank lines only", "\n\n"],
  ["an unknown instruction", "FROM bench-base:1\n\nFOO bar"],
  ["a word on a later line", "FROM bench-base:1\nRUN echo \\\n  a\nblah"],
  ["no FROM", "RUN echo a"],
  ["FROM without a name", "FROM"],
  ["FROM with two words", "FROM bench-base:1 x"],
  ["FROM with a bad stage name", "FROM bench-base:1 AS 1a"],
  ["FROM of a blank variable", "ARG A\nFROM ${A}"],
  ["FROM of a bad name", "FROM Bad_Name:1"],
  ["a target that is not there", "FROM bench-base:1 AS a\nRUN echo hi", { query: { target: "nosuch" } }],
  ["RUN fails", "FROM bench-base:1\nRUN echo before; exit 7"],
  ["RUN in JSON fails", 'FROM bench-base:1\nRUN ["/bin/sh", "-c", "exit 3"]'],
  ["RUN of a missing program", 'FROM bench-base:1\nRUN ["/nosuch"]'],
  ["RUN of a missing user", "FROM bench-base:1\nUSER nosuch\nRUN echo a"],
  ["RUN without anything", "FROM bench-base:1\nRUN", { differs: "Docker lets a shell say so" }],
  ["RUN in scratch", "FROM scratch\nRUN echo a", { differs: "says what is missing" }],
  ["COPY of a missing file", "FROM bench-base:1\nCOPY nosuch /"],
  ["COPY of a missing pattern", "FROM bench-base:1\nCOPY nosuch* /"],
  ["COPY with one word", "FROM bench-base:1\nCOPY one"],
  ["COPY from outside", "FROM bench-base:1\nCOPY ../one /", { differs: "Docker names an empty path" }],
  ["COPY of several without a folder", "FROM bench-base:1\nCOPY one two.txt /x"],
  ["COPY of a pattern of several without a folder", "FROM bench-base:1\nCOPY *.txt /x"],
  ["COPY of a folder onto a file", "FROM bench-base:1\nCOPY one /x\nCOPY tree /x"],
  ["COPY through a file", "FROM bench-base:1\nCOPY one /x\nCOPY one /x/y"],
  ["COPY of a file to a file's folder", "FROM bench-base:1\nCOPY one /x\nCOPY one /x/"],
  ["COPY of a missing file of a stage", "FROM bench-base:1 AS s\nFROM bench-base:1\nCOPY --from=s /nosuch /"],
  ["COPY of a later stage", "FROM bench-base:1\nCOPY --from=1 /bin /x\nFROM bench-base:1"],
  ["COPY of its own stage", "FROM bench-base:1\nCOPY --from=0 /bin /x"],
  [
    "COPY --chown of nobody known",
    "FROM bench-base:1\nRUN mkdir /etc; echo > /etc/passwd\nCOPY --chown=nosuch one /",
  ],
  [
    "COPY --chown of an unknown group",
    "FROM bench-base:1\nRUN mkdir /etc; echo > /etc/group\nCOPY --chown=0:nosuch one /",
  ],
  ["COPY with a bad flag", "FROM bench-base:1\nCOPY --nosuch=1 one /"],
  ["COPY with the same flag twice", "FROM bench-base:1\nCOPY --chown=1 --chown=2 one /"],
  ["COPY of a bad pattern", "FROM bench-base:1\nCOPY [ /x/", { differs: "Docker finds nothing" }],
  ["ADD of a missing file", "FROM bench-base:1\nADD nosuch /"],
  ["ENV without a value", "FROM bench-base:1\nENV A"],
  ["ENV without anything", "FROM bench-base:1\nENV"],
  ["ENV with a word in between", "FROM bench-base:1\nENV A=1 B"],
  ["ENV without a name", "FROM bench-base:1\nENV =1"],
  ["LABEL without a value", "FROM bench-base:1\nLABEL A"],
  ["ARG without anything", "FROM bench-base:1\nARG"],
  ["EXPOSE of a word", "FROM bench-base:1\nEXPOSE abc"],
  ["EXPOSE out of range", "FROM bench-base:1\nEXPOSE 70000"],
  ["EXPOSE without anything", "FROM bench-base:1\nEXPOSE"],
  ["WORKDIR without anything", "FROM bench-base:1\nWORKDIR"],
  ["WORKDIR through a file", "FROM bench-base:1\nCOPY one /x\nWORKDIR /x"],
  ["USER without anything", "FROM bench-base:1\nUSER"],
  ["USER with two words", "FROM bench-base:1\nUSER a b"],
  ["STOPSIGNAL of nothing known", "FROM bench-base:1\nSTOPSIGNAL SIGNOSUCH"],
  ["SHELL not in JSON", "FROM bench-base:1\nSHELL /bin/sh -c"],
  ["HEALTHCHECK without a kind", "FROM bench-base:1\nHEALTHCHECK"],
  ["HEALTHCHECK of an unknown kind", "FROM bench-base:1\nHEALTHCHECK FOO bar"],
  [
    "HEALTHCHECK with a bad duration",
    "FROM bench-base:1\nHEALTHCHECK --interval=abc CMD a",
    { differs: "names the flag" },
  ],
  ["HEALTHCHECK NONE with more", "FROM bench-base:1\nHEALTHCHECK NONE a"],
  ["HEALTHCHECK CMD without a command", "FROM bench-base:1\nHEALTHCHECK CMD"],
  ["HEALTHCHECK with negative retries", "FROM bench-base:1\nHEALTHCHECK --retries=-1 CMD a"],
  ["VOLUME without anything", "FROM bench-base:1\nVOLUME"],
  ["VOLUME of an empty name", 'FROM bench-base:1\nVOLUME [""]'],
  ["ONBUILD of ONBUILD", "FROM bench-base:1\nONBUILD ONBUILD RUN a"],
  ["ONBUILD of FROM", "FROM bench-base:1\nONBUILD FROM a"],
  ["ONBUILD without anything", "FROM bench-base:1\nONBUILD"],
  ["a bad escape", "# escape=x\nFROM bench-base:1"],
  ["the escape twice", "# escape=`\n# escape=\\\nFROM bench-base:1"],
  ["an open quote", 'FROM bench-base:1\nENV A="b'],
  ["an open brace", "FROM bench-base:1\nENV A=${B", { differs: "says what is missing" }],
  ["a bad modifier", "FROM bench-base:1\nENV A=${B:x}", { differs: "names the modifier from its start" }],
  ["a Dockerfile that is not there", "FROM bench-base:1", { query: { dockerfile: "nosuch" } }],
  [
    "a Dockerfile outside",
    "FROM bench-base:1",
    { query: { dockerfile: "../Dockerfile" }, differs: "Docker names an empty path" },
  ],
  ["a bad tag", "FROM bench-base:1", { query: { t: "Bad:1" } }],
  ["bad build arguments", "FROM bench-base:1", { query: { buildargs: "x" }, differs: "names the field" }],
  ["bad labels", "FROM bench-base:1", { query: { labels: "x" }, differs: "names the field" }],
  ["a bad platform", "FROM --platform=a/b/c/d/e bench-base:1", { differs: "says what is wanted" }],
  ["MAINTAINER without anything", "FROM bench-base:1\nMAINTAINER"],
  ["RUN --mount of an unknown type", "FROM bench-base:1\nRUN --mount=type=nosuch a"],
];

export const BUILD_CASES: readonly BuildCase[] = [
  ...IMAGE_CASES,
  ...FAILING.map(([name, dockerfile, more]) => ({ name: `fails: ${name}`, dockerfile, ...more })),
];
