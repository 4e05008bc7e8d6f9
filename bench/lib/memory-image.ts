import { open, readFile } from 'node:fs/promises';

const PAGE = 4096;
const MIB = 2 ** 20;

/**
 * Writes a file that is like the memory of a Linux guest, the same for the same seed and Node: runs of pages of programs (Node's own
 * binary is at hand everywhere), tables of pointers, log lines, bytes that cannot be compressed, pages seen before, zeros that
 * were written, and holes. `holes` is the share of it (0 to 1) that was never touched.
 */
export async function makeMemoryImage(
  path: string,
  bytes: number,
  { seed = 1, holes = 0.2 }: { readonly seed?: number; readonly holes?: number } = {},
): Promise<void> {
  const random = randomOf(seed);
  const program = await readFile(process.execPath);
  const piece = Buffer.alloc(MIB);
  const file = await open(path, 'wx', 0o600);
  try {
    await file.truncate(bytes);
    for (let at = 0; at < bytes; at += MIB) {
      if (random() < holes) continue;
      for (let page = 0; page < MIB;) {
        const end = Math.min(MIB, page + PAGE * (1 + Math.floor(random() * 48)));
        fill(piece.subarray(page, end), kindOf(random()), random, program);
        page = end;
      }
      await file.write(piece, 0, Math.min(MIB, bytes - at), at);
    }
  } finally {
    await file.close();
  }
}

type Kind = 'program' | 'pointers' | 'lines' | 'noise' | 'again' | 'zeros';

function kindOf(chance: number): Kind {
  if (chance < 0.45) return 'program';
  if (chance < 0.65) return 'pointers';
  if (chance < 0.77) return 'lines';
  if (chance < 0.87) return 'noise';
  return chance < 0.92 ? 'again' : 'zeros';
}

function fill(pages: Buffer, kind: Kind, random: () => number, program: Buffer): void {
  switch (kind) {
    case 'program': {
      const from = Math.floor((random() * (program.length - pages.length)) / PAGE) * PAGE;
      program.copy(pages, 0, from, from + pages.length);
      return;
    }
    case 'again':
      // The same few pages wherever they are: what many processes map.
      for (let at = 0; at < pages.length; at += PAGE) program.copy(pages, at, PAGE * 64, PAGE * 65);
      return;
    case 'pointers':
      for (let at = 0, to = random() * 2 ** 30; at < pages.length; at += 8) {
        to = random() < 0.8 ? to + 192 : random() * 2 ** 30;
        pages.writeUInt32LE(to & ~7 & 0x7fffffff, at);
        pages.writeUInt32LE(0xffff8880, at + 4);
      }
      return;
    case 'lines': {
      let at = 0;
      while (at < pages.length) {
        const number = Math.floor(random() * 2 ** 32);
        const line = `Nov 25 06:${number % 60}:12 guest kernel: [${number / 1000}] eth0: ${number.toString(16)} packets, state ${number % 7}\n`;
        at += pages.write(line, at, 'latin1');
      }
      return;
    }
    case 'noise':
      for (let at = 0; at < pages.length; at += 4) pages.writeUInt32LE(Math.floor(random() * 2 ** 32), at);
      return;
    case 'zeros':
      pages.fill(0);
  }
}

/** Numbers from 0 to below 1, the same for the same seed (mulberry32). */
function randomOf(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}
