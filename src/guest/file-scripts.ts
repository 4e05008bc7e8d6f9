import type { GuestProgram } from './agent.ts';

/**
 * What is done to a file in the guest beside moving its bytes, in any POSIX sh with stat, chmod, chown, mv and rm, those of GNU or busybox.
 * Each is one program for the agent, for those cost an emulated guest most. Where a link leads is where the file is; what they say begins
 * with a word:
 *
 * - `missing`, `folder`, `other` (a device, a pipe or a socket): what the path names is no file;
 * - `no-folder`: nor is there the folder it would lie in;
 * - `refused`, and why in the guest's words;
 * - `nobody`, and why: there is no such owner or group;
 * - else as the functions below have it.
 */
const PREAMBLE = `
export LC_ALL=C PATH="\${PATH:-/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin}"
p=$1
if [ -L "$p" ]; then
  # The mark keeps line breaks at the end of a name.
  r=$(readlink -f "$p" && echo /) || { echo missing; exit; }
  p=\${r%??}
fi
d=\${p%/*}
d=\${d:-/}
t=\${d%/}/.hatch-file.$2
say() {
  echo "$1"
  echo "$2"
  exit
}
`;

/** Says \`file\`, then mode in octal, size, uid, gid, and seconds since 1970 of its last change. */
const LOOK = `${PREAMBLE}
[ -e "$p" ] || say missing
[ -d "$p" ] && say folder
[ -f "$p" ] || say other
e=$(stat -c 'file %a %s %u %g %Y' "$p" 2>&1) && say "$e"
say refused "$e"
`;

/**
 * Makes the file beside the target that is written to, root's alone until it has an owner; it takes that of the target unless told. Says
 * \`made\`, the mode the target has or none, and on a line of its own where the file lies. Those that others left a day ago go.
 */
const MAKE = `${PREAMBLE}
owner=$3 group=$4 parents=$5
[ -d "$p" ] && say folder
[ -e "$p" ] && [ ! -f "$p" ] && say other
if [ ! -d "$d" ]; then
  [ -e "$d" ] && say refused "$d: Not a directory"
  [ "$parents" ] || say no-folder
  e=$(umask 022; mkdir -p "$d" 2>&1) || say refused "$e"
fi
set -- "\${d%/}"/.hatch-file.*
[ -f "$1" ] && find "$@" -prune -type f -mmin +1440 -exec rm -f {} + 2>/dev/null
e=$( (umask 077; set -C; : >"$t") 2>&1) || say refused "$e"
mode=
if [ -f "$p" ]; then
  s=$(stat -c '%a %u %g' "$p" 2>&1) || { rm -f "$t"; say refused "$s"; }
  mode=\${s%% *} s=\${s#* }
  owner=\${owner:-\${s%% *}} group=\${group:-\${s#* }}
fi
if [ "$owner$group" ]; then
  e=$(chown "$owner\${group:+:$group}" "$t" 2>&1) || {
    rm -f "$t"
    case $e in *'invalid '* | *'unknown '*) say nobody "$e" ;; esac
    say refused "$e"
  }
fi
say "made $mode" "$t"
`;

/** Puts what was written in the target's place. Says as LOOK what is there now. */
const PLACE = `${PREAMBLE}
e=$(chmod "$3" "$t" 2>&1) || say refused "$e"
e=$(sync "$t" 2>&1 || sync 2>&1) || say refused "$e"
[ -d "$p" ] && say folder
e=$(mv -f "$t" "$p" 2>&1) || say refused "$e"
e=$(stat -c 'file %a %s %u %g %Y' "$p" 2>&1) && say "$e"
say refused "$e"
`;

/** Removes what was written. */
const DROP = `${PREAMBLE}
rm -f "$t"
`;

/** How long the guest has, in milliseconds; to write down a large file it may need minutes. */
const SOON_MS = 60_000;
const SYNC_MS = 600_000;

const program = (name: string, script: string, args: readonly string[], timeoutMs: number): GuestProgram => ({
  argv: ['sh', '-c', script, name, ...args],
  stdin: null,
  timeoutMs,
});

/** What of a guest's file is told and asked before and after its bytes are moved; `nonce` names the one upload. */
export const fileScript = {
  look: (path: string): GuestProgram => program('hatch-file-look', LOOK, [path], SOON_MS),
  make: (
    path: string,
    nonce: string,
    { owner, group, parents }: { readonly owner: string; readonly group: string; readonly parents: boolean },
  ): GuestProgram =>
    program('hatch-file-make', MAKE, [path, nonce, owner, group, parents ? 'parents' : ''], SOON_MS),
  /** `mode` in octal. */
  place: (path: string, nonce: string, mode: string): GuestProgram =>
    program('hatch-file-place', PLACE, [path, nonce, mode], SYNC_MS),
  drop: (path: string, nonce: string): GuestProgram =>
    program('hatch-file-drop', DROP, [path, nonce], SOON_MS),
};
