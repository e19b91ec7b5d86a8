/** The first `maxBytes` bytes of a body, or some more. Cancels the rest, because a body may be endless. */
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
