import { launchHere, type Launched } from './launch.ts';
import type { FromLauncher, ToLauncher } from './launcher-process.ts';

/** The program of a process that starts others for the daemon (launcher-process.ts). It ends when the daemon does. */
function main(): void {
  const started = new Map<number, Launched>();
  process.on('message', (message) => {
    const said = message as ToLauncher;
    if ('kill' in said) return started.get(said.id)?.kill();
    if ('rest' in said) return started.get(said.id)?.giveRest(said.rest);
    const { id } = said;
    const tell = (heard: FromLauncher['heard']): void => {
      if (heard.kind === 'failed' || heard.kind === 'close') started.delete(id);
      if (process.connected) process.send?.({ id, heard } satisfies FromLauncher);
    };
    started.set(id, launchHere(said.launch, tell));
  });
  process.on('disconnect', () => process.exit(0));
}

// Who imports it only wants it compiled.
if (import.meta.main) main();
