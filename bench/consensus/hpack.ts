/** Header compression of HTTP/2 (RFC 7541): a decoder for one connection, and what an answer's few literals look like. */

export type Field = readonly [name: string, value: string];

/** What the peer sent can't be read: the connection is of no use any more (COMPRESSION_ERROR). */
export class HeaderError extends Error {
  override readonly name = "HeaderError";
}

/** Appendix A, index 1 first. */
const STATIC_TABLE: readonly Field[] = `
:authority|:method GET|:method POST|:path /|:path /index.html|:scheme http|:scheme https|:status 200|:status 204
:status 206|:status 304|:status 400|:status 404|:status 500|accept-charset|accept-encoding gzip, deflate
accept-language|accept-ranges|accept|access-control-allow-origin|age|allow|authorization|cache-control
content-disposition|content-encoding|content-language|content-length|content-location|content-range|content-type
cookie|date|etag|expect|expires|from|host|if-match|if-modified-since|if-none-match|if-range|if-unmodified-since
last-modified|link|location|max-forwards|proxy-authenticate|proxy-authorization|range|referer|refresh|retry-after
server|set-cookie|strict-transport-security|transfer-encoding|user-agent|vary|via|www-authenticate`
  .trim()
  .split(/[|\n]/)
  .map((text): Field => {
    const space = text.indexOf(" ");
    return space < 0 ? [text, ""] : [text.slice(0, space), text.slice(space + 1)];
  });

/**
 * Appendix B as runs of "bits x how many symbols", from symbol 0 to 256 (the end of a string). The code is canonical: codes
 * of one length follow each other in the order of their symbols, and a longer one follows the shorter ones.
 */
const CODE_LENGTHS: readonly number[] = `
13 23 28x7 24 30 28x2 30 28x8 30 28x9 6 10x2 12 13 6 8 11 10x2 8 11 8 6x3 5x3 6x7 7 8 15 6 12 10 13 6 7x22 8 7 8 13 19
13 14 6 15 5 6 5 6 5 6x3 5 7x2 6x3 5 6 7 6 5x2 6 7x5 15 11 14 13 28 20 22 20x2 22x3 23 22 23x5 24 23 24x2 22 23 24 23x4
21 22 23 22 23x2 24 22 21 20 22x2 23x2 21 23 22x2 24 21 22 23x2 21x2 22 21 23 22 23x2 20 22x3 23 22x2 23 26x2 20 19 22
23 22 25 26x3 27x2 26 24 25 19 21 26 27x2 26 27 24 21x2 26x2 28 27x3 20 24 20 21 22 21x2 23 22x2 25x2 24x2 26 23 26 27
26x2 27x5 28 27x5 26 30`
  .trim()
  .split(/\s+/)
  .flatMap((run) => {
    const [bits = 0, count = 1] = run.split("x").map(Number);
    return Array.from({ length: count }, () => bits);
  });

const END_OF_STRING = 256;
const TABLE_BYTES_MAX = 4096;
const FIELD_OVERHEAD_BYTES = 32;
const PADDING_BITS_MAX = 7;

/** Two cells per node, for bit 0 and bit 1: the next node's number, or -1 - symbol, or 0 for a code that isn't used. */
function codeTree(): Int16Array {
  const cells = [0, 0];
  let code = 0;
  for (let bits = 1; bits <= 30; bits += 1) {
    for (const [symbol, length] of CODE_LENGTHS.entries()) {
      if (length !== bits) continue;
      let node = 0;
      for (let bit = bits - 1; bit > 0; bit -= 1) {
        const at = 2 * node + ((code >>> bit) & 1);
        if (cells[at] === 0) cells[at] = cells.push(0, 0) / 2 - 1;
        node = cells[at] ?? 0;
      }
      cells[2 * node + (code & 1)] = -1 - symbol;
      code += 1;
    }
    code *= 2;
  }
  return Int16Array.from(cells);
}

const CODE_TREE = codeTree();

