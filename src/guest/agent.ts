/**
 * What Hatch asks of a guest from inside, over the qemu-guest-agent protocol
 * (https://qemu-project.gitlab.io/qemu/interop/qemu-ga-ref.html). One owner per guest: the agent serves one connection.
 */
export interface GuestAgent {
  /** Resolves when the agent answers; rejects with the signal's reason, or AgentGone when the channel ended. */
  ping(signal: AbortSignal): Promise<void>;
  /** Runs a command in the guest and waits for its end. */
  exec(command: ExecCommand, signal: AbortSignal): Promise<ExecResult>;
  /**
   * Starts a program of our own, with as few processes as can be: none of what `exec` puts around a command is there. Resolves when
   * it was started; rejects as `exec` does.
   */
  start(program: GuestProgram, signal: AbortSignal): Promise<StartedProgram>;
  /** The text of a small file, without starting a process; undefined when it cannot be opened. Rejects as `exec` does. */
  read(path: string, signal: AbortSignal): Promise<string | undefined>;
  /**
   * Writes into a file or pipe that is there, in one piece and without starting a process; a pipe must have room for it. Gives whether
   * that could be done. Rejects with the signal's reason or AgentGone.
   */
  write(path: string, text: string, signal: AbortSignal): Promise<boolean>;
  /**
   * Opens a regular file: to be read, or (`r+`) one that is there to be written over. Rejects with AgentRefused in the guest's words when
   * that cannot be done, else as `exec` does. A pipe without anyone at its other end would keep the agent waiting, so it is looked before.
   */
  open(path: string, mode: 'r' | 'r+', signal: AbortSignal): Promise<AgentFile>;
  /** What the guest's clock says, in milliseconds since 1970. Rejects as `exec` does. */
  time(signal: AbortSignal): Promise<number>;
  /** Sets the guest's clock to the host's. */
  setTime(signal: AbortSignal): Promise<void>;
  /** Asks the guest to power off, halt or reboot; resolves when it has been asked. */
  shutdown(mode: 'powerdown' | 'reboot', signal: AbortSignal): Promise<void>;
  /** What the guest says of itself: OS name and agent version. */
  info(signal: AbortSignal): Promise<{ readonly version: string; readonly supports: readonly string[] }>;
  /** Ends the connection; the agent in the guest goes on and can be connected to anew. */
  close(): void;
}

/**
 * An open file of a guest. A channel that breaks costs it nothing: the next question is asked over the next one, and says from where on.
 * Whatever is asked of it rejects with AgentRefused in the guest's words, AgentGone or the signal's reason. One question at a time.
 */
export interface AgentFile {
  /** Up to `count` bytes from `at` on, and whether the file ended there. */
  read(
    at: number,
    count: number,
    signal: AbortSignal,
  ): Promise<{ readonly bytes: Buffer; readonly ended: boolean }>;
  /** Writes all of them, from `at` on; they may lie in the agent until `flush`. */
  write(at: number, bytes: Buffer, signal: AbortSignal): Promise<void>;
  /** Gives the guest's kernel what was written. */
  flush(signal: AbortSignal): Promise<void>;
  /** Closes it. Nobody waits for that, and doing it twice is fine. */
  close(): void;
}

export interface ExecCommand {
  /** A program and its arguments, or one line for /bin/sh. */
  readonly command: string | readonly string[];
  readonly cwd: string | null;
  /** Added to the guest's own environment. */
  readonly env: Readonly<Record<string, string>>;
  readonly stdin: string | null;
  /** The command and all it started are killed after this. */
  readonly timeoutMs: number;
}

export interface ExecResult {
  /** null when it was killed at the timeout. */
  readonly exitCode: number | null;
  /** The first 1 MiB of each. */
  readonly stdout: string;
  readonly stderr: string;
  readonly truncated: boolean;
  readonly timedOut: boolean;
}

export interface GuestProgram {
  /**
   * The program, found along the agent's PATH, and its arguments. What it leaves running must not hold its outputs, or it has not ended
   * for the agent.
   */
  readonly argv: readonly [string, ...string[]];
  readonly stdin: string | null;
  /** It is waited for so long; in the guest it goes on. */
  readonly timeoutMs: number;
}

export interface StartedProgram {
  /** Resolves when it has ended, or was waited for long enough (`timedOut`). Rejects as `exec` does. */
  readonly ended: Promise<ExecResult>;
}

/** Nobody answers, or the channel ended. */
export class AgentGone extends Error {
  override readonly name = 'AgentGone';
}

/** The agent answered with an error of its own. */
export class AgentRefused extends Error {
  override readonly name = 'AgentRefused';
  /** The agent's class of error (`GenericError`, `CommandNotFound`). */
  readonly agentClass: string;
  constructor(message: string, agentClass: string) {
    super(message);
    this.agentClass = agentClass;
  }
}
