/** CRC-32C (RFC 3720, appendix B.4), which LevelDB's files carry; node:zlib has the other polynomial only. */

const POLYNOMIAL = 0x82f63b78;
/** Bytes that are taken in one step, each with a table of its own (slicing-by-4). */
const SLICE_BYTES = 4;
const TABLES = makeTables();

function makeTables(): Uint32Array {
  const tables = new Uint32Array(SLICE_BYTES * 256);
  for (let byte = 0; byte < 256; byte += 1) {
    let crc = byte;
    for (let bit = 0; bit < 8; bit += 1) crc = (crc & 1) === 1 ? (crc >>> 1) ^ POLYNOMIAL : crc >>> 1;
    tables[byte] = crc;
  }
  for (let at = 256; at < tables.length; at += 1) {
    const before = tables[at - 256] ?? 0;
    tables[at] = (before >>> 8) ^ (tables[before & 0xff] ?? 0);
  }
  return tables;
}

/** The checksum as an unsigned 32-bit number. */
export function crc32c(bytes: Uint8Array): number {
  const { length } = bytes;
  let crc = 0xffffffff;
  let at = 0;
  for (; at + SLICE_BYTES <= length; at += SLICE_BYTES) {
    const [a = 0, b = 0, c = 0, d = 0] = [bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]];
    crc =
      (TABLES[768 + ((crc ^ a) & 0xff)] ?? 0) ^
      (TABLES[512 + (((crc >>> 8) ^ b) & 0xff)] ?? 0) ^
      (TABLES[256 + (((crc >>> 16) ^ c) & 0xff)] ?? 0) ^
      (TABLES[(crc >>> 24) ^ d] ?? 0);
  }
  for (; at < length; at += 1) crc = (TABLES[(crc ^ (bytes[at] ?? 0)) & 0xff] ?? 0) ^ (crc >>> 8);
  return (crc ^ 0xffffffff) >>> 0;
}
