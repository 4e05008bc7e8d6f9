import { mkdir, rename, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { remove } from '../host/files.ts';
import type { Run } from '../host/run.ts';
import { invalid } from '../model/failure.ts';
import { shellQuote } from './shell.ts';
import { explain, explaining } from './tools.ts';

/** What a guest finds on its seed volume at first boot. */
export interface SeedContent {
  readonly hostname: string;
  /** cloud-init does its work once per instance id: a copy that keeps it is not set up again. */
  readonly instanceId: string;
  /** Handed on byte for byte; null: a `#cloud-config` that asks for nothing. */
  readonly userData: string | null;
  readonly sshAuthorizedKeys: readonly string[];
  readonly defaultUser: string;
}

export interface SeedSpec extends SeedContent {
  /** Absolute path of the volume to be made. */
  readonly path: string;
}

const EMPTY_USER_DATA = '#cloud-config\n{}\n';

/**
 * Makes the volume that tells cloud-init who the guest is: ISO 9660 labelled `cidata`, as the NoCloud data source wants it
 * (https://docs.cloud-init.io/en/latest/reference/datasources/nocloud.html). All of it or nothing stands at `path`
 * afterwards; made again it is written anew. Throws Failure `no_space`, `unavailable` without genisoimage, and
 * `invalid_request` for keys that are no lines.
 */
export async function makeSeed(
  { run }: { readonly run: Run },
  spec: SeedSpec,
  signal: AbortSignal,
): Promise<void> {
  const folder = join(dirname(spec.path), '.seed.tmp');
  const content = join(folder, 'content');
  const volume = join(folder, 'volume');
  const files = seedFiles(spec);
  try {
    // What a crash in here left behind, if it did: nobody else makes this VM's seed.
    await remove(folder);
    await mkdir(content, { recursive: true, mode: 0o700 });
    for (const [name, text] of Object.entries(files)) {
      await writeFile(join(content, name), text, { mode: 0o600 });
    }
    await writeFile(volume, '', { mode: 0o600 });
    await explaining(run)(
      ['genisoimage', '-quiet', '-volid', 'cidata', '-joliet', '-rock', '-output', volume, content],
      { signal },
    );
    await rename(volume, spec.path);
  } catch (error) {
    throw explain(error);
  } finally {
    await remove(folder);
  }
}

/** The seed's files by name. Throws Failure `invalid_request` for keys or a user name that cannot be written safely. */
export function seedFiles(content: SeedContent): Readonly<Record<string, string>> {
  const keys = cleanKeys(content.sshAuthorizedKeys);
  return {
    'user-data': content.userData ?? EMPTY_USER_DATA,
    'meta-data': metaData(content, keys),
    ...(keys.length > 0 ? { 'vendor-data': keysScript(content.defaultUser, keys) } : {}),
  };
}

/**
 * JSON is YAML, and nothing in it can be mistaken. The keys stand here too: cloud-init gives them to the default user
 * before sshd answers, if the user-data left it a default user; the script makes sure of it at the end. Not for root: there
 * cloud-init puts a forced "Please login as" before them.
 */
function metaData(content: SeedContent, keys: readonly string[]): string {
  const early = keys.length > 0 && content.defaultUser !== 'root';
  return (
    JSON.stringify({
      'instance-id': content.instanceId,
      'local-hostname': content.hostname,
      ...(early ? { 'public-keys': keys } : {}),
    }) + '\n'
  );
}

function cleanKeys(keys: readonly string[]): readonly string[] {
  const clean = keys.map((key) => key.trim()).filter((key) => key !== '');
  for (const key of clean) {
    if ([...key].some((char) => char < ' ' || char === '\x7f')) {
      throw invalid(
        'ssh_authorized_keys',
        'Each of ssh_authorized_keys must be one line, as in an .pub file, without control characters.',
      );
    }
  }
  return [...new Set(clean)];
}

/**
 * A vendor-data shell script: cloud-init runs it once, whatever kind of user-data there is, after that. It makes the image's
 * default user where the user-data left it out, and adds the keys that are not there.
 */
export function keysScript(user: string, keys: readonly string[]): string {
  if (!/^[a-z_][a-z0-9_-]{0,31}$/.test(user)) {
    throw invalid(
      'default_user',
      `"default_user" must be a Linux user name, such as "debian"; "${user}" is none.`,
    );
  }
  return SCRIPT.replace('@USER@', () => user).replace('@KEYS@', () =>
    keys.map((key) => `add_key ${shellQuote(key)}`).join('\n'),
  );
}

// POSIX sh and no more: guests may have dash or busybox. A key is known by its type and blob, its comment may differ; one
// with options in front only by the whole line. A locked password ('!') keeps sshd without PAM from letting a key in.
const SCRIPT = `#!/bin/sh
set -uf
user=@USER@
if ! id -u "$user" >/dev/null 2>&1; then
  shell=/bin/sh
  [ -x /bin/bash ] && shell=/bin/bash
  if [ -d /etc/sudoers.d ]; then
    (umask 0337 && echo "$user ALL=(ALL) NOPASSWD:ALL" >/etc/sudoers.d/90-hatch-default-user)
  fi
  if command -v useradd >/dev/null 2>&1; then
    useradd --create-home --shell "$shell" "$user" && usermod --password '*' "$user"
  else
    adduser -D -s "$shell" "$user" && sed -i "s/^$user:!/$user:*/" /etc/shadow
  fi
fi
group=$(id -g "$user") || exit 1
eval "home=~$user"
if [ ! -d "$home" ]; then mkdir -p "$home" && chown "$user:$group" "$home"; fi
mkdir -p "$home/.ssh" || exit 1
chmod 700 "$home/.ssh"
file=$home/.ssh/authorized_keys
touch "$file" || exit 1
chmod 600 "$file"
if [ -s "$file" ] && [ -n "$(tail -c 1 "$file")" ]; then echo >>"$file"; fi
add_key() {
  want=$1
  set -- $want
  want_type=\${1-} want_blob=\${2-}
  while IFS= read -r line; do
    [ "$line" = "$want" ] && return
    set -- $line
    case $want_blob in AAAA*) [ "\${1-} \${2-}" = "$want_type $want_blob" ] && return ;; esac
  done <"$file"
  printf '%s\\n' "$want" >>"$file"
}
@KEYS@
chown "$user:$group" "$home/.ssh" "$file"
if command -v restorecon >/dev/null 2>&1; then restorecon -R "$home/.ssh" || true; fi
`;
