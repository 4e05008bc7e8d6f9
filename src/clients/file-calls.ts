import { FILE_HEADERS } from '../contract/guest-file.ts';
import type { FileFacts } from '../contract/saved-file.ts';
import { headerOf, seg, type CallOptions, type Transport } from './transport.ts';

/** A file of a guest on its way out. */
export interface GuestFile {
  /** How many bytes come; undefined where that is not known before, as of a file of /proc. */
  readonly size_bytes: number | undefined;
  /** The permission bits, in octal. */
  readonly mode: string;
  readonly uid: number;
  readonly gid: number;
  /** By the guest's clock, to the second. */
  readonly modified_at: Date;
  /** As it comes; to be read to its end, or the call's signal aborted. */
  readonly content: AsyncIterable<Uint8Array>;
}

export interface WriteFileOptions extends CallOptions {
  /** How many bytes come, where that is known. */
  readonly bytes?: number | undefined;
  /** The permission bits, in octal; as the file there had them, or 0644. */
  readonly mode?: string | undefined;
  /** By name or number; as the file there had it, or root. */
  readonly owner?: string | undefined;
  readonly group?: string | undefined;
  /** Makes the folders it lies in. */
  readonly parents?: boolean | undefined;
  readonly wake?: boolean | undefined;
}

/** The calls about files of running VMs; `wake`: a sleeping one is woken for it. */
export function fileCalls(transport: Transport) {
  return {
    /** A file of a guest. One that breaks off on its way throws Unreachable. */
    readFile: async (
      vm: string,
      path: string,
      { wake, signal }: CallOptions & { readonly wake?: boolean | undefined } = {},
    ): Promise<GuestFile> => {
      const { headers, content } = await transport.open({
        method: 'GET',
        path: `/vms/${seg(vm)}/files`,
        query: { path, wake },
        signal,
      });
      const header = (name: string): string => headerOf(headers[name]) ?? '';
      const length = header('content-length');
      return {
        size_bytes: length === '' ? undefined : Number(length),
        mode: header(FILE_HEADERS.mode),
        uid: Number(header(FILE_HEADERS.uid)),
        gid: Number(header(FILE_HEADERS.gid)),
        modified_at: new Date(header('last-modified')),
        content,
      };
    },
    /** Writes a file in a guest, all of it or nothing, and gives what it is now. */
    writeFile: (
      vm: string,
      path: string,
      content: Uint8Array | string | AsyncIterable<Uint8Array>,
      { bytes, signal, ...how }: WriteFileOptions = {},
    ): Promise<FileFacts> => {
      const whole = typeof content === 'string' ? new TextEncoder().encode(content) : content;
      const upload =
        whole instanceof Uint8Array
          ? { content: oneOf(whole), bytes: whole.length }
          : { content: whole, bytes };
      return transport.json({
        method: 'PUT',
        path: `/vms/${seg(vm)}/files`,
        query: { path, ...how },
        upload,
        signal,
      });
    },
  };
}

async function* oneOf(bytes: Uint8Array): AsyncGenerator<Uint8Array> {
  if (bytes.length > 0) yield bytes;
}
