/** The part of the helper (identity-helper.ts) that is about all but the network: clock, random state, names, keys, hooks. */
export const MACHINE = String.raw`# Read and written without buffers of perl's, and never emptied first: ext4 would wait for its disk at the closing.
sub text {
  my ($path) = @_;
  sysopen my $file, $path, 0 or return;
  my $text = '';
  1 while sysread $file, $text, 65536, length $text;
  return $text;
}

sub line {
  my $text = text(@_) // return;
  my $end = index $text, "\n";
  return $end < 0 ? $text : substr $text, 0, $end;
}

# What is written over keeps its mode and owner.
sub put {
  my ($path, $text) = @_;
  # O_WRONLY, O_CREAT.
  sysopen my $file, $path, 0x41 or die "$path cannot be written\n";
  (syswrite($file, $text) // -1) == length $text or die "$path cannot be written\n";
  !-f $file or -s _ == length $text or truncate $file, length $text or die "$path cannot be written\n";
}

sub in {
  my ($folder, $names) = @_;
  opendir my $listing, $folder or return;
  return map { "$folder/$_" } sort grep { !/^\./ && $_ =~ $names } readdir $listing;
}

sub runs {
  my ($pid, @names) = @_;
  return if $pid eq '' || $pid =~ tr/0-9//c;
  my $name = line("/proc/$pid/comm") // '';
  return scalar grep { $_ eq $name } @names;
}

# Gives what a script says on stdout. It is as easily killed as others when memory is short, unlike us.
sub shell {
  my ($why, @args) = @_;
  put("$home/taken.$id", '');
  my $pid = open(my $out, '-|') // die "no process can be started: $!\n";
  if (!$pid) {
    eval { put('/proc/self/oom_score_adj', 0) };
    exec '/bin/sh', '-c', @args or exit 127;
  }
  local $/;
  my $said = <$out> // '';
  close $out or die "$why\n";
  return $said;
}

sub monotonic {
  my $time = "\0" x 16;
  syscall 228, 1, $time;
  my ($seconds, $nanoseconds) = unpack 'qq', $time;
  return $seconds + $nanoseconds / 1e9;
}

# What has passed since we were told is added.
sub set_clock {
  my ($now, $heard) = @_;
  my $at = $now / 100 + monotonic() - $heard;
  my $time = pack 'qq', int $at, int(($at - int $at) * 1e9);
  syscall(227, 0, $time) == 0 or die "its clock cannot be set\n";
}

# RNDADDENTROPY and RNDRESEEDCRNG (random(4)); later the seed for the next boot is made anew too.
sub reseed {
  my ($seed) = @_;
  my $bytes = pack 'H*', $seed;
  my $entropy = pack('ii', 8 * length $bytes, length $bytes) . $bytes;
  sysopen my $random, '/dev/urandom', 2 or return;
  ioctl $random, 0x40085203, $entropy or return;
  ioctl $random, 0x5207, 0 or return;
  push @later, sub {
    for my $path (map { "/var/lib/$_/random-seed" } qw(systemd urandom misc)) {
      sysopen my $file, $path, 2 or next;
      sysread $random, my $next, 512;
      syswrite $file, $next;
    }
  };
  push @report, "reseeded yes\n";
  return 1;
}

sub run_hooks {
  my ($reason, $seconds) = @_;
  my $there;
  opendir my $listing, '/etc/hatch/after-restore.d' or return;
  while (defined(my $name = readdir $listing)) {
    my $path = "/etc/hatch/after-restore.d/$name";
    $there ||= index($name, '.') != 0 && -x $path && -f _;
  }
  return if !$there;
  # They see all of it done.
  finish();
  push @report, shell('its hooks could not be run', $hooks, 'hatch-hooks', $reason, $seconds);
}

sub set_hostname {
  my ($name) = @_;
  my $old = line('/proc/sys/kernel/hostname') // '';
  put('/proc/sys/kernel/hostname', "$name\n");
  put('/etc/hostname', "$name\n");
  rename_in_hosts($old, $name) if $old ne '' && $old !~ tr/A-Za-z0-9.-//c && index("$old.", 'localhost.') != 0;
}

# Where a name in /etc/hosts is the old one, or the old one and a domain.
sub rename_in_hosts {
  my ($old, $name) = @_;
  my $text = text('/etc/hosts') // return;
  $text .= "\n" if substr($text, -1) ne "\n";
  my $found;
  for (my $at = 0; ($at = index $text, $old, $at) >= 0;) {
    my $begin = rindex($text, "\n", $at) + 1;
    my $apart = index(" \t", substr $text, $at - 1, 1) >= 0 && index(" \t\n.", substr $text, $at + length $old, 1) >= 0;
    if ($at > $begin && $apart && substr($text, $begin, 1) ne '#') {
      substr($text, $at, length $old) = $name;
      $found = 1;
      $at += length $name;
    } else {
      $at += length $old;
    }
  }
  put('/etc/hosts', $text) if $found;
}

sub set_machine_id {
  my ($id) = @_;
  my $old = line('/etc/machine-id');
  # A guest that has none makes one when it wants it.
  put('/etc/machine-id', "$id\n") if -e '/etc/machine-id';
  put('/var/lib/dbus/machine-id', "$id\n") if -f '/var/lib/dbus/machine-id' && !-l '/var/lib/dbus/machine-id';
  return $old;
}

# The journal lies in a folder of that name, and journalctl looks nowhere else. What is written goes on in the files that are open.
sub move_journal {
  my ($old, $id) = @_;
  return if !$old;
  for my $top ('/run/log/journal', '/var/log/journal') {
    $journal_moved = 1 if -d "$top/$old" && rename "$top/$old", "$top/$id";
  }
}

# Its service manager starts it again. As systemctl would have it done, without starting that.
sub restart_journal {
  $journal_moved = 0;
  kill TERM => split ' ', text('/sys/fs/cgroup/system.slice/systemd-journald.service/cgroup.procs') // '';
}

sub set_host_keys {
  my ($hostname, %keys) = @_;
  my $made;
  for my $kind (qw(dsa ecdsa ed25519 rsa)) {
    my $key = '/etc/ssh/ssh_host_' . $kind . '_key';
    -f $key or next;
    if (my ($private, $public) = @{ $keys{$kind} // [] }) {
      put($key, "-----BEGIN OPENSSH PRIVATE KEY-----\n$private\n-----END OPENSSH PRIVATE KEY-----\n");
      put("$key.pub", "$public\n");
    } else {
      # It is asked whether it may overwrite them.
      my $make = 'echo y | ssh-keygen -q -t "$1" -N "" -C "root@$2" -f "$3" >/dev/null';
      shell("no $kind host key could be made", $make, 'hatch-keys', $kind, $hostname, $key);
    }
    $made = 1;
    push @report, 'key ' . line("$key.pub") . "\n";
  }
  return $made;
}

# sshd has read its keys when it started; at SIGHUP it starts anew, and sessions go on.
sub reload_sshd {
  my $pid = line('/run/sshd.pid') // '';
  return kill HUP => $pid if runs($pid, 'sshd');
  for my $path (in('/proc', qr/^\d+$/a)) {
    kill HUP => $1 if (line("$path/stat") // '') =~ /^(\d+) \(sshd\) [A-Z] 1 /;
  }
}
`;
