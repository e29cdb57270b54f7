/**
 * A build's result as another build's input: clients ask for it as a graph of steps and hand that on without looking inside.
 * Ours has one source, an image of this engine by its id, and the mark of the end. Written and read field by field, as
 * nothing else of such graphs is known here.
 */
import { createHash } from "node:crypto";
import protobuf from "protobufjs/minimal.js";

const { Reader, Writer } = protobuf;
const SCHEME = "shoal-image://";
const LENGTH_DELIMITED = 2;

/** Numbers of BuildKit's fields. */
const FIELD = {
  op: { inputs: 1, source: 3 },
  input: { digest: 1 },
  source: { identifier: 1 },
  definition: { def: 1, metadata: 2 },
  entry: { key: 1, value: 2 },
  answer: { result: 3 },
  result: { ref: 3 },
  ref: { id: 1, definition: 2 },
} as const;

type Part = string | Uint8Array;

function message(...fields: readonly (readonly [number, Part])[]): Uint8Array {
  const writer = Writer.create();
  for (const [number, content] of fields) {
    writer.uint32(number * 8 + LENGTH_DELIMITED);
    if (typeof content === "string") writer.string(content);
    else writer.bytes(content);
  }
  return writer.finish();
}

/** Fields of a message that have a content, by number. */
function fieldsOf(bytes: Uint8Array): ReadonlyMap<number, Uint8Array> {
  const fields = new Map<number, Uint8Array>();
  const reader = Reader.create(bytes);
  while (reader.pos < reader.len) {
    const tag = reader.uint32();
    if (tag % 8 === LENGTH_DELIMITED) fields.set(Math.floor(tag / 8), reader.bytes());
    else reader.skipType(tag % 8);
  }
  return fields;
}

function digestOf(bytes: Uint8Array): string {
  return `sha256:${createHash("sha256").update(bytes).digest("hex")}`;
}

function definitionOf(imageId: string): Uint8Array {
  const source = message([FIELD.op.source, message([FIELD.source.identifier, `${SCHEME}${imageId}`])]);
  const end = message([FIELD.op.inputs, message([FIELD.input.digest, digestOf(source)])]);
  const steps = [source, end];
  const nothing = new Uint8Array();
  return message(
    ...steps.map((step) => [FIELD.definition.def, step] as const),
    ...steps.map((step) => {
      const entry = message([FIELD.entry.key, digestOf(step)], [FIELD.entry.value, nothing]);
      return [FIELD.definition.metadata, entry] as const;
    }),
  );
}

/** What the bridge answers to a solve. */
export interface BridgeAnswer {
  readonly ref: string;
  /** Undefined: nothing was built. */
  readonly imageId: string | undefined;
}

export const BRIDGE_ANSWER = {
  encode: ({ ref, imageId }: BridgeAnswer): { finish(): Uint8Array } => {
    const id = [FIELD.ref.id, ref] as const;
    const content =
      imageId === undefined ? message(id) : message(id, [FIELD.ref.definition, definitionOf(imageId)]);
    const bytes = message([FIELD.answer.result, message([FIELD.result.ref, content])]);
    return { finish: () => bytes };
  },
};

/** The image that an input stands for; undefined: it is none of ours. */
export function imageOfInput(steps: readonly Uint8Array[]): string | undefined {
  for (const step of steps) {
    try {
      const source = fieldsOf(step).get(FIELD.op.source);
      const identifier = source === undefined ? undefined : fieldsOf(source).get(FIELD.source.identifier);
      const text = Buffer.from(identifier ?? []).toString("utf8");
      if (text.startsWith(SCHEME)) return text.slice(SCHEME.length);
    } catch {
      // No message: none of ours.
      return undefined;
    }
  }
  return undefined;
}
