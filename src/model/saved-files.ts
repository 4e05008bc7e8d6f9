import { invalid } from './failure.ts';

/**
 * What lies on a saved disk. Names on Linux are bytes: `text` is the name as UTF-8 (what is none is shown as U+FFFD), and
 * `bytes` the name itself where the text is not all of it.
 */
export interface FileName {
  readonly text: string;
  readonly bytes: Uint8Array | null;
}

export type FileKind = 'file' | 'folder' | 'link' | 'other';

export interface FileFacts {
  /** `other`: a device, pipe or socket. */
  readonly kind: FileKind;
  readonly sizeBytes: number;
  /** The permission bits, 0 to 0o7777. */
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  /** Milliseconds since 1970, of the content's last change. */
  readonly modifiedAt: number;
  /** Where a link points; null for everything else. */
  readonly target: FileName | null;
}

export interface FileEntry extends FileFacts {
  /** Its name in its folder. */
  readonly name: FileName;
}

export interface FileListing {
  /** In the order they lie on the disk. */
  readonly entries: readonly FileEntry[];
  /** Given as `after` it gives what comes next; null: this was all. It stays good: a saved disk does not change. */
  readonly next: string | null;
}

/**
 * What of a file is another: its kind, its content (of a link: where it points), its size, the permission bits, the owner, or
 * only its times (they change with its extended attributes and further names too). `unread`: the sizes are the same and the times are not, and comparing the contents would have taken too long.
 */
export type FileDifference = 'kind' | 'content' | 'unread' | 'size' | 'mode' | 'owner' | 'times';

export interface FileChange {
  /** Absolute. */
  readonly path: FileName;
  readonly change: 'added' | 'removed' | 'changed';
  /** In what; empty for what was added or removed. */
  readonly differences: readonly FileDifference[];
  /** null where it was added. */
  readonly before: FileFacts | null;
  /** null where it was removed. */
  readonly after: FileFacts | null;
}

/**
 * The path that a query asks for: as text, or as base64 of its bytes. Throws Failure `invalid_request` when there are both, or
 * none and nothing to take instead.
 */
export function askedPath(
  { path, path_base64 }: { readonly path?: string | undefined; readonly path_base64?: string | undefined },
  otherwise?: string,
): string | Uint8Array {
  if (path !== undefined && path_base64 !== undefined)
    throw invalid('path', 'Give "path" or "path_base64", not both.');
  const asked = path ?? (path_base64 === undefined ? otherwise : Buffer.from(path_base64, 'base64'));
  if (asked === undefined) throw invalid('path', '"path" is missing: the absolute path of a file.');
  return asked;
}

/** The first `limit` of what comes, and whether there was more; what is not taken is not waited for. */
export async function firstOf<T>(
  all: AsyncIterable<T>,
  limit: number,
): Promise<{ readonly first: readonly T[]; readonly more: boolean }> {
  const first: T[] = [];
  for await (const one of all) {
    if (first.length === limit) return { first, more: true };
    first.push(one);
  }
  return { first, more: false };
}

/** A path or name of bytes as one that has a text. */
export function fileName(bytes: Uint8Array): FileName {
  const text = new TextDecoder('utf-8', { ignoreBOM: true }).decode(bytes);
  return { text, bytes: Buffer.from(text, 'utf8').equals(bytes) ? null : bytes };
}
