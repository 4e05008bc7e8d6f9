import { Buffer } from 'node:buffer';

/**
 * Gives a buffer's memory back now, not at the next collection, which comes late for memory outside the heap: whoever makes many
 * would hold hundreds of MB of them, or spend its time collecting. Nobody may use it, or any other view of it, afterwards. One that
 * shares Node's pool is left alone.
 */
export function release({ buffer }: Uint8Array): void {
  if (buffer instanceof ArrayBuffer && buffer.byteLength > Buffer.poolSize) buffer.transfer(0);
}
