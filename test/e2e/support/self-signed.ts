/** A server's certificate that nobody vouches for, made by the openssl command. */
import { execFileSync } from "node:child_process";
import path from "node:path";

/** Files in `folder`. `names`: what it is for, as openssl writes them: "DNS:registry.test,IP:127.0.0.1". Good for two days. */
export function selfSigned(
  folder: string,
  names: string,
): { readonly certificate: string; readonly key: string } {
  const [certificate, key] = [path.join(folder, "tls.crt"), path.join(folder, "tls.key")];
  const kind = ["-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"];
  const subject = ["-subj", "/CN=test", "-addext", `subjectAltName=${names}`];
  execFileSync("openssl", ["req", ...kind, ...subject, "-keyout", key, "-out", certificate], {
    stdio: "ignore",
  });
  return { certificate, key };
}
