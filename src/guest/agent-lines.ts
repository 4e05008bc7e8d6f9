/** What comes from an agent: a line of JSON, or the mark that stands before the answer to `guest-sync-delimited`. */
export type AgentPiece = { readonly kind: 'mark' } | { readonly kind: 'line'; readonly text: string };

const NEWLINE = 0x0a;
/** No byte of UTF-8: the protocol's mark (qemu-ga-ref, guest-sync-delimited). */
export const MARK = 0xff;
const EMPTY = Buffer.alloc(0);

/**
 * Cuts an agent's bytes into pieces, however they arrive. A mark discards the line it interrupts: what stood before it is
 * the rest of an old answer. Throws RangeError for a line of more than `mostBytes`.
 */
export class AgentLines {
  readonly #mostBytes: number;
  #parts: Buffer[] = [];
  #bytes = 0;

  constructor(mostBytes: number) {
    this.#mostBytes = mostBytes;
  }

  take(chunk: Buffer): readonly AgentPiece[] {
    const pieces: AgentPiece[] = [];
    let rest = chunk;
    while (rest.length > 0) {
      const at = firstOf(rest.indexOf(NEWLINE), rest.indexOf(MARK));
      if (at === -1) {
        this.#keep(rest);
        break;
      }
      if (rest[at] === MARK) {
        this.#parts = [];
        pieces.push({ kind: 'mark' });
      } else {
        this.#keep(rest.subarray(0, at));
        pieces.push({ kind: 'line', text: Buffer.concat(this.#parts).toString('utf8') });
        this.#parts = [];
      }
      this.#bytes = 0;
      rest = at + 1 < rest.length ? rest.subarray(at + 1) : EMPTY;
    }
    return pieces;
  }

  #keep(part: Buffer): void {
    this.#bytes += part.length;
    if (this.#bytes > this.#mostBytes) {
      throw new RangeError(`the agent sent a line of more than ${this.#mostBytes} bytes`);
    }
    this.#parts.push(part);
  }
}

function firstOf(a: number, b: number): number {
  return a === -1 ? b : b === -1 ? a : Math.min(a, b);
}
