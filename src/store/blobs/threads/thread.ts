import type { KeyObject } from 'node:crypto';
import { readSync, readvSync, writeSync } from 'node:fs';
import { parentPort, type Transferable } from 'node:worker_threads';
import { BlobError, damaged, fromErrno } from '../blob-error.ts';
import { CHUNK, CHUNK_ID, FRAME, FRAME_CHUNKS, type PackId } from '../format.ts';
import { decodeFrame } from '../frame.ts';
import { ChunkNamer } from '../chunk-namer.ts';
import { PackWriter } from '../pack-writer.ts';
import { release } from '../release.ts';
import type { Answer, Ask, JobName, Reply, Request } from './jobs.ts';

/** A worker thread of the chunk store: it does the jobs of jobs.ts one after another, synchronously. */
const packs = new Map<PackId, PackWriter>();
const ZEROS = Buffer.alloc(CHUNK);
const namer = new ChunkNamer(FRAME_CHUNKS);
const buffer = Buffer.allocUnsafeSlow(FRAME);

parentPort?.on('message', (request: Request) => {
  let reply: Reply;
  try {
    reply = { ok: true, answer: perform(request) };
  } catch (error) {
    const known = error instanceof BlobError ? error : fromErrno(error, 'a job of the chunk store failed');
    const stack = error instanceof Error ? error.stack : undefined;
    reply = { ok: false, kind: known.kind, message: known.message, ...(stack !== undefined && { stack }) };
  }
  parentPort?.postMessage(reply, transfers(reply));
});

function perform(request: Request): Answer<JobName> {
  switch (request.job) {
    case 'hash':
      return hash(request.ask);
    case 'pack':
      return pack(request.ask);
    case 'finish':
      return finish(request.ask);
    case 'drop':
      packs.delete(request.ask.pack);
      return {};
    case 'unpack':
      return unpack(request.ask);
  }
}

/** Large arrays are handed over, not copied. */
function transfers(reply: Reply): Transferable[] {
  if (!reply.ok || !('ids' in reply.answer)) return [];
  return [reply.answer.ids.buffer, reply.answer.zero.buffer].filter((b) => b instanceof ArrayBuffer);
}

function hash({ fd, dedup, ranges }: Ask<'hash'>): Answer<'hash'> {
  let count = 0;
  for (let i = 1; i < ranges.length; i += 2) count += ranges[i] ?? 0;
  const ids = new Uint8Array(count * CHUNK_ID);
  const zero = new Uint8Array(count);
  namer.use(dedup);
  let index = 0;
  for (let i = 0; i < ranges.length; i += 2) {
    const first = ranges[i] ?? 0;
    const end = first + (ranges[i + 1] ?? 0);
    for (let from = first; from < end; from += FRAME_CHUNKS) {
      const cells = namer.cells.slice(0, end - from);
      readCells(fd, from, cells);
      for (const [cell, chunk] of cells.entries()) {
        if (chunk.equals(ZEROS)) zero[index] = 1;
        else ids.set(namer.name(cell), index * CHUNK_ID);
        index += 1;
      }
    }
  }
  return { ids, zero };
}

/** Reads chunks that follow each other, each into its cell; what is beyond the end of the file is zero. */
function readCells(fd: number, first: number, cells: readonly Buffer[]): void {
  const at = first * CHUNK;
  const read = readvSync(fd, cells, at);
  if (read === cells.length * CHUNK) return;
  for (const [i, cell] of cells.entries()) {
    let done = Math.max(0, Math.min(CHUNK, read - i * CHUNK));
    while (done < CHUNK) {
      const more = readSync(fd, cell, done, CHUNK - done, at + i * CHUNK + done);
      if (more === 0) break;
      done += more;
    }
    cell.fill(0, done);
  }
}

/** Reads chunks that follow each other into `buffer`; what is beyond the end of the file is zero. */
function readChunks(fd: number, first: number, count: number, at: number): void {
  const length = count * CHUNK;
  let done = 0;
  while (done < length) {
    const read = readSync(fd, buffer, at + done, length - done, first * CHUNK + done);
    if (read === 0) break;
    done += read;
  }
  buffer.fill(0, at + done, at + length);
}

function pack({ pack: id, packFd, seal, frames }: Ask<'pack'>): Answer<'pack'> {
  let writer = packs.get(id);
  if (!writer) packs.set(id, (writer = new PackWriter(id, packFd, seal)));
  const written = frames.map(({ fd, chunks, ids }) => {
    for (let slot = 0; slot < chunks.length;) {
      const first = chunks[slot] ?? 0;
      let count = 1;
      while (chunks[slot + count] === first + count) count += 1;
      readChunks(fd, first, count, slot * CHUNK);
      slot += count;
    }
    return writer.add(buffer.subarray(0, chunks.length * CHUNK), ids);
  });
  return { frames: written, bytes: writer.bytes };
}

function finish({ pack: id }: Ask<'finish'>): Answer<'finish'> {
  const writer = packs.get(id);
  if (!writer) throw new Error(`there is no pack ${id} in this thread`);
  packs.delete(id);
  return writer.finish();
}

function unpack({ fd, fileBytes, pack: id, key, bytes, frames }: Ask<'unpack'>): Answer<'unpack'> {
  let written = 0;
  for (const frame of frames) {
    const plain = open(bytes, frame, id, key);
    for (let i = 0; i < frame.writes.length; i += 3) {
      const [slot = 0, count = 0, chunk = 0] = frame.writes.subarray(i, i + 3);
      const length = Math.min(count * CHUNK, fileBytes - chunk * CHUNK);
      writeAll(fd, plain.subarray(slot * CHUNK, slot * CHUNK + length), chunk * CHUNK);
      written += count;
    }
    // What was stored as it is lies in `bytes` itself.
    if (plain.buffer !== bytes.buffer) release(plain);
  }
  release(bytes);
  return { written };
}

function open(
  bytes: Uint8Array,
  frame: Ask<'unpack'>['frames'][number],
  pack: PackId,
  key: KeyObject | undefined,
): Buffer {
  if (frame.at + frame.stored > bytes.length) throw damaged(`pack ${pack} ends too early`);
  return decodeFrame(bytes.subarray(frame.at, frame.at + frame.stored), frame, pack, key);
}

function writeAll(fd: number, bytes: Uint8Array, at: number): void {
  try {
    for (let done = 0; done < bytes.length;)
      done += writeSync(fd, bytes, done, bytes.length - done, at + done);
  } catch (error) {
    throw fromErrno(error, 'the image could not be written');
  }
}
