/**
 * The beginning of an answer, about so many bytes of it; what follows is cancelled, so that an endless one is not waited for.
 */
export async function readBodyPrefix(response: Response, maxBytes: number): Promise<Uint8Array> {
  const reader = response.body?.getReader();
  if (!reader) return new Uint8Array();
  const chunks: Uint8Array[] = [];
  for (let bytes = 0; bytes < maxBytes; ) {
    const { done, value } = await reader.read();
    if (done) break;
    chunks.push(value);
    bytes += value.length;
  }
  reader.cancel().catch(() => undefined);
  return Buffer.concat(chunks);
}
