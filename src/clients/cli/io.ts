/** The world as the CLI sees it: handed in, so that tests can be one. */
export interface Io {
  readonly out: (text: string) => void;
  /** Bytes as they are; resolves when more can be taken. */
  readonly outBytes: (bytes: Uint8Array) => Promise<void>;
  readonly err: (text: string) => void;
  /** Which of the three a person sits at. */
  readonly terminal: { readonly stdin: boolean; readonly stdout: boolean; readonly stderr: boolean };
  readonly env: Readonly<Record<string, string | undefined>>;
  readonly cwd: string;
  readonly home: string;
  /** The folder of this installation, which holds bin/hatchd. */
  readonly root: string;
  /** Milliseconds since 1970. */
  readonly now: () => number;
  /** All of standard input. */
  readonly readStdin: () => Promise<string>;
  /** Standard input as it comes. */
  readonly inBytes: () => AsyncIterable<Uint8Array>;
  /** Asks on the terminal; the answer without its line break. */
  readonly ask: (question: string) => Promise<string>;
  /** Becomes another program (execve); comes back only in tests. Throws a UsageError when there is no such program. */
  readonly become: (program: string, args: readonly string[]) => void;
}
