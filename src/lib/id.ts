/** A new random id such as `evt_3f9a0c6d2b7e4f1a8c5d9e0b1a2c3d4e`. The prefix includes the separator. */
export function newId(prefix: string): string {
  return prefix + crypto.randomUUID().replaceAll("-", "");
}
