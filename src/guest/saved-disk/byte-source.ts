import { open } from 'node:fs/promises';

/** The bytes of a disk, as the guest saw them. The one place to put a disk that lies elsewhere than in a file. */
export interface ByteSource {
  readonly sizeBytes: number;
  /** Exactly `length` bytes from `offset` on. Rejects when they are not all there. */
  read(offset: number, length: number): Promise<Buffer>;
  /** Lets go of everything that was opened or started. Twice is as good as once. */
  close(): Promise<void>;
}

/** The bytes of a file. Throws the system's errors. */
export async function openFile(path: string): Promise<ByteSource> {
  const file = await open(path, 'r');
  try {
    const { size } = await file.stat();
    return {
      sizeBytes: size,
      read: async (offset, length) => {
        const buffer = Buffer.allocUnsafe(length);
        for (let at = 0; at < length;) {
          const { bytesRead } = await file.read(buffer, at, length - at, offset + at);
          if (bytesRead === 0) throw new Error(`the disk ends before byte ${offset + length}`);
          at += bytesRead;
        }
        return buffer;
      },
      close: () => file.close(),
    };
  } catch (error) {
    await file.close();
    throw error;
  }
}
