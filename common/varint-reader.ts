/**
 * Reads bytes of base-128 varints and of byte strings behind their length, as protobuf messages (Protocol Buffers encoding
 * specification) and LevelDB's files hold them. Reading a number beyond the end is a RangeError.
 */
export class VarintReader {
  readonly #bytes: Buffer;
  #at = 0;

  constructor(bytes: Buffer) {
    this.#bytes = bytes;
  }

  get isAtEnd(): boolean {
    return this.#at >= this.#bytes.length;
  }

  /** A number below 2^53. */
  varint(): number {
    let value = 0;
    for (let scale = 1; ; scale *= 128) {
      const byte = this.#bytes.readUInt8(this.#at++);
      value += (byte & 0x7f) * scale;
      if (byte < 0x80) return value;
    }
  }

  /** A number below 2^64; what is beyond 64 bits is cut off. */
  bigVarint(): bigint {
    let value = 0n;
    for (let shift = 0n; ; shift += 7n) {
      const byte = this.#bytes.readUInt8(this.#at++);
      value |= BigInt(byte & 0x7f) << shift;
      if (byte < 0x80) return BigInt.asUintN(64, value);
    }
  }

  /** Behind a length of its own: a view, not a copy; shorter where the bytes end. */
  byteString(): Buffer {
    const length = this.varint();
    this.#at += length;
    return this.#bytes.subarray(this.#at - length, this.#at);
  }

  skip(byteCount: number): void {
    this.#at += byteCount;
  }
}
