import { readConfig, BadConfig } from './config.ts';
import { CHECKS } from './doctor-checks.ts';
import type { Finding } from './doctor-finding.ts';
import { dataFolder } from './data-folder.ts';

/**
 * Looks at what this machine needs to run guests and says, in a sentence each, what is missing and what to do. Changes
 * nothing. Exit code 0: guests can run; 1: something fails.
 */
export async function doctorCommand(
  env: Readonly<Record<string, string | undefined>>,
  json: boolean,
): Promise<number> {
  const findings = await examine(env);
  const failed = findings.some((one) => one.verdict === 'fail');
  process.stdout.write(
    json ? `${JSON.stringify({ ok: !failed, findings }, null, 2)}\n` : asText(findings, failed),
  );
  return failed ? 1 : 0;
}

/** Everything that was found. Where the configuration is wrong there is no more to look at. */
export async function examine(
  env: Readonly<Record<string, string | undefined>>,
): Promise<readonly Finding[]> {
  let values;
  try {
    values = readConfig(env).values;
  } catch (error) {
    if (!(error instanceof BadConfig)) throw error;
    return error.problems.map((message) => ({ check: 'config', verdict: 'fail', message }));
  }
  const data = dataFolder(values.HATCH_DATA_DIR);
  const findings: Finding[] = [];
  for (const [check, look] of Object.entries(CHECKS)) {
    try {
      findings.push(...(await look(values, data)).map((found) => ({ check, ...found })));
    } catch (error) {
      const message = error instanceof Error ? error.message : String(error);
      findings.push({ check, verdict: 'fail', message });
    }
  }
  return findings;
}

function asText(findings: readonly Finding[], failed: boolean): string {
  const words = { ok: ' ok ', warn: 'warn', fail: 'FAIL' };
  const lines = findings.map(
    ({ check, verdict, message }) => `${words[verdict]}  ${check.padEnd(11)} ${message}\n`,
  );
  const end = failed ? 'This is not ready for guests: see FAIL above.' : 'Guests can run here.';
  return `${lines.join('')}\n${end}\n`;
}
