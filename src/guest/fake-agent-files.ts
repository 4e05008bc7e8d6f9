import { fieldOf } from './fields.ts';

/** The files of a guest whose agent is pretended: guest-file-open and what follows it, with the agent's manners. */
export class FakeAgentFiles {
  /** By path; what is written goes over what is there when the file is closed. */
  readonly files = new Map<string, string>();
  readonly #open = new Map<number, { readonly path: string; read: boolean; written: string }>();
  #next = 1000;

  /** How many are open. */
  get openFiles(): number {
    return this.#open.size;
  }

  /** What the agent returns; a string is why it refuses. */
  answer(command: string, given: unknown): { readonly value: unknown } | string {
    if (command === 'guest-file-open') return this.#opened(fieldOf(given, 'path'), fieldOf(given, 'mode'));
    const handle = Number(fieldOf(given, 'handle'));
    const file = this.#open.get(handle);
    if (!file) return `handle '${handle}' has not been found`;
    if (command === 'guest-file-read') {
      // Two pieces, the second of them empty, as the real one gives them for a file that ends where it was asked to end.
      const text = file.read ? '' : (this.files.get(file.path) ?? '');
      const eof = file.read;
      file.read = true;
      return { value: { count: text.length, 'buf-b64': Buffer.from(text).toString('base64'), eof } };
    }
    if (command === 'guest-file-write') {
      const data = String(fieldOf(given, 'buf-b64'));
      file.written += Buffer.from(data, 'base64').toString('utf8');
      return { value: { count: data.length, eof: false } };
    }
    this.#open.delete(handle);
    if (file.written !== '') this.files.set(file.path, file.written);
    return { value: {} };
  }

  #opened(path: unknown, mode: unknown): { readonly value: number } | string {
    if (typeof path !== 'string' || !this.files.has(path))
      return `failed to open file '${String(path)}' (mode: '${String(mode)}'): No such file or directory`;
    const handle = this.#next++;
    this.#open.set(handle, { path, read: false, written: '' });
    return { value: handle };
  }
}
