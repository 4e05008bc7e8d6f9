import { connect, type Socket } from 'node:net';
import type { Clock } from '../base/clock.ts';
import { until } from '../base/until.ts';
import { AgentGone, type GuestAgent } from './agent.ts';

export interface ReadinessProbes {
  readonly agent?: GuestAgent;
  /** The guest's own address, where its sshd listens. */
  readonly ssh?: { readonly ip: string; readonly port: number };
  readonly clock: Clock;
}

/** Tries follow one another after 250 ms at first, then at most a second apart, one at a time each. */
const PACE = { firstMs: 250, mostMs: 1000 };
/** A guest on the host's own bridge takes a connection at once or not at all. */
const CONNECT_MS = 1000;
/** An sshd that took the connection may need seconds to speak, in a guest that is still booting. */
const BANNER_MS = 10_000;
const MOST_BANNER_BYTES = 8192;

/**
 * Waits until a guest answers: its agent, or its SSH port with a banner (RFC 4253, 4.2), whichever comes first; says
 * which. Rejects with the signal's reason when it aborts first; there is no other end.
 */
export async function waitReady(
  { agent, ssh, clock }: ReadinessProbes,
  signal: AbortSignal,
): Promise<'agent' | 'ssh'> {
  const answered = new AbortController();
  const both = { clock, signal: AbortSignal.any([signal, answered.signal]) };
  const ways = [
    ...(agent ? [until(both, () => agentAnswers(agent, both.signal), PACE)] : []),
    ...(ssh ? [until(both, () => sshAnswers(ssh, both), PACE)] : []),
  ];
  if (ways.length === 0) throw new Error('a guest with neither agent nor SSH cannot be waited for');
  try {
    return await Promise.race(ways);
  } finally {
    answered.abort(new Error('the guest has answered'));
    // The one that came too late, or both: they end with the signal, and no one waits for them.
    await Promise.allSettled(ways);
  }
}

async function agentAnswers(agent: GuestAgent, signal: AbortSignal): Promise<'agent' | undefined> {
  try {
    await agent.ping(signal);
    return 'agent';
  } catch (error) {
    // The channel comes and goes while a guest boots.
    if (error instanceof AgentGone && !signal.aborted) return undefined;
    throw error;
  }
}

async function sshAnswers(
  { ip, port }: { readonly ip: string; readonly port: number },
  { clock, signal }: { readonly clock: Clock; readonly signal: AbortSignal },
): Promise<'ssh' | undefined> {
  const socket = connect({ host: ip, port });
  const ended = new AbortController();
  const over = AbortSignal.any([signal, ended.signal]);
  const endAfter = (ms: number, unless: AbortSignal): void =>
    void clock.sleep(ms, unless).then(
      () => ended.abort(),
      () => undefined,
    );
  const connected = new AbortController();
  endAfter(CONNECT_MS, AbortSignal.any([over, connected.signal]));
  socket.once('connect', () => {
    connected.abort();
    endAfter(BANNER_MS, over);
  });
  try {
    const spoke = await bannerOf(socket, over);
    signal.throwIfAborted();
    return spoke ? 'ssh' : undefined;
  } finally {
    ended.abort();
    socket.destroy();
  }
}

/** Whether a line that begins with `SSH-` comes; a server may say other lines before it. */
function bannerOf(socket: Socket, over: AbortSignal): Promise<boolean> {
  return new Promise((resolve) => {
    let text = '';
    const no = (): void => resolve(false);
    socket.on('data', (chunk: Buffer) => {
      text += chunk.toString('latin1');
      if (/^SSH-/m.test(text)) resolve(true);
      else if (text.length > MOST_BANNER_BYTES) no();
    });
    for (const event of ['error', 'end', 'close']) socket.once(event, no);
    over.addEventListener('abort', no, { once: true });
    if (over.aborted) no();
  });
}