function huffmanDecoded(bytes: Buffer): string {
  const symbols: number[] = [];
  let node = 0;
  let pendingBits = 0;
  let isPadding = true;
  for (const byte of bytes) {
    for (let shift = 7; shift >= 0; shift -= 1) {
      const bit = (byte >>> shift) & 1;
      const next = CODE_TREE[2 * node + bit] ?? 0;
      pendingBits += 1;
      isPadding &&= bit === 1;
      if (next > 0) {
        node = next;
        continue;
      }
      if (next === 0 || next === -1 - END_OF_STRING) throw new HeaderError("not a Huffman code");
      symbols.push(-1 - next);
      node = 0;
      pendingBits = 0;
      isPadding = true;
    }
  }
  if (pendingBits > PADDING_BITS_MAX || !isPadding) throw new HeaderError("Huffman padding");
  return Buffer.from(symbols).toString("latin1");
}

/** Decodes the header blocks of one connection, in the order in which they came. */
export class HeaderDecoder {
  /** Newest first. */
  readonly #table: Field[] = [];
  #tableBytes = 0;
  #tableBytesMax = TABLE_BYTES_MAX;
  #block: Buffer = Buffer.alloc(0);
  #at = 0;

  decode(block: Buffer): readonly Field[] {
    this.#block = block;
    this.#at = 0;
    const fields: Field[] = [];
    while (this.#at < block.byteLength) {
      const first = block[this.#at] ?? 0;
      if (first >= 0x80) fields.push(this.#field(this.#integer(0x7f)));
      else if (first >= 0x40) {
        const field = this.#literal(0x3f);
        this.#insert(field);
        fields.push(field);
      } else if (first >= 0x20) this.#resize(this.#integer(0x1f));
      else fields.push(this.#literal(0x0f));
    }
    return fields;
  }

  #field(index: number): Field {
    const field =
      index > STATIC_TABLE.length ? this.#table[index - STATIC_TABLE.length - 1] : STATIC_TABLE[index - 1];
    if (field === undefined) throw new HeaderError(`no field has the index ${index}`);
    return field;
  }

  #literal(mask: number): Field {
    const index = this.#integer(mask);
    const name = index === 0 ? this.#string() : this.#field(index)[0];
    return [name, this.#string()];
  }

  #insert(field: Field): void {
    const bytes = field[0].length + field[1].length + FIELD_OVERHEAD_BYTES;
    this.#evict(this.#tableBytesMax - bytes);
    if (bytes > this.#tableBytesMax) return;
    this.#table.unshift(field);
    this.#tableBytes += bytes;
  }

  #resize(bytesMax: number): void {
    if (bytesMax > TABLE_BYTES_MAX) throw new HeaderError(`a table of ${bytesMax} bytes`);
    this.#tableBytesMax = bytesMax;
    this.#evict(bytesMax);
  }

  #evict(bytesMax: number): void {
    while (this.#tableBytes > bytesMax) {
      const oldest = this.#table.pop();
      if (oldest === undefined) return;
      this.#tableBytes -= oldest[0].length + oldest[1].length + FIELD_OVERHEAD_BYTES;
    }
  }

  #byte(): number {
    const byte = this.#block[this.#at];
    if (byte === undefined) throw new HeaderError("a cut header block");
    this.#at += 1;
    return byte;
  }

  /** `mask`: the bits of the first byte that belong to the number. */
  #integer(mask: number): number {
    const prefix = this.#byte() & mask;
    if (prefix < mask) return prefix;
    let value = mask;
    for (let factor = 1; factor <= 128 ** 3; factor *= 128) {
      const byte = this.#byte();
      value += (byte & 127) * factor;
      if (byte < 128) return value;
    }
    throw new HeaderError("a number of more than 28 bits");
  }

  #string(): string {
    const isHuffman = (this.#block[this.#at] ?? 0) >= 0x80;
    const length = this.#integer(0x7f);
    const start = this.#at;
    this.#at += length;
    if (this.#at > this.#block.byteLength) throw new HeaderError("a cut string");
    const bytes = this.#block.subarray(start, this.#at);
    return isHuffman ? huffmanDecoded(bytes) : bytes.toString("latin1");
  }
}

/** A field that is in no table and goes into none; name and value below 127 bytes. */
export function literalField(name: string, value: string): Buffer {
  const text = (string: string): Buffer =>
    Buffer.concat([Buffer.of(string.length), Buffer.from(string, "latin1")]);
  return Buffer.concat([Buffer.of(0), text(name), text(value)]);
}

/** ":status: 200" is in the static table. */
export const STATUS_200: Buffer = Buffer.of(0x88);
