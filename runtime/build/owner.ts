/** "user[:group]" of --chown: numbers as they are, names by the image's own /etc/passwd and /etc/group. */
import { ClusterError } from "../../common/errors.ts";
import type { LayeredView } from "../images/layered-view.ts";

export interface Owner {
  readonly uid: number;
  readonly gid: number;
}

const FILE_BYTES_MAX = 4 * 1024 * 1024;
/** The largest id that is not "unset". */
const ID_MAX = 2 ** 32 - 2;

function lookUp(image: LayeredView, file: string, name: string): readonly string[] | undefined {
  const text = image.readFile(file, FILE_BYTES_MAX)?.toString("utf8") ?? "";
  return text
    .split("\n")
    .map((line) => line.split(":"))
    .find(([first]) => first === name);
}

function idOf(text: string): number | undefined {
  if (!/^\d+$/.test(text)) return undefined;
  const id = Number(text);
  if (id > ID_MAX)
    throw new ClusterError("invalid_argument", `uids and gids must be in range 0-${ID_MAX}, got ${text}`);
  return id;
}

function unknown(kind: string, name: string): ClusterError {
  const noun = kind === "uid" ? "user" : "group";
  return new ClusterError(
    "invalid_argument",
    `unable to convert uid/gid chown string to host mapping: can't find ${kind} for ${noun} ${name}: no such ${noun}: ${name}`,
  );
}

export function ownerOf(chown: string, image: LayeredView): Owner {
  if (chown === "") return { uid: 0, gid: 0 };
  const parts = chown.split(":");
  const [user = "", group = user] = parts;
  if (parts.length > 2 || user === "" || group === "") {
    throw new ClusterError("invalid_argument", `invalid chown string passed to --chown: "${chown}"`);
  }
  const entry = idOf(user) === undefined ? lookUp(image, "/etc/passwd", user) : undefined;
  const uid = idOf(user) ?? idOf(entry?.[2] ?? "");
  if (uid === undefined) throw unknown("uid", user);
  const gid = idOf(group) ?? idOf(lookUp(image, "/etc/group", group)?.[2] ?? "");
  if (gid === undefined) throw unknown("gid", group);
  return { uid, gid };
}
