import { MACHINE } from './helper-machine.ts';
import { NETWORK } from './helper-network.ts';
import { HOOKS_SCRIPT, JOIN_SCRIPT } from './identity-script.ts';

/** Where the helper of our image is heard, and where it answers. Root's alone. */
export const HELPER_FOLDER = '/run/hatch';
/** The pipe it reads. A request is an empty line, `request ID KIND`, lines as the scripts have them on stdin, and `end ID`. */
export const HELPER_PIPE = `${HELPER_FOLDER}/requests`;
/** It is there while a request is worked at that takes its time, as all do that start a program. */
export const takenFile = (id: string): string => `${HELPER_FOLDER}/taken.${id}`;
/**
 * It is there when a request is done: the exit code on a line, what the script would have said on stdout, or why not, and `end`; without
 * that it is still being written.
 */
export const reportFile = (id: string): string => `${HELPER_FOLDER}/report.${id}`;

/**
 * Does in our own image what identity-script.ts does in any guest, step by step and in the same words, but is there already: in an
 * emulated guest each program that is started costs 90 to 400 ms, and this starts none. What is rare (hooks, RSA keys, a network that
 * systemd-networkd does not look after) it leaves to the same shell.
 *
 * After a snapshot was loaded an emulator has translated nothing, so each path through perl or the kernel that is new costs milliseconds:
 * the way to the report goes by few, and what nothing sees before the next boot or before the card is up is done after it.
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
my ($id, @report);
# What is left to do when the report has been read: it is before the next request is heeded.
my @later;
# Whether the journal's daemon still writes under the name the machine had.
my $journal_moved;

${MACHINE}
${NETWORK}
sub identity {
  my ($heard, $reason, $seed, $seconds, $now, $hostname, $mac, $machine_id, @keys) = @_;
  @keys == 4 or die "too little was said\n";
  # Before the rest, since all that is drawn afterwards must be another's.
  reseed($seed) or die "its random state could not be reseeded\n";
  set_hostname($hostname);
  my $old_id = set_machine_id($machine_id);
  my $made = set_host_keys($hostname, ed25519 => [@keys[0, 1]], ecdsa => [@keys[2, 3]]);
  # Last, for others in the guest have work to do when these change.
  set_card($mac);
  set_clock($now, $heard);
  run_hooks($reason, $seconds);
  push @later, \&reload_sshd if $made;
  push @report, "done\n";
  push @later, sub { move_journal($old_id, $machine_id) };
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

sub finish {
  while (my $next = shift @later) {
    eval { $next->() };
  }
}

# The last reports are kept for whoever asks late.
my @answered;
sub answer {
  finish();
  ($id, my $kind, my @told) = @_;
  push @answered, $id;
  unlink map { ("$home/taken.$_", "$home/report.$_") } splice @answered, 0, -8;
  @report = ();
  my $done = eval { $kinds{$kind} ? $kinds{$kind}->(@told) : die "it does not know what to do\n"; 1 };
  put("$home/report.$id", $done ? join '', "0\n", @report, "end\n" : "1\n$@end\n");
}

# Anything but a request from its first line to its last is passed over, as is one that was cut off or withdrawn.
my ($request, @waiting);
sub hear {
  my ($line, $heard) = @_;
  if (index($line, 'request ') == 0) {
    my (undef, $of, $kind) = split ' ', $line;
    $request = length $of == 32 && $of !~ tr/0-9a-f//c ? [$of, $kind // '', $heard] : undef;
  } elsif ($request && $line eq "end $request->[0]") {
    push @waiting, $request;
    undef $request;
  } elsif ($request) {
    push @$request, $line;
    undef $request if @$request > 100;
  } elsif (index($line, 'withdraw ') == 0) {
    @waiting = grep { $line ne "withdraw $_->[0]" } @waiting;
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
  if (!select my $now = $readable, undef, undef, @later ? 0.1 : $journal_moved ? 10 : undef) {
    @later ? finish() : restart_journal();
    next;
  }
  sysread $requests, $pending, 65536, length $pending or die "$pipe: $!\n";
  my $heard = monotonic();
  my @lines = split /\n/, $pending, -1;
  $pending = pop @lines;
  hear($_, $heard) for @lines;
  $pending = '' if length $pending > 65536;
  while (my $next = shift @waiting) {
    answer(@$next);
  }
}
`;
