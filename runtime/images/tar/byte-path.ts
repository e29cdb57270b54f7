/**
 * File names as they are: bytes. Names from tar archives and folders are held as "byte strings", one character for one
 * byte (latin1), because a name need not be UTF-8 and must come out as it went in. Used by the tar code and by
 * everything that unpacks or packs layers.
 */

// oxlint-disable-next-line no-control-regex
const NON_ASCII = /[^\u0000-\u007f]/;

/** What node:fs takes for a byte string. */
export function fsPath(bytes: string): string | Buffer {
  return NON_ASCII.test(bytes) ? Buffer.from(bytes, "latin1") : bytes;
}

/** The byte string of ordinary text. */
export function fromText(text: string): string {
  return NON_ASCII.test(text) ? Buffer.from(text, "utf8").toString("latin1") : text;
}

/** Text of a byte string, for people; bytes that are no UTF-8 show as U+FFFD. */
export function toText(bytes: string): string {
  return NON_ASCII.test(bytes) ? Buffer.from(bytes, "latin1").toString("utf8") : bytes;
}

/** A zero-terminated copy, for system calls. */
export function cString(bytes: string): Buffer {
  return Buffer.from(`${bytes}\0`, "latin1");
}

/**
 * Parts of an archive's path inside its root: no empty parts, no ".", and ".." taken back without ever leaving the root.
 * A name with a zero byte is the caller's to refuse.
 */
export function pathParts(name: string): string[] {
  const parts: string[] = [];
  for (const part of name.split("/")) {
    if (part === "" || part === ".") continue;
    if (part === "..") parts.pop();
    else parts.push(part);
  }
  return parts;
}
