/** Whether this process has the rights of the machine's root, or those of a user namespace. */
import { readFileSync } from "node:fs";

/** True where ids are mapped: device nodes and the kernel's own file attributes are out of reach then. */
export function inUserNamespace(): boolean {
  try {
    return !/^\s*0\s+0\s+4294967295\s*$/.test(readFileSync("/proc/self/uid_map", "utf8"));
  } catch {
    return false;
  }
}
