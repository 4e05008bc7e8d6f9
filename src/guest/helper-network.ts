/** The part of the helper (identity-helper.ts) that is about the network card: its address, and who looks after it. */
export const NETWORK = String.raw`# The first with a device behind it.
sub card {
  for my $path (in('/sys/class/net', qr/./)) {
    return $path =~ s{.*/}{}r if -e "$path/device" && (line("$path/type") // '') eq '1';
  }
  return;
}

# SIOCGIFFLAGS, SIOCSIFFLAGS (netdevice(7)); IFF_UP is the lowest bit.
sub set_up {
  my ($card, $up) = @_;
  socket my $any, 2, 2, 0 or return;
  my $request = pack 'a16 x24', $card;
  ioctl $any, 0x8913, $request or return;
  my $flags = unpack 'x16 S', $request;
  $request = pack 'a16 S x22', $card, $flags & ~1 | $up;
  return ioctl $any, 0x8914, $request;
}

# As ip address flush does it (rtnetlink(7)): each that RTM_GETADDR tells of is said again with RTM_DELADDR.
sub flush_addresses {
  my ($index) = @_;
  socket my $route, 16, 3, 0 or return;
  send $route, pack('LSSLL x8', 24, 22, 0x301, 1, 0), 0 or return;
  my @found;
  for (my $done; !$done;) {
    defined recv $route, my $said, 65536, 0 or return;
    while (length $said >= 16) {
      my ($length, $type) = unpack 'LS', $said;
      $done = 1 if $type == 2 || $type == 3 || $length < 16;
      push @found, substr $said, 0, $length if $type == 20 && $index == unpack 'x20 L', $said;
      $said = $done ? '' : substr $said, $length + 3 & ~3;
    }
  }
  send $route, pack('LSS', length, 21, 1) . substr($_, 8), 0 for @found;
}

# DHCP clients that would go on with the old lease; systemd-networkd and NetworkManager drop theirs when the card goes down.
sub forget_lease {
  for my $file (in('/run', qr/^(?:dhclient|dhcpcd|udhcpc).*\.pid$/), in('/run/dhcpcd', qr/\.pid$/)) {
    my $pid = line($file) // '';
    kill KILL => $pid if $pid =~ /^\d+$/a && runs($pid, 'dhclient|dhcpcd|udhcpc');
  }
  unlink in('/var/lib/dhcp', qr/^dhclient.*\.lease/), map { in("/var/lib/$_", qr/\.lease/) } qw(dhclient dhcpcd NetworkManager);
}

# Where configuration is found by the card's address, it must find it after the next boot.
sub rename_mac {
  my ($old, $mac) = @_;
  my @files = ('/etc/network/interfaces', in('/etc/netplan', qr/\.yaml$/), in('/etc/udev/rules.d', qr/net/));
  push @files, in($_, qr/./) for '/etc/systemd/network', '/run/systemd/network', '/etc/network/interfaces.d',
    '/etc/NetworkManager/system-connections';
  for my $file (@files) {
    -f $file && !-l $file or next;
    my $text = text($file) // '';
    put($file, $text) if $text =~ s/\Q$old\E/$mac/gi;
  }
}

sub set_card {
  my ($mac) = @_;
  my $card = card();
  if (!defined $card) {
    die "it has no network card\n" if $mac ne '';
    return;
  }
  return if $mac eq '';
  my $of = "/sys/class/net/$card";
  my $old = line("$of/address");
  forget_lease();
  flush_addresses(line("$of/ifindex"));
  set_up($card, 0);
  # SIOCSIFHWADDR, ARPHRD_ETHER.
  socket my $any, 2, 2, 0;
  my $request = pack 'a16 S H12 x16', $card, 1, $mac =~ s/://gr;
  ioctl $any, 0x8924, $request;
  line("$of/address") eq $mac or die "the network card does not take another address\n";
  rename_mac($old, $mac);
}

# A message of D-Bus (its specification, "Message Protocol"): a header of fields, each at a multiple of eight, and a body.
sub message {
  my ($serial, $body, @fields) = @_;
  my $header = '';
  while (my ($code, $type, $value) = splice @fields, 0, 3) {
    $header .= "\0" x (-length($header) % 8) . pack 'C C a x', $code, 1, $type;
    $header .= $type eq 'g' ? pack 'C/a* x', $value : pack 'V/a* x', $value;
  }
  return pack('a C3 V3', 'l', 1, 0, 1, length $body, $serial, length $header) . $header . "\0" x (-length($header) % 8) . $body;
}

# As networkctl reconfigure, without starting it. Gives whether systemd-networkd says that it does so.
sub reconfigure {
  my ($index) = @_;
  socket my $bus, 1, 1, 0 or return;
  connect $bus, pack 'S a*', 1, "/run/dbus/system_bus_socket\0" or return;
  my @bus = (6, 's', 'org.freedesktop.DBus', 1, 'o', '/org/freedesktop/DBus', 2, 's', 'org.freedesktop.DBus');
  my @networkd = (6, 's', 'org.freedesktop.network1', 1, 'o', '/org/freedesktop/network1', 2, 's', 'org.freedesktop.network1.Manager');
  my $hello = message(1, '', @bus, 3, 's', 'Hello');
  my $call = message(2, pack('l', $index), @networkd, 3, 's', 'ReconfigureLink', 8, 'g', 'i');
  syswrite $bus, "\0AUTH EXTERNAL 30\r\nBEGIN\r\n$hello$call" or return;
  my $said = '';
  vec(my $readable = '', fileno $bus, 1) = 1;
  while (select(my $now = $readable, undef, undef, 5) > 0) {
    sysread $bus, $said, 65536, length $said or return;
    $said =~ s/^.*?\n// or next if $said !~ /^l/;
    # Replies name the serial they are for (field 5); type 2 is a return, 3 an error.
    while ($said =~ /^l(.)/s && length $said >= 16) {
      my ($body, undef, $fields) = unpack 'x4 V3', $said;
      my $whole = 16 + ($fields + 7 & ~7) + $body;
      last if length $said < $whole;
      my $one = substr $said, 0, $whole, '';
      return ord $1 == 2 if index($one, pack 'C C a x V', 5, 1, 'u', 2) >= 0;
    }
  }
  return;
}

sub join_network {
  my $card = card() // die "it has no network card\n";
  my $index = line("/sys/class/net/$card/ifindex");
  my $managed = text("/run/systemd/netif/links/$index") // '';
  if ($managed =~ /^ADMIN_STATE=(?!unmanaged$)/m && reconfigure($index)) {
    set_up($card, 1) or die "the network card cannot be brought up\n";
  } else {
    shell('the network card cannot be brought up', $join, 'hatch-join');
  }
}
`;
