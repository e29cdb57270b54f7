/** A root filesystem with a static busybox and links for what benches run, as a tar: small, and made without any engine. */
import { readFileSync } from "node:fs";

const BLOCK = 512;

function header(name: string, size: number, mode: number, type: "0" | "2" | "5", link = ""): Buffer {
  const block = Buffer.alloc(BLOCK);
  block.write(name, 0);
  block.write(mode.toString(8).padStart(7, "0"), 100);
  block.write("0000000", 108);
  block.write("0000000", 116);
  block.write(size.toString(8).padStart(11, "0"), 124);
  block.write("00000000000", 136);
  block.write("        ", 148);
  block.write(type, 156);
  block.write(link, 157);
  block.write("ustar\u000000", 257);
  const sum = block.reduce((total, byte) => total + byte, 0);
  block.write(`${sum.toString(8).padStart(6, "0")}\0 `, 148);
  return block;
}

/** `busybox`: path of a static busybox (Debian's busybox-static). */
export function busyboxTar(busybox: string = "/bin/busybox"): Buffer {
  const binary = readFileSync(busybox);
  const padding = Buffer.alloc((BLOCK - (binary.byteLength % BLOCK)) % BLOCK);
  const applets = [
    "sh",
    "sleep",
    "true",
    "cat",
    "echo",
    "ls",
    "wget",
    "nc",
    "httpd",
    "ip",
    "ps",
    "nslookup",
    "sed",
    "tail",
    "timeout",
    "hostname",
    "mkdir",
  ];
  return Buffer.concat([
    header("bin/", 0, 0o755, "5"),
    header("bin/busybox", binary.byteLength, 0o755, "0"),
    binary,
    padding,
    ...applets.map((name) => header(`bin/${name}`, 0, 0o777, "2", "busybox")),
    header("tmp/", 0, 0o1777, "5"),
    Buffer.alloc(2 * BLOCK),
  ]);
}
