import { closeSync, constants, openSync, writeSync } from 'node:fs';

/**
 * A file Firecracker writes the log, the metrics or the console to: made where there is none, and neither emptied nor
 * appended to (src/vmm/src/utils/mod.rs). So a second run writes over the beginning of what the first left, and a file that is cut
 * while the guest runs begins with zeros after that. Only the standard output is as its opener wants it.
 */
export class OutputFile {
  readonly #fd: number;
  readonly #own: boolean;

  /** Throws the system's error. `made`: whether it is made, as since 1.14. */
  static open(path: string, { made = true }: { readonly made?: boolean } = {}): OutputFile {
    const flags = constants.O_RDWR | constants.O_NONBLOCK | (made ? constants.O_CREAT : 0);
    return new OutputFile(openSync(path, flags, 0o666), true);
  }

  static readonly standardOutput = new OutputFile(1, false);

  private constructor(fd: number, own: boolean) {
    this.#fd = fd;
    this.#own = own;
  }

  /** Writes at the file's own offset; what cannot be written is lost, as a full pipe's reader loses it. */
  write(text: string): void {
    try {
      writeSync(this.#fd, text);
    } catch {
      // Firecracker counts it and goes on.
    }
  }

  close(): void {
    if (this.#own) closeSync(this.#fd);
  }
}
