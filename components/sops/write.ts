import { open, rename } from "node:fs/promises";

/**
 * Writes a file at once: whoever reads it, and whoever comes after a kill, finds the old content or the new one. What
 * a kill leaves beside it, `<path>.new`, is of the same mode and is overwritten by the next write.
 *
 * @param mode of the file. @default 0o644
 */
export async function writeWhole(path: string, content: string, mode = 0o644): Promise<void> {
  const beside = `${path}.new`;
  const file = await open(beside, "w", mode);
  try {
    // The mode of what was left there by a kill stays otherwise.
    await file.chmod(mode);
    await file.writeFile(content);
    await file.sync();
  } finally {
    await file.close();
  }
  await rename(beside, path);
}
