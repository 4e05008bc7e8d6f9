import { MACHINE } from './helper-machine.ts';
import { NETWORK } from './helper-network.ts';
import { HOOKS_SCRIPT, JOIN_SCRIPT } from './identity-script.ts';

/** Where the helper of our image is heard, and where it answers. Root's alone. */
export const HELPER_FOLDER = '/run/hatch';
/** The pipe it reads. A request is an empty line, `request ID KIND`, lines as the scripts have them on stdin, and `end ID`. */
export const HELPER_PIPE = `${HELPER_FOLDER}/requests`;
/** It is there from the moment a request is taken. */
export const takenFile = (id: string): string => `${HELPER_FOLDER}/taken.${id}`;
/** It is there when a request is done: the exit code on a line, then what the script would have said on stdout, or why not. */
export const reportFile = (id: string): string => `${HELPER_FOLDER}/report.${id}`;

/**
 * Does in our own image what identity-script.ts does in any guest, step by step and in the same words, but is there already: in an
 * emulated guest each program that is started costs 90 to 400 ms, and this starts none. What is rare (hooks, RSA keys, a network that
 * systemd-networkd does not look after) it leaves to the same shell.
 *
 * Core perl alone, since each module costs memory in every guest; numbers are those of Linux on x86_64. It survives being saved and
 * loaded at any time: it keeps nothing but the requests it has read. Killed, it is started anew with an empty folder.
 */
export const IDENTITY_HELPER = String.raw`#!/usr/bin/perl
# Makes this machine somebody else when it comes out of a snapshot as a copy, and tells it the time when it was woken.
use strict;
umask 022;
chdir '/';

my $home = '${HELPER_FOLDER}';
my $pipe = '${HELPER_PIPE}';
my $hooks = <<'END_OF_SCRIPT';
${HOOKS_SCRIPT}END_OF_SCRIPT
my $join = <<'END_OF_SCRIPT';
${JOIN_SCRIPT}END_OF_SCRIPT
my @report;
# Whether the journal's daemon still writes under the name the machine had.
my $journal_moved;

${MACHINE}
${NETWORK}
sub identity {
  my ($heard, $reason, $seed, $seconds, $now, $hostname, $mac, $id, @keys) = @_;
  @keys == 4 or die "too little was said\n";
  # Before the rest, since all that is drawn afterwards must be another's.
  reseed($seed) or die "its random state could not be reseeded\n";
  set_hostname($hostname);
  my $old_id = set_machine_id($id);
  my $made = set_host_keys($hostname, ed25519 => [@keys[0, 1]], ecdsa => [@keys[2, 3]]);
  # Last, for others in the guest have work to do when these change.
  set_card($mac);
  set_clock($now, $heard);
  run_hooks($reason, $seconds);
  reload_sshd() if $made;
  push @report, "done\n";
  move_journal($old_id, $id);
}

sub refresh {
  my (undef, $reason, $seed, $seconds) = @_;
  defined $seconds or die "too little was said\n";
  reseed($seed) or push @report, "reseeded no\n";
  run_hooks($reason, $seconds);
  push @report, "done\n";
}

my %kinds = (
  identity => \&identity,
  refresh => \&refresh,
  join => \&join_network,
  clock => sub { set_clock($_[1], $_[0]) },
);

# Its report is there whole or not at all, and names the request. The last ones are kept for whoever asks late.
my @answered;
sub answer {
  my ($id, $kind, @told) = @_;
  push @answered, $id;
  unlink map { ("$home/taken.$_", "$home/report.$_") } splice @answered, 0, -8;
  put("$home/taken.$id", '');
  @report = ();
  my $done = eval { $kinds{$kind} ? $kinds{$kind}->(@told) : die "it does not know what to do\n"; 1 };
  put("$home/.report", $done ? join '', "0\n", @report : "1\n$@");
  rename "$home/.report", "$home/report.$id" or die "no report could be given: $!\n";
}

# Anything but a request from its first line to its last is passed over, as is one that was cut off or withdrawn.
my ($request, @waiting);
sub hear {
  my ($line, $heard) = @_;
  if ($line =~ /^request ([0-9a-f]{32}) (\w+)$/a) {
    $request = [$1, $2, $heard];
  } elsif ($line =~ /^withdraw ([0-9a-f]{32})$/) {
    @waiting = grep { $_->[0] ne $1 } @waiting;
  } elsif ($request && $line eq "end $request->[0]") {
    push @waiting, $request;
    undef $request;
  } elsif ($request) {
    push @$request, $line;
    undef $request if @$request > 100;
  }
}

mkdir $home, 0700;
unlink $pipe, in($home, qr/^(?:taken|report)\./);
# mknod(2) of a FIFO.
syscall(133, $pipe, 010600, 0) == 0 or die "$pipe: $!\n";
# For writing too: there is never an end of it, and who opens it for both is never kept waiting.
sysopen my $requests, $pipe, 2 or die "$pipe: $!\n";
vec(my $readable = '', fileno $requests, 1) = 1;
my $pending = '';
for (;;) {
  # The journal's daemon starts anew once the copy has had time to take its address.
  if (!select my $now = $readable, undef, undef, $journal_moved ? 10 : undef) {
    restart_journal();
    next;
  }
  sysread $requests, $pending, 65536, length $pending or die "$pipe: $!\n";
  my $heard = monotonic();
  hear($1, $heard) while $pending =~ s/^(.*)\n//;
  $pending = '' if length $pending > 65536;
  while (my $next = shift @waiting) {
    answer(@$next);
  }
}
`;
