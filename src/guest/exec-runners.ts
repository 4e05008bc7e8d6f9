/**
 * What runs a command in the guest. The agent reports an exit only when nobody holds the outputs it captures any more, and gives no
 * time limit. So the program writes into pipes of the runner's, which keeps a little over 1 MiB of each and swallows the rest for as
 * long as anyone holds them. When the program itself has ended, the runner takes what is in the pipes, prints what it kept and then, on
 * stderr, a line with the nonce, the exit code and whether the time was over.
 *
 * At the end of its time everything in the program's control group dies (cgroup v2, cgroup.kill, Linux 5.14), and everything
 * in its session: that is all there is without such a group.
 *
 * There are two, of the same manners. Every program that is started costs an emulated guest 50 to 100 ms: the one in perl starts none but
 * itself and the command, the one in sh some twelve.
 */

/**
 * For guests with perl, any since 5.8: `NONCE SECONDS CWD COUNT [K=V...] PROGRAM ARG...`. Core perl alone, since each module is another
 * file to be found and compiled; that is why strict is left to the tests.
 */
export const PERL_RUNNER = String.raw`
my ($nonce, $seconds, $cwd, $count, @argv) = @ARGV;
my @env = splice @argv, 0, $count;
my $most = 1056768;
open my $uptime, '<', '/proc/uptime';
sub now {
  return time unless $uptime && seek $uptime, 0, 0;
  return (split ' ', <$uptime>)[0];
}
sub put {
  my ($path, $text) = @_;
  open my $file, '>', $path or return;
  print $file $text;
  return close $file;
}

my $end = now() + $seconds;
my $groups = '/sys/fs/cgroup/hatch-exec';
my $group = -f '/sys/fs/cgroup/cgroup.controllers' ? "$groups/$nonce" : '';
# Those whose last process ended after its runner did.
if ($group && opendir my $dir, $groups) {
  rmdir "$groups/$_" for grep { length == 24 } readdir $dir;
}
pipe my $out, my $out_end or die "no pipe: $!\n";
pipe my $err, my $err_end or die "no pipe: $!\n";
defined(my $main = fork) or die "no process: $!\n";
if (!$main) {
  open STDOUT, '>&', $out_end;
  open STDERR, '>&', $err_end;
  # Again, if another runner tidied the group away before anyone was in it.
  for my $try ($group ? 1 .. 3 : ()) {
    mkdir $groups;
    mkdir $group;
    last if put("$group/cgroup.procs", 0);
  }
  # setsid(2) by the machine that perl was built for: i386, x86_64, aarch64, riscv64.
  my $elf = '';
  sysread $elf, $elf, 20 if open $elf, '<', '/proc/self/exe';
  my $setsid = { 3 => 66, 62 => 112, 183 => 157, 243 => 157 }->{length $elf == 20 ? unpack 'x18v', $elf : 0};
  $setsid && syscall($setsid) >= 0 or setpgrp 0, 0;
  if (!chdir $cwd) {
    print STDERR "cd: $cwd: $!\n";
    exit 126;
  }
  delete @ENV{qw(INVOCATION_ID JOURNAL_STREAM NOTIFY_SOCKET SYSTEMD_EXEC_PID)};
  $ENV{HOME} = '/root' if !length($ENV{HOME} // '');
  $ENV{PATH} = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin' if !length($ENV{PATH} // '');
  for (@env) {
    my ($name, $value) = split /=/, $_, 2;
    $ENV{$name} = $value;
  }
  exec { $argv[0] } @argv;
  my $missing = $! == 2;
  print STDERR "$argv[0]: $!\n";
  exit($missing ? 127 : 126);
}
close $out_end;
close $err_end;
open STDIN, '<', '/dev/null';

my @pipes = ([$out, ''], [$err, '']);
# Takes what is there of a pipe; gives how much.
sub take {
  my ($pipe) = @_;
  my $count = sysread $pipe->[0], my $bytes, 65536;
  if (!$count) {
    $pipe->[0] = undef if defined $count;
    return 0;
  }
  my $room = $most - length $pipe->[1];
  $pipe->[1] .= $room < $count ? substr $bytes, 0, $room : $bytes if $room > 0;
  return $count;
}
# Waits for so many seconds, or for ever; gives the pipes that can be read.
sub readable {
  my ($wait, @more) = @_;
  my $bits = '';
  vec($bits, $_, 1) = 1 for @more, map { fileno $_->[0] } grep { $_->[0] } @pipes;
  return () if select($bits, undef, undef, $wait) <= 0;
  return grep { $_->[0] && vec $bits, fileno $_->[0], 1 } @pipes;
}
sub kill_all {
  put("$group/cgroup.kill", 1) if $group;
  kill KILL => $main, -$main;
  for my $round (1 .. 8) {
    my @found;
    opendir my $proc, '/proc' or return;
    for my $pid (grep { !/\D/ } readdir $proc) {
      open my $stat, '<', "/proc/$pid/stat" or next;
      my ($state, undef, undef, $session) = split ' ', (join('', <$stat>) =~ /.*\) (.*)/s)[0];
      push @found, $pid if $session == $main && $state ne 'Z';
    }
    return if !@found;
    kill KILL => @found;
  }
}

# pidfd_open(2), which has this number everywhere; before Linux 5.3 it is looked for every so often.
my $pidfd = syscall 434, $main, 0;
my ($over, $code) = (0);
while (!defined $code) {
  my $left = $end - now();
  if ($left <= 0) {
    $over = 1;
    kill_all();
    waitpid $main, 0;
    $code = $?;
  } else {
    take($_) for $pidfd < 0 ? readable($left < 0.05 ? $left : 0.05) : readable($left, $pidfd);
    # WNOHANG.
    $code = $? if waitpid($main, 1) == $main;
  }
}
$code = $code & 127 ? 128 + ($code & 127) : $code >> 8;
# What it had said when it ended; a child that goes on saying is not waited for.
my $taken = 0;
while ($taken < 1048576 and my @ready = readable(0)) {
  $taken += take($_) for @ready;
}
rmdir $group if $group;
if (grep { $_->[0] } @pipes) {
  my $pid = fork;
  if (defined $pid && !$pid) {
    open STDOUT, '>', '/dev/null';
    open STDERR, '>', '/dev/null';
    $_->[1] = '' for @pipes;
    $most = 0;
    while (grep { $_->[0] } @pipes) {
      take($_) for readable(undef);
    }
    exit;
  }
}
print STDOUT $pipes[0][1];
print STDERR $pipes[1][1], "\n$nonce $code $over\n";
`;

