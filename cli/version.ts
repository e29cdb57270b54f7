/** The version of this program. Kept equal to package.json by a test, so that no file is read at start. */
export const VERSION = "0.1.0";
