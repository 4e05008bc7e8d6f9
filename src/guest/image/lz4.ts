/** LZ4's legacy frame (lz4_Frame_format.md, "Legacy frame"), which Linux kernels are compressed in: magic, then blocks of 8 MiB. */
export const LZ4_LEGACY_MAGIC = 0x184c2102;

const BLOCK = 8 * 1024 * 1024;

/** Unpacks a legacy frame whose content is `size` bytes long. Throws RangeError when it is damaged. */
export function unpackLz4Legacy(input: Uint8Array, size: number): Buffer {
  const view = new DataView(input.buffer, input.byteOffset, input.byteLength);
  if (input.length < 4 || view.getUint32(0, true) !== LZ4_LEGACY_MAGIC)
    throw new RangeError('no LZ4 legacy frame');
  const output = Buffer.alloc(size);
  let [at, done] = [4, 0];
  while (done < size) {
    if (at + 4 > input.length) throw new RangeError('the LZ4 data ends too early');
    const length = view.getUint32(at, true);
    at += 4;
    // Frames may follow one another.
    if (length === LZ4_LEGACY_MAGIC) continue;
    if (length === 0 || at + length > input.length)
      throw new RangeError('an LZ4 block has an impossible length');
    done = unpackBlock(input.subarray(at, at + length), output, done, Math.min(done + BLOCK, size));
    at += length;
  }
  return output;
}

/**
 * Unpacks one block (lz4_Block_format.md) to `output` from `start` on, at most up to `end`; gives where it ended. Matches
 * reach back within the block only.
 */
function unpackBlock(input: Uint8Array, output: Buffer, start: number, end: number): number {
  let [from, to] = [0, start];
  const byte = (): number => {
    const value = input[from++];
    if (value === undefined) throw new RangeError('an LZ4 block ends too early');
    return value;
  };
  const longer = (length: number): number => {
    if (length < 15) return length;
    let total = length;
    for (let more = 255; more === 255; total += more) more = byte();
    return total;
  };
  for (;;) {
    const token = byte();
    const literals = longer(token >> 4);
    if (from + literals > input.length || to + literals > end)
      throw new RangeError('LZ4 literals run over the end');
    output.set(input.subarray(from, from + literals), to);
    from += literals;
    to += literals;
    // The last sequence has literals only.
    if (from === input.length) return to;
    const back = byte() | (byte() << 8);
    const match = longer(token & 15) + 4;
    if (back === 0 || to - back < start || to + match > end)
      throw new RangeError('an LZ4 match points outside');
    if (back >= match) output.copyWithin(to, to - back, to - back + match);
    else for (let i = to; i < to + match; i++) output[i] = output[i - back] ?? 0;
    to += match;
  }
}
