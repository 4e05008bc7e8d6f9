import type { ExecCommand, ExecResult } from '../guest/agent.ts';
import type { GuestFileContent, GuestFileToWrite } from '../guest/guest-file.ts';
import type { FileFacts } from '../model/saved-files.ts';
import type { Caller, Visitor } from './caller.ts';

/** What is done in running guests by their agents. A sleeping one is woken for a `visitor`, and refused without. */
export interface GuestCalls {
  exec(caller: Caller, idOrName: string, command: ExecCommand, visitor?: Visitor): Promise<ExecResult>;
  /** A file as it comes. The content must be read to its end or destroyed, or the signal aborted. */
  readFile(
    caller: Caller,
    idOrName: string,
    path: string,
    signal: AbortSignal,
    visitor?: Visitor,
  ): Promise<GuestFileContent>;
  /** Writes a file, all of it or nothing, and gives what it is now. */
  writeFile(
    caller: Caller,
    idOrName: string,
    file: GuestFileToWrite,
    source: AsyncIterable<Uint8Array>,
    signal: AbortSignal,
    visitor?: Visitor,
  ): Promise<FileFacts>;
}