/** For any other guest, in any POSIX sh; its arguments are those of the other. A reader that sleeps has emptied its pipe. */
export const SH_RUNNER = `
nonce=$1 seconds=$2
shift 2
exec 3<&0 5>&2 </dev/null 2>/dev/null
unset INVOCATION_ID JOURNAL_STREAM NOTIFY_SOCKET SYSTEMD_EXEC_PID
export HOME="\${HOME:-/root}" PATH="\${PATH:-/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin}"
groups=/sys/fs/cgroup/hatch-exec cg=
if [ -f /sys/fs/cgroup/cgroup.controllers ]; then
  for old in "$groups"/*/; do [ -d "$old" ] && rmdir "$old"; done
  cg=$groups/$nonce
fi
for top in /dev/shm /run /tmp; do
  d=$top/hatch-exec.$nonce
  mkdir -m 700 "$d" && break
done
mkfifo "$d/out.pipe" "$d/err.pipe" || { echo 'no folder to keep the output in' >&5; exit 1; }
hatch_setsid=$(command -v setsid)

keep() {
  exec 4<"$d/$1.pipe"
  (trap '' XFSZ; ulimit -f 2064; exec cat <&4 >"$d/$1") &
  echo $! >"$d/$1.pid"
  wait $!
  exec cat <&4 >/dev/null
}
settle() {
  asleep=0
  while [ $asleep -lt 2 ]; do
    pid=
    read -r pid <"$d/$1.pid"
    if [ "$pid" ]; then
      state=
      IFS= read -r state <"/proc/$pid/stat"
      case \${state##*) } in
        '' | Z*) return ;;
        S*) asleep=$((asleep + 1)) ;;
        *) asleep=0 ;;
      esac
    fi
    sleep 0.01 || sleep 1
  done
}
kill_all() {
  [ "$cg" ] && echo 1 >"$cg/cgroup.kill"
  kill -KILL "$main"
  for round in 1 2 3 4 5 6 7 8; do
    found=
    for file in /proc/[0-9]*/stat; do
      state=
      IFS= read -r state <"$file"
      set -- \${state##*) }
      [ "\${4-}" = "$main" ] && [ "$1" != Z ] || continue
      pid=\${file#/proc/}
      kill -KILL "\${pid%/stat}"
      found=1
    done
    [ "$found" ] || return
  done
}
watch() {
  trap 'kill "$nap"; exit' TERM
  sleep "$seconds" &
  nap=$!
  # One that takes whole seconds only.
  wait "$nap" || sleep "$((\${seconds%.*} + 1))"
  : >"$d/over"
  kill_all
}

: >"$d/out"
: >"$d/err"
# In brackets: a function's redirections keep the old outputs open beside the new, and the agent would wait for them.
(keep out) 3<&- 5>&- >/dev/null 2>&1 &
(keep err) 3<&- 5>&- >/dev/null 2>&1 &
(
  # Again, if another runner tidied the group away before anyone was in it.
  for try in 1 2 3; do
    [ "$cg" ] && mkdir -p "$cg" && echo 0 >"$cg/cgroup.procs" && break
  done 2>/dev/null
  cd "$1" || exit 126
  hatch_left=$2
  shift 2
  while [ $hatch_left -gt 0 ]; do
    export "$1"
    shift
    hatch_left=$((hatch_left - 1))
  done
  exec $hatch_setsid "$@"
) <&3 3<&- 5>&- >"$d/out.pipe" 2>"$d/err.pipe" &
main=$!
exec 3<&-
(watch) 5>&- >/dev/null 2>&1 &
dog=$!
wait "$main"
code=$?
[ -e "$d/over" ] || kill "$dog"
wait "$dog"
settle out
settle err
over=0
[ -e "$d/over" ] && over=1
[ -s "$d/out" ] && cat "$d/out"
[ -s "$d/err" ] && cat "$d/err" >&5
printf '\\n%s %s %s\\n' "$nonce" "$code" "$over" >&5
[ "$cg" ] && rmdir "$cg"
rm -rf "$d"
`;
