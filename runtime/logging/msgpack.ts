/** As much of MessagePack as Fluentd's forward protocol takes: maps, lists, texts, whole numbers, and its own type of time. Pure. */

const FIX_MAP = 0x80;
const FIX_LIST = 0x90;
const FIX_TEXT = 0xa0;
const TEXT_8 = 0xd9;
const TEXT_16 = 0xda;
const TEXT_32 = 0xdb;
const UINT_32 = 0xce;
const LIST_16 = 0xdc;
const LIST_32 = 0xdd;
const MAP_16 = 0xde;
const FIX_EXT_8 = 0xd7;

/** Fluentd's EventTime: ext type 0 with seconds and nanoseconds. */
export interface EventTime {
  readonly seconds: number;
  readonly nanoseconds: number;
}

export type Packable =
  | string
  | number
  | Uint8Array
  | EventTime
  | readonly Packable[]
  | ReadonlyMap<string, Packable>;

function sized(
  value: number,
  forms: readonly (readonly [limit: number, tag: number, bytes: 1 | 2 | 4])[],
): Buffer {
  const [, tag = 0, bytes = 4] = forms.find(([limit]) => value <= limit) ?? [];
  const head = Buffer.alloc(1 + bytes);
  head[0] = tag;
  head.writeUIntBE(value, 1, bytes);
  return head;
}

/** Texts are written as they are: what a container prints may be no UTF-8. */
function packText(bytes: Uint8Array, into: Uint8Array[]): void {
  const { length } = bytes;
  into.push(
    length < 32
      ? Uint8Array.of(FIX_TEXT | length)
      : sized(length, [
          [0xff, TEXT_8, 1],
          [0xffff, TEXT_16, 2],
          [0xffffffff, TEXT_32, 4],
        ]),
    bytes,
  );
}

function packCount(
  count: number,
  fix: number,
  forms: readonly (readonly [number, number, 1 | 2 | 4])[],
): Uint8Array {
  return count < 16 ? Uint8Array.of(fix | count) : sized(count, forms);
}

function packInto(value: Packable, into: Uint8Array[]): void {
  if (typeof value === "string") packText(Buffer.from(value), into);
  else if (typeof value === "number")
    into.push(value < 128 ? Uint8Array.of(value) : sized(value, [[0xffffffff, UINT_32, 4]]));
  else if (value instanceof Uint8Array) packText(value, into);
  else if (Array.isArray(value)) {
    const list = value as readonly Packable[];
    into.push(
      packCount(list.length, FIX_LIST, [
        [0xffff, LIST_16, 2],
        [0xffffffff, LIST_32, 4],
      ]),
    );
    for (const each of list) packInto(each, into);
  } else if (value instanceof Map) {
    const map = value as ReadonlyMap<string, Packable>;
    into.push(packCount(map.size, FIX_MAP, [[0xffff, MAP_16, 2]]));
    for (const [key, each] of map) {
      packInto(key, into);
      packInto(each, into);
    }
  } else {
    const { seconds, nanoseconds } = value as EventTime;
    const time = Buffer.alloc(10);
    time[0] = FIX_EXT_8;
    time.writeUInt32BE(seconds, 2);
    time.writeUInt32BE(nanoseconds, 6);
    into.push(time);
  }
}

/** Whole numbers from 0 to 2^32 - 1, texts (also as bytes), times, lists, and maps of at most 65,535 keys. */
export function pack(value: Packable): Buffer {
  const parts: Uint8Array[] = [];
  packInto(value, parts);
  return Buffer.concat(parts);
}
