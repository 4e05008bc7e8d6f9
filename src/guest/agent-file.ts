import { AgentGone, type AgentFile } from './agent.ts';
import { fieldOf } from './fields.ts';

/** The agent's questions, as its client asks them. */
export interface AgentQuestions {
  /** Asks and waits for the answer. */
  readonly ask: (command: string, argumentsJson: string, signal: AbortSignal) => Promise<unknown>;
  /** Asks, and lets fall whatever comes of it. */
  readonly tell: (command: string, argumentsJson: string) => void;
}

/**
 * Opens a file of the guest by guest-file-open (https://qemu-project.gitlab.io/qemu/interop/qemu-ga-ref.html). Its handle is the agent's,
 * not the channel's, and outlives it; an agent that was never told to close it keeps it for good. Rejects as `GuestAgent.open`.
 */
export async function openAgentFile(
  questions: AgentQuestions,
  { path, mode }: { readonly path: string; readonly mode: 'r' | 'r+' },
  signal: AbortSignal,
): Promise<AgentFile> {
  const handle = await questions.ask('guest-file-open', JSON.stringify({ path, mode }), signal);
  if (typeof handle !== 'number') throw new AgentGone('The guest agent did not say what it opened.');
  return new OpenFile(questions, handle);
}

class OpenFile implements AgentFile {
  readonly #questions: AgentQuestions;
  readonly #handle: number;
  /** Where the agent goes on in it; undefined: it has not said. */
  #at: number | undefined = 0;
  #closed = false;

  constructor(questions: AgentQuestions, handle: number) {
    this.#questions = questions;
    this.#handle = handle;
  }

  async read(
    at: number,
    count: number,
    signal: AbortSignal,
  ): Promise<{ readonly bytes: Buffer; readonly ended: boolean }> {
    await this.#goTo(at, signal);
    const piece = await this.#ask('guest-file-read', { count }, signal);
    const data = fieldOf(piece, 'buf-b64');
    const bytes = Buffer.from(typeof data === 'string' ? data : '', 'base64');
    this.#at = at + bytes.length;
    return { bytes, ended: fieldOf(piece, 'eof') !== false };
  }

  async write(at: number, bytes: Buffer, signal: AbortSignal): Promise<void> {
    await this.#goTo(at, signal);
    // It writes all of them or refuses.
    await this.#ask('guest-file-write', { 'buf-b64': bytes.toString('base64') }, signal);
    this.#at = at + bytes.length;
  }

  async flush(signal: AbortSignal): Promise<void> {
    const at = this.#at;
    await this.#ask('guest-file-flush', {}, signal);
    this.#at = at;
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#questions.tell('guest-file-close', `{"handle":${this.#handle}}`);
  }

  async #goTo(at: number, signal: AbortSignal): Promise<void> {
    if (this.#at !== at) await this.#ask('guest-file-seek', { offset: at, whence: 'set' }, signal);
    this.#at = at;
  }

  /** Until it is answered nobody knows how far the agent came. */
  #ask(
    command: string,
    more: Readonly<Record<string, string | number>>,
    signal: AbortSignal,
  ): Promise<unknown> {
    this.#at = undefined;
    return this.#questions.ask(command, JSON.stringify({ handle: this.#handle, ...more }), signal);
  }
}
