/** `--log-opt tag=TEMPLATE`: a Go template over the container, with the fields that Docker's log drivers offer. Pure. */
import { compileTemplate } from "../common/go-template.ts";

const SHORT_ID_CHARS = 12;
const TAG_CHARS_MAX = 4096;

/** The container as a tag may name it. */
export interface LogTagInfo {
  readonly id: string;
  /** Without a slash. */
  readonly name: string;
  /** With its algorithm. */
  readonly imageId: string;
  readonly imageName: string;
  readonly command: readonly string[];
  /** RFC 3339. */
  readonly created: string;
  readonly env: readonly string[];
  readonly labels: Readonly<Record<string, string>>;
  /** What `labels` and `env` of the options pick out. */
  readonly attributes: Readonly<Record<string, string>>;
  /** Of the machine. */
  readonly hostname: string;
}

/** The text of a tag. Throws invalid_argument on bad syntax and on fields that there are not. */
export function expandLogTag(template: string, info: LogTagInfo): string {
  const [entrypoint = "", ...args] = info.command;
  return compileTemplate(template, { strict: "top", outputCharsMax: TAG_CHARS_MAX })({
    ID: info.id.slice(0, SHORT_ID_CHARS),
    FullID: info.id,
    Name: info.name,
    ImageID: info.imageId.replace(/^sha256:/, "").slice(0, SHORT_ID_CHARS),
    ImageFullID: info.imageId,
    ImageName: info.imageName,
    Command: info.command.join(" "),
    DaemonName: "docker",
    Hostname: info.hostname,
    ExtraAttributes: () => info.attributes,
    ContainerID: info.id,
    ContainerName: `/${info.name}`,
    ContainerEntrypoint: entrypoint,
    ContainerArgs: args,
    ContainerImageID: info.imageId,
    ContainerImageName: info.imageName,
    ContainerCreated: info.created,
    ContainerEnv: info.env,
    ContainerLabels: info.labels,
  });
}

/** Throws as expandLogTag() would for any container. */
export function checkLogTag(template: string): void {
  expandLogTag(template, {
    id: "0".repeat(64),
    name: "name",
    imageId: `sha256:${"0".repeat(64)}`,
    imageName: "image",
    command: ["command"],
    created: "2000-01-01T00:00:00Z",
    env: [],
    labels: {},
    attributes: {},
    hostname: "host",
  });
}
