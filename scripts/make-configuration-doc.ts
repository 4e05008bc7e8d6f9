import { SETTINGS } from '../src/daemon/config.ts';
import { makePage } from './lib/made-page.ts';

/** Where the page stands. */
export const CONFIGURATION_DOC = new URL('../docs/configuration.md', import.meta.url);

/** The page that lists every setting, made from the schema that reads them: `docs/configuration.md`. */
export function configurationDoc(): string {
  const rows = Object.entries(SETTINGS).map(
    ([name, { about, fallback }]) =>
      `| \`${name}\` | ${fallback === null ? 'none' : `\`${fallback}\``} | ${cell(about)} |`,
  );
  return `# Configuration

<!-- Made from src/daemon/config.ts by scripts/make-configuration-doc.ts; change it there. -->

hatchd is configured by its environment alone. \`hatchd config\` prints every setting with its value, where that comes from and what it
means, secrets hidden; \`--json\` for programs. A name that begins with \`HATCH_\` and is none of these keeps hatchd from starting, with the
nearest one that is; so does a value that will not do, and all that is wrong is said at once.

Durations are written \`250ms\`, \`30s\`, \`5m\` or \`1h\`; networks as \`192.168.0.0/16\`; lists have commas between. "None" means that nothing
is set: the meaning says what holds then. \`<data>\` is the folder of \`HATCH_DATA_DIR\`.

| name | default | meaning |
|---|---|---|
${rows.join('\n')}

\`HATCH_URL\` and \`HATCH_API_KEY\` are for the command \`hatch\` and the client library: where the API is, and with which key. hatchd lets them
pass.
`;
}

function cell(text: string): string {
  return text.replaceAll('|', '\\|').replaceAll('<', '&lt;');
}

await makePage(import.meta.url, {
  at: CONFIGURATION_DOC,
  make: configurationDoc,
  from: 'src/daemon/config.ts',
  by: 'scripts/make-configuration-doc.ts',
});
