/** One entry of an archive: a folder when there is no content. */
export interface CpioEntry {
  /** Relative, without a leading slash. */
  readonly path: string;
  readonly mode: number;
  readonly content?: Uint8Array;
}

const [FOLDER, FILE] = [0o040000, 0o100000];

/**
 * Packs files the way the kernel unpacks an initramfs: cpio's "newc" (Linux,
 * Documentation/driver-api/early-userspace/buffer-format.rst). Owner root, time 0: equal entries give equal bytes.
 */
export function packCpio(entries: readonly CpioEntry[]): Buffer {
  const parts: Buffer[] = [];
  let inode = 0;
  for (const { path, mode, content } of [...entries, { path: 'TRAILER!!!', mode: 0 }]) {
    const name = Buffer.from(`${path}\0`);
    const data = content ?? new Uint8Array();
    const kind = path === 'TRAILER!!!' ? 0 : content ? FILE : FOLDER;
    const fields = [++inode, kind | mode, 0, 0, content ? 1 : 2, 0, data.length, 0, 0, 0, 0, name.length, 0];
    const header = `070701${fields.map((field) => field.toString(16).padStart(8, '0')).join('')}`;
    parts.push(padded(Buffer.concat([Buffer.from(header), name])), padded(data));
  }
  return Buffer.concat(parts);
}

/** Filled up to a multiple of four bytes. */
function padded(data: Uint8Array): Buffer {
  return Buffer.concat([data, Buffer.alloc((4 - (data.length % 4)) % 4)]);
}
