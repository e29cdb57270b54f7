/**
 * The few etcd messages that both systems are sent, so that the same bytes go to both: PutRequest, RangeRequest and a
 * TxnRequest of many puts, in gRPC frames. Written out by hand: they are a handful of fields.
 */

function varint(value: number): Buffer {
  const bytes: number[] = [];
  let rest = value;
  while (rest >= 128) {
    bytes.push((rest % 128) + 128);
    rest = Math.floor(rest / 128);
  }
  bytes.push(rest);
  return Buffer.from(bytes);
}

function field(number: number, body: Uint8Array): Buffer {
  return Buffer.concat([varint(number * 8 + 2), varint(body.byteLength), body]);
}

export function putRequest(key: string, value: Uint8Array): Buffer {
  return Buffer.concat([field(1, Buffer.from(key)), field(2, value)]);
}

export function rangeRequest(key: string): Buffer {
  return field(1, Buffer.from(key));
}

/** TxnRequest.success is field 2, RequestOp.request_put field 2. */
export function txnRequest(puts: readonly Buffer[]): Buffer {
  return Buffer.concat(puts.map((put) => field(2, field(2, put))));
}

/** Uncompressed flag, length, message. */
export function frame(message: Uint8Array): Buffer {
  const head = Buffer.alloc(5);
  head.writeUInt32BE(message.byteLength, 1);
  return Buffer.concat([head, message]);
}

/** Length-delimited fields of a message, in order. Other wire types end it. */
export function* fieldsOf(
  message: Buffer,
): Generator<{ readonly number: number; readonly body: Buffer }, void> {
  let offset = 0;
  const read = (): number => {
    let value = 0;
    for (let shift = 1; ; shift *= 128) {
      const byte = message[offset] ?? 0;
      offset += 1;
      value += (byte & 127) * shift;
      if (byte < 128) return value;
    }
  };
  while (offset < message.byteLength) {
    const tag = read();
    if (tag % 8 !== 2) return;
    const length = read();
    yield { number: Math.floor(tag / 8), body: message.subarray(offset, offset + length) };
    offset += length;
  }
}
