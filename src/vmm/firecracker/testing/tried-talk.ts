import { connect, type Socket } from 'node:net';

/** A connection to a unix socket a test talks on, line by line. */
export class Talk implements Disposable {
  readonly socket: Socket;
  #heard = '';
  #closed = false;
  #news = Promise.withResolvers<void>();

  constructor(path: string) {
    this.socket = connect(path);
    this.socket.setEncoding('utf8');
    this.socket.on('data', (text: string) => {
      this.#heard += text;
      this.#news.resolve();
    });
    this.socket.on('error', () => undefined);
    this.socket.on('close', () => {
      this.#closed = true;
      this.#news.resolve();
    });
  }

  /** Resolves when something is heard, or the connection ends. */
  async #change(): Promise<void> {
    this.#news = Promise.withResolvers();
    await this.#news.promise;
  }

  say(text: string): void {
    this.socket.write(text);
  }

  /** The next line; rejects when the connection ends before it. */
  async line(): Promise<string> {
    for (;;) {
      const end = this.#heard.indexOf('\n');
      if (end !== -1) {
        const line = this.#heard.slice(0, end);
        this.#heard = this.#heard.slice(end + 1);
        return line;
      }
      if (this.#closed) throw new Error(`the connection ended after ${JSON.stringify(this.#heard)}`);
      await this.#change();
    }
  }

  /** All that was heard until the connection ended. */
  async rest(): Promise<string> {
    while (!this.#closed) await this.#change();
    return this.#heard;
  }

  /** What was heard by now and was not asked for. */
  get pending(): string {
    return this.#heard;
  }

  /** Asks for a port of the guest; the host's port. */
  async dial(port = 1024): Promise<number> {
    this.say(`CONNECT ${port}\n`);
    const [, number] = /^OK (\d+)$/.exec(await this.line()) ?? [];
    return Number(number);
  }

  /** Asks the agent, and gives what it returns. */
  async ask(execute: string, args: object = {}): Promise<unknown> {
    this.say(`${JSON.stringify({ execute, arguments: args })}\n`);
    return (JSON.parse(await this.line()) as { return?: unknown }).return;
  }

  /** Runs a command of the guest's shell; what it wrote. */
  async shell(command: string): Promise<string> {
    const started = (await this.ask('guest-exec', { path: '/bin/sh', arg: ['-c', command] })) as {
      pid: number;
    };
    for (;;) {
      const status = (await this.ask('guest-exec-status', { pid: started.pid })) as {
        exited: boolean;
        'out-data'?: string;
      };
      if (status.exited)
        return Buffer.from(status['out-data'] ?? '', 'base64')
          .toString('utf8')
          .trim();
    }
  }

  [Symbol.dispose](): void {
    this.socket.destroy();
  }
}
