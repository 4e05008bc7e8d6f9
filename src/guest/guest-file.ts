import { randomBytes } from 'node:crypto';
import type { Readable } from 'node:stream';
import { errorFields, type Logger } from '../base/logger.ts';
import { raceAbort } from '../base/deadline.ts';
import { Failure, invalid } from '../model/failure.ts';
import type { FileFacts } from '../model/saved-files.ts';
import { AgentGone, AgentRefused, type AgentFile, type GuestAgent, type GuestProgram } from './agent.ts';
import { fileScript } from './file-scripts.ts';
import { inPieces } from './in-pieces.ts';
import { contentStream } from './saved-disk/content-stream.ts';

/**
 * How much of a file the agent is asked to move at a time, in bytes. Whoever else asks the agent something waits for one piece of each
 * file on its way. A QEMU guest, emulated as here, gains little from larger ones.
 */
export const PIECE_BYTES = 512 * 1024;
/** A question the channel broke under is asked again, so often in a row. */
const MOST_GONE = 3;
const NEW_MODE = 0o644;

/** A guest that runs; its agent is another one after some operations. */
export interface AgentDoor {
  readonly agent: GuestAgent;
}

export interface FileDeps {
  readonly guest: AgentDoor;
  readonly log: Logger;
}

export interface GuestFileContent {
  /** As it was when it was opened. */
  readonly facts: FileFacts;
  /** How many bytes come, or an error; null: as many as there are. */
  readonly sizeBytes: number | null;
  /** To be read to its end or destroyed, or the signal aborted. */
  readonly content: Readable;
}

export interface GuestFileToWrite {
  /** Absolute. */
  readonly path: string;
  /** 0 to 0o7777; null: that of the file that is there, else 0644. */
  readonly mode: number | null;
  /** A name or a number; null: that of the file that is there, else root. */
  readonly owner: string | null;
  readonly group: string | null;
  /** Make the folders it is to lie in, where they are missing. */
  readonly parents: boolean;
}

/**
 * Opens a file of a running guest. As many bytes come as it has at this moment: what is added meanwhile does not, and one that has become
 * shorter breaks off. Of one that says less than there is, as those of /proc do, all comes that there is; holes are zeros. Throws Failure
 * `not_found`, `invalid_request` for what is no file or cannot be read, and AgentRefused, AgentGone or the signal's reason.
 */
export async function readGuestFile(
  { guest: door }: Pick<FileDeps, 'guest'>,
  path: string,
  signal: AbortSignal,
): Promise<GuestFileContent> {
  const said = await runScript(door, fileScript.look(path), signal);
  const facts = factsOf(said) ?? refuse(said, path, 'read');
  let file: AgentFile | undefined;
  try {
    const opened = await door.agent.open(path, 'r', signal);
    file = opened;
    const read = (at: number, count: number): ReturnType<AgentFile['read']> =>
      again(() => opened.read(at, count, signal), signal);
    const first = await read(0, PIECE_BYTES);
    const begun = first.bytes.length;
    // A file of /sys says 4096 and has a word.
    const sizeBytes = first.ended ? begun : facts.sizeBytes >= begun ? facts.sizeBytes : null;
    const pieces = async function* (): AsyncGenerator<Buffer> {
      yield first.bytes;
      for (let [at, over] = [begun, first.ended]; !over && at !== sizeBytes;) {
        const left = sizeBytes === null ? PIECE_BYTES : Math.min(PIECE_BYTES, sizeBytes - at);
        const { bytes, ended } = await read(at, left);
        at += bytes.length;
        over = ended;
        if (bytes.length > 0) yield bytes;
        if (over && sizeBytes !== null && at < sizeBytes)
          throw new Failure('in_use', `"${path}" has become shorter while it was read.`);
      }
    };
    const source = { close: async (): Promise<void> => opened.close() };
    const content = contentStream(pieces(), source, signal, (error) => explained(error, path, 'read'));
    return { facts, sizeBytes, content };
  } catch (error) {
    file?.close();
    throw explained(error, path, 'read');
  }
}

/**
 * Writes a file of a running guest: into one beside it, which takes its place when it is whole and on the disk, so that whoever reads it sees
 * the old one or the new one; a link is followed. Where that fails nothing is left but, where the guest ended in the middle or its agent
 * answers no more, that file (`.hatch-file.*`), which the next upload to the folder removes a day later. Throws as `readGuestFile` does, and `no_space`.
 */
