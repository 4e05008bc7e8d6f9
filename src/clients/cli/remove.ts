import type { Deleted } from '../../contract/common.ts';
import { print, waiting, type Context } from './context.ts';
import { UsageError } from './words.ts';

export interface RemoveOptions {
  readonly yes?: true;
  readonly force?: true;
}

/**
 * Removes one after the other, when a person at a terminal says yes to `question`; goes on when one fails, and then ends with the
 * first failure.
 */
export async function removeAll(
  context: Context,
  names: readonly string[],
  options: RemoveOptions,
  { question, remove }: { readonly question: string; readonly remove: (name: string) => Promise<Deleted> },
): Promise<undefined> {
  const { io, json } = context;
  if (io.terminal.stdin && io.terminal.stdout && !json && !options.yes && !options.force) {
    const answer = await io.ask(`${question} [y/N] `);
    if (!/^y(es)?$/i.test(answer.trim())) throw new UsageError('Nothing was removed.');
  }
  const failures: unknown[] = [];
  for (const name of names) {
    try {
      const gone = await waiting(context, `Removing ${name}`, remove(name));
      print(context, gone, () => `Removed ${name}.`);
    } catch (error) {
      failures.push(error);
      if (names.length > 1) io.err(`${name}: ${error instanceof Error ? error.message : String(error)}\n`);
    }
  }
  if (failures.length > 0) throw failures[0];
  return undefined;
}
