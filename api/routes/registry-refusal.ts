/** How a registry's refusal is told to a client of ours. */
import { ClusterError, hasCode } from "../../common/errors.ts";

/**
 * A registry that wants a password is told as Docker tells it, with 500: at a 401 the CLI asks for one on the terminal, and a
 * script waits for ever.
 */
export async function fromRegistry<T>(answer: Promise<T>): Promise<T> {
  try {
    return await answer;
  } catch (caught) {
    if (!hasCode(caught, "unauthenticated")) throw caught;
    throw new ClusterError("internal", caught.message, { cause: caught, details: caught.details });
  }
}