export async function writeGuestFile(
  { guest: door, log }: FileDeps,
  wanted: GuestFileToWrite,
  source: AsyncIterable<Uint8Array>,
  signal: AbortSignal,
): Promise<FileFacts> {
  const { path, parents } = wanted;
  const nonce = randomBytes(8).toString('hex');
  const { owner, group } = { owner: wanted.owner ?? '', group: wanted.group ?? '' };
  // Whoever gives up on it must know what it has made.
  const making = runScript(door, fileScript.make(path, nonce, { owner, group, parents }), NEVER);
  let file: AgentFile | undefined;
  try {
    const said = await raceAbort(making, signal);
    const [, hasMode, beside] = /^made ([0-7]*)\n([^]+)\n$/.exec(said) ?? [];
    if (beside === undefined || hasMode === undefined) return refuse(said, path, 'written', wanted);
    const opened = await door.agent.open(beside, 'r+', signal);
    file = opened;
    let at = 0;
    for await (const piece of inPieces(source, PIECE_BYTES, signal)) {
      await again(() => opened.write(at, piece, signal), signal);
      at += piece.length;
    }
    await opened.flush(signal);
    opened.close();
    const mode = wanted.mode?.toString(8) ?? (hasMode === '' ? NEW_MODE.toString(8) : hasMode);
    const placed = await runScript(door, fileScript.place(path, nonce, mode), signal);
    return factsOf(placed) ?? refuse(placed, path, 'written', wanted);
  } catch (error) {
    file?.close();
    try {
      const made = await making;
      if (made.startsWith('made ')) await runScript(door, fileScript.drop(path, nonce), NEVER);
    } catch (failed) {
      log.warn(errorFields(failed), 'part of a file may be left in a guest');
    }
    throw explained(error, path, 'written');
  }
}

const NEVER = new AbortController().signal;

/** What a script of ours said. */
async function runScript({ agent }: AgentDoor, program: GuestProgram, signal: AbortSignal): Promise<string> {
  const { ended } = await agent.start(program, signal);
  const { stdout, stderr, timedOut } = await raceAbort(ended, signal);
  if (timedOut)
    throw new Failure(
      'timeout',
      `The guest took longer than ${program.timeoutMs / 1000} s for what is done to a file.`,
    );
  if (stdout === '' && stderr !== '') return `refused\n${stderr}`;
  return stdout;
}

/** Asks again what the channel broke under. */
async function again<T>(ask: () => Promise<T>, signal: AbortSignal): Promise<T> {
  for (let left = MOST_GONE; ; left--) {
    try {
      return await ask();
    } catch (error) {
      if (!(error instanceof AgentGone) || left === 0 || signal.aborted) throw error;
    }
  }
}

/** What a script found; undefined when it is no file. */
function factsOf(said: string): FileFacts | undefined {
  const [, mode, sizeBytes, uid, gid, seconds] =
    /^file ([0-7]+) (\d+) (\d+) (\d+) (-?\d+)\n/.exec(said) ?? [];
  if (mode === undefined) return undefined;
  return {
    kind: 'file',
    sizeBytes: Number(sizeBytes),
    mode: Number.parseInt(mode, 8),
    uid: Number(uid),
    gid: Number(gid),
    modifiedAt: Number(seconds) * 1000,
    target: null,
  };
}

/** Throws what a script found that is in the way. */
function refuse(said: string, path: string, how: 'read' | 'written', wanted?: GuestFileToWrite): never {
  const [word = ''] = said.split('\n', 1);
  const rest = said.slice(word.length).trim();
  switch (word) {
    case 'missing':
      throw new Failure('not_found', `There is no file "${path}" in the guest.`, { details: { path } });
    case 'no-folder':
      throw new Failure(
        'not_found',
        `There is no folder for "${path}" in the guest; "parents=true" makes what is missing.`,
        { details: { path } },
      );
    case 'folder':
      throw invalid('path', `"path" is a folder in the guest, not a file; name the file in it.`, {
        kind: 'folder',
      });
    case 'other':
      throw invalid('path', '"path" is a device, pipe or socket in the guest, not a file.', {
        kind: 'other',
      });
    case 'nobody': {
      const field = /group/.test(rest) && wanted !== undefined && wanted.group !== null ? 'group' : 'owner';
      throw invalid(field, `The guest knows no ${field} "${wanted?.[field] ?? ''}".`);
    }
    case 'refused':
      throw inWordsOf(rest, path, how);
    default:
      throw new AgentRefused(
        `it could not look at the file: ${said.slice(0, 200).trim() || 'it said nothing'}`,
        'GenericError',
      );
  }
}

/** What went wrong as one who asked can use it. */
function explained(error: unknown, path: string, how: 'read' | 'written'): unknown {
  // The agent's own errors about a file; a command it does not have has another class.
  if (error instanceof AgentRefused && error.agentClass === 'GenericError')
    return inWordsOf(error.message, path, how);
  return error;
}

/** The guest's last words say why; those before them name what only we know. */
function inWordsOf(said: string, path: string, how: 'read' | 'written'): Failure {
  const why = said.trim().split('\n')[0]?.split(': ').at(-1) ?? '';
  if (/No space left on device|[Qq]uota exceeded/.test(said))
    return new Failure('no_space', `The guest's disk is full: "${path}" could not be written.`, {
      details: { path },
    });
  return invalid('path', `"${path}" cannot be ${how} in the guest: ${why || 'it does not say why'}.`);
}
