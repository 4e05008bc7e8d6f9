import { Readable } from 'node:stream';
import type { Clock } from '../base/clock.ts';
import { Failure } from '../model/failure.ts';
import type { FileFacts } from '../model/saved-files.ts';
import type { Vm } from '../model/vm.ts';
import type { Caller, Hatch, Visitor } from '../ops/hatch.ts';

type GuestFileToWrite = Parameters<Hatch['vms']['writeFile']>[2];

/** A file of a guest that is only remembered. */
export interface RememberedFile {
  readonly facts: FileFacts;
  readonly bytes: Buffer;
}

export interface FakeGuestFiles {
  /** By the VM's id and the path, with a blank between. */
  readonly files: Map<string, RememberedFile>;
  /** What was asked to be written, and who wakes for it. */
  readonly written: (GuestFileToWrite & { readonly visitor: Visitor | undefined })[];
  /** Why the last uploads that were given up on ended. */
  readonly givenUp: unknown[];
  readonly calls: Pick<Hatch['vms'], 'readFile' | 'writeFile'>;
}

/** Files of VMs that run, in memory; each is sent without its size where that is said to be 0, as one of /proc. */
export function fakeGuestFiles({
  clock,
  own,
}: {
  readonly clock: Clock;
  readonly own: (caller: Caller, idOrName: string) => Vm;
}): FakeGuestFiles {
  const files: FakeGuestFiles['files'] = new Map();
  const written: FakeGuestFiles['written'] = [];
  const givenUp: unknown[] = [];
  const running = (caller: Caller, idOrName: string): Vm => {
    const vm = own(caller, idOrName);
    if (vm.state === 'running') return vm;
    throw new Failure(
      'wrong_state',
      `The VM is ${vm.state}; files are read and written only in a running one.`,
      {
        details: { state: vm.state, allowed: ['running'] },
      },
    );
  };
  return {
    files,
    written,
    givenUp,
    calls: {
      readFile: async (caller, idOrName, path) => {
        const file = files.get(`${running(caller, idOrName).id} ${path}`);
        if (!file) throw new Failure('not_found', `There is no file "${path}" in the guest.`);
        const { facts, bytes } = file;
        const sizeBytes = facts.sizeBytes === 0 && bytes.length > 0 ? null : facts.sizeBytes;
        return { facts, sizeBytes, content: Readable.from([bytes], { objectMode: false }) };
      },
      writeFile: async (caller, idOrName, wanted, source, signal, visitor) => {
        const { id } = running(caller, idOrName);
        written.push({ ...wanted, visitor });
        const pieces: Uint8Array[] = [];
        try {
          for await (const piece of source) pieces.push(piece);
          signal.throwIfAborted();
        } catch (error) {
          givenUp.push(error);
          throw error;
        }
        const bytes = Buffer.concat(pieces);
        const facts: FileFacts = {
          kind: 'file',
          sizeBytes: bytes.length,
          mode: wanted.mode ?? 0o644,
          uid: Number(wanted.owner ?? 0),
          gid: Number(wanted.group ?? 0),
          modifiedAt: clock.now(),
          target: null,
        };
        files.set(`${id} ${wanted.path}`, { facts, bytes });
        return facts;
      },
    },
  };
}
