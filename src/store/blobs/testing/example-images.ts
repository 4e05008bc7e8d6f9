import { createHash } from 'node:crypto';
import { CHUNK } from '../format.ts';

/**
 * The images of the stored example: `memory` has chunks that are all one byte, holes, one that nothing compresses, and one
 * that is there twice; `vmstate` is shorter than a chunk; `disk.0` is nothing but a hole.
 */
export function exampleImages(): Readonly<Record<string, Buffer>> {
  const memory = Buffer.alloc(40 * CHUNK - 100);
  for (let chunk = 0; chunk < 20; chunk++) memory.fill(chunk * 7, chunk * CHUNK, (chunk + 1) * CHUNK);
  memory.fill(0, 4 * CHUNK, 9 * CHUNK);
  for (let i = 0; i < CHUNK / 32; i++)
    createHash('sha256')
      .update(`hatch example ${i}`)
      .digest()
      .copy(memory, 30 * CHUNK + i * 32);
  memory.copy(memory, 39 * CHUNK, 2 * CHUNK, 3 * CHUNK);
  return {
    memory,
    vmstate: Buffer.from('the state of a machine\n'.repeat(9)),
    'disk.0': Buffer.alloc(5 * CHUNK),
  };
}
